"""From a dataset to a run: the network, its training loop and what they leave behind."""
