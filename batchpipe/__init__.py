"""batchpipe: a table of prompts answered by a language model as one planned offline batch."""

__version__ = "0.1.0"
