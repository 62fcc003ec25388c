"""The loop of a workflow: rows, levels and models in memory, and who waits for whom."""
