"""batchpipe from Python: its names are those of the package itself, ``import batchpipe as bp``.

Nothing here loads torch or transformers before a model is opened.
"""
