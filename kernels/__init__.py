"""Attention over paged, prefix-shared KV: a plain reference and the fast paths held against it."""
