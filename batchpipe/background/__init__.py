"""A run in a process of its own that outlives whoever started it; the run directory names it."""
