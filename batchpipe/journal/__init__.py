"""The run directory: what was asked, and every result as soon as it is known."""
