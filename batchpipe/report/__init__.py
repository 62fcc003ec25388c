"""One self-contained HTML page about a run: what it found, and how it looks."""
