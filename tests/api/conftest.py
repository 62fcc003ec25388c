"""The model that the tests of the Python API run on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import batchpipe as bp


@pytest.fixture(scope="module")
def llm(model: Path) -> Iterator[bp.LLM]:
    """A tiny Llama with a context of 512 tokens, loaded once for a test file."""
    with bp.LLM(model, kv_memory="16MB") as loaded:
        yield loaded
