"""Hours on end with faults on order, and whether anything grows meanwhile: memory, open handles, threads."""
