"""Other systems' packages, each imported by the one file that is named after it."""
