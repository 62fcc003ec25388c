"""Forms every step within memory: for the engine and for the dry run."""
