"""Workflows: models, queries and tools over a table, planned and run as one batch."""
