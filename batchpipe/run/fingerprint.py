"""What a run is of: two runs with the same fingerprint have the same results."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import batchpipe
from batchpipe.config import JobOptions
from batchpipe.rows.source import Rows

# Options that change how long a run takes, not what it answers.
WITHOUT_EFFECT = (
    "input",
    "kv_memory",
    "order",
    "device",
    "trust_remote_code",
    "machine",
    "price_per_hour",
)


def fingerprint(options: JobOptions, rows: Rows, dtype: str) -> dict[str, Any]:
    """Named parts, each a plain value, so that a difference can be told by its name."""
    parts = asdict(options)
    for name in WITHOUT_EFFECT:
        del parts[name]
    parts["dtype"] = dtype
    parts["batchpipe"] = batchpipe.__version__
    parts["rows"] = len(rows)
    parts["input"] = _rows_digest(rows)
    parts["model_files"] = _model_files(options.model)
    return dict(json.loads(json.dumps(parts)))


def _rows_digest(rows: Rows) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for ordinal in range(len(rows)):
        digest.update("\0".join(map(str, rows.identity(ordinal))).encode())
    return digest.hexdigest()


def _model_files(model: str) -> dict[str, int] | None:
    """Names and sizes of a local model's files; None for a hub id, which its revision names."""
    folder = Path(model)
    if not folder.is_dir():
        return None
    return {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.is_file()}
