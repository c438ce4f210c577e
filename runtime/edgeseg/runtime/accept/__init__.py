"""`edgeseg accept`: everything that a device must show before it is trusted with a camera, one line each.

What is checked stands in `checks.CHECKS`, in order; `subject` finds out whether this is a device at all; `trial` is
what the checks share; `page` writes the outcome for a bug report.
"""
