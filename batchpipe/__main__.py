"""``python -m batchpipe`` is the command ``batchpipe``."""

from batchpipe.cli import main

if __name__ == "__main__":
    main()
