"""Many devices: which there are, how they are reached, and in what order a release gets to them."""
