"""The models and prompts that the end-to-end tests run on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def model(tiny_model: Callable[[str], Path]) -> Path:
    """A tiny Llama with a context of 512 tokens."""
    return tiny_model("llama")


@pytest.fixture(scope="session")
def bare_model(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same without weights: a run that comes as far as loading them fails."""
    folder = tmp_path_factory.mktemp("bare") / "model"
    shutil.copytree(model, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    return folder


@pytest.fixture
def model_that_says(model: Path, tmp_path: Path) -> Callable[..., Path]:
    """The same with these fields in its generation_config.json."""

    def make(**fields: Any) -> Path:
        folder = tmp_path / "model"
        shutil.copytree(model, folder)
        path = folder / "generation_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))
        return folder

    return make
