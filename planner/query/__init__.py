"""The query plan of a workflow: what to compute for which rows, made smaller before it runs."""
