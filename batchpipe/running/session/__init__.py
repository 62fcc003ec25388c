"""What one process does for a run, kept in a small file for the report."""
