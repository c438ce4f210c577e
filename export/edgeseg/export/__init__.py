"""From a run to a bundle: the graph with its pre- and postprocessing, checked against the network it came from."""
