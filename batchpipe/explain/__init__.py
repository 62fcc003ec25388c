"""EXPLAIN: what a job would compute, share, need and cost, before it runs."""
