"""What a device needs: the contract, bundles, the live pipeline and its backends, datasets and their scores.

Imports the standard library, numpy, OpenCV and small pure-Python libraries; each backend imports its own engine
only when it is asked for. Nothing here imports torch.
"""
