"""What a run is of: two runs with the same fingerprint have the same results."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from hashlib import blake2b
from typing import Any

import batchpipe
from batchpipe.config import JobOptions
from batchpipe.job.model_identity import model_identity
from batchpipe.rows.location import state_of
from batchpipe.rows.source import InputChanged, Rows, Source
from batchpipe.rows.template import Template
from batchpipe.rows.words import listed, shown

# Options that change how long a run takes and not what it answers, and those that the input's rows,
# the template's text and the model's files stand for.
WITHOUT_EFFECT = (
    "input",
    "template",
    "model",
    "kv_memory",
    "host_kv_memory",
    "order",
    "device",
    "tensor_parallel",
    "trust_remote_code",
    "speculate",
    "machine",
    "price_per_hour",
    "base_url",
    "api_key_env",
    "concurrency",
    "batch_lines",
    "model_called",
)


class InputDigest:
    """Names every row by its file, its place there and its content; equal rows stay two."""

    def __init__(self) -> None:
        self._digest = blake2b(digest_size=16)

    def update(self, rows: Rows) -> None:
        """The next rows of the input."""
        for place in range(len(rows)):
            self._digest.update("\0".join(map(str, rows.identity(place))).encode())

    def __str__(self) -> str:
        return self._digest.hexdigest()


def input_digest(source: Source) -> str:
    """The digest of all rows, by a pass of its own."""
    digest = InputDigest()
    for rows in source.batches():
        digest.update(rows)
    return str(digest)


def check_unchanged(source: Source, digest: str) -> None:
    """The input is what it was when the run read it first.

    Raises:
        InputChanged: a row is another one
    """
    if all(state_of(found.location) == found.state for found in source.surveys):
        return
    if input_digest(source) != digest:
        raise InputChanged(
            f"{source.spec} changed while the run went on: some of its rows are others; restore it "
            f"and run the same command again, which computes nothing twice"
        )


def settings_fingerprint(
    options: JobOptions, template: Template | None, config: Any, dtype: str | None
) -> dict[str, Any]:
    """All but the input: named parts, each a plain value, so that a difference has a name."""
    parts = asdict(options)
    for name in WITHOUT_EFFECT:
        del parts[name]
    parts["dtype"] = dtype
    parts["batchpipe"] = batchpipe.__version__
    parts["template"] = None if template is None else template.source
    parts["model_files"] = model_identity(options.model, config)
    return dict(json.loads(json.dumps(parts)))


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What two fingerprints differ in, a phrase each."""
    phrases: list[str] = []
    for name in sorted({*before, *now}):
        old, new = before.get(name), now.get(name)
        if old == new:
            continue
        if name == "model_files" and isinstance(old, dict) and isinstance(new, dict):
            inner = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
            phrases.append(f"{name} differ in {listed(inner)}")
        else:
            phrases.append(f"{name} was {shown(old)} and is {shown(new)}")
    return phrases
