"""How fast a network could at best be on a device that is not at hand: a lower bound from public figures.

Never a measurement, and never a promise: real latencies are some times longer. See docs/predict.md for by how much.
"""
