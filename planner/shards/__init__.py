"""A plan for several workers: cut into shards, dealt out, and passed on while the workers run."""
