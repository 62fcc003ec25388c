"""Which model it is: the same name, or the same folder, may hold other weights next week."""

from __future__ import annotations

import os
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

# What a model is made of; a changed README is no changed model.
SUFFIXES = {".json", ".safetensors", ".bin", ".model", ".txt", ".jinja", ".tiktoken", ".py"}
WHOLE_BYTES = 16 << 20  # tokenizers and configurations are read whole
SAMPLES = 1024  # of a larger file: every 5 MB of a 5 GB shard, less than any weight matrix there
SAMPLE_BYTES = 4096


def model_identity(model: str, config: Any) -> dict[str, str]:
    """What tells this model from another under its name, by file; a hub model has its commit.

    Large files are told by their size and by samples over all of their length, which any other
    training changes: 4 MB are read of each, however large it is.
    """
    folder = Path(model)
    if not folder.is_dir():
        return {"commit": str(getattr(config, "_commit_hash", None))}
    files = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES and path.is_file())
    return {path.name: _digest(path) for path in files}


def _digest(path: Path) -> str:
    size = path.stat().st_size
    digest = blake2b(str(size).encode(), digest_size=16)
    with path.open("rb") as stream:
        if size <= WHOLE_BYTES:
            digest.update(stream.read())
        else:
            last = max(0, size - SAMPLE_BYTES)
            for place in np.linspace(0, last, SAMPLES).astype(np.int64).tolist():
                stream.seek(place, os.SEEK_SET)
                digest.update(stream.read(SAMPLE_BYTES))
    return digest.hexdigest()
