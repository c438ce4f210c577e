"""A root file system that is a device from its first boot on, and the card to write it to."""
