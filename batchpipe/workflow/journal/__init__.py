"""What a workflow's run has on disk: every outcome, what it is of, and its results."""
