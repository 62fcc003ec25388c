"""Which prompts begin alike: the prefix tree and what is built on it."""
