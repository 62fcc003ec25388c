"""What a change of a job makes of the answers that a run has."""
