"""From the fp32 graph to its lower precisions: one calibration, two placements of Q/DQ, a gate of measured points."""
