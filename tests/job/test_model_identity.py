"""A model is told from another under its name."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from batchpipe.job import model_identity
from batchpipe.job.model_identity import model_identity as identity


@pytest.fixture
def copied(model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model, tmp_path / "copied"))


def test_a_copy_is_the_same_model(model: Path, copied: Path) -> None:
    (copied / "README.md").write_text("Read me.")
    assert identity(str(copied), None) == identity(str(model), None)


@pytest.mark.parametrize("whole_bytes", [0, 1 << 30])
def test_weights_of_the_same_size_are_another_model(
    model: Path, copied: Path, whole_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_identity, "WHOLE_BYTES", whole_bytes)
    weights = copied / "model.safetensors"
    content = bytearray(weights.read_bytes())
    for place in range(len(content) // 2, len(content), 100):  # another training, in half of it
        content[place] ^= 1
    weights.write_bytes(bytes(content))
    before, now = identity(str(model), None), identity(str(copied), None)
    assert [name for name in before if before[name] != now[name]] == ["model.safetensors"]


def test_a_hub_model_is_named_by_its_commit() -> None:
    class Config:
        _commit_hash = "8f3a"

    assert identity("someone/some-model", Config()) == {"commit": "8f3a"}
