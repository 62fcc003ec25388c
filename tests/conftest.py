"""Fixtures that more than one test file uses."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# Tiny models gain nothing from threads, which on a busy machine wait for one another. Read by torch
# when it loads, here and in the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Without a GPU, Triton's own interpreter runs the kernels: it must know before it is loaded.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# A shell that starts tests in its background has them, and all that they start, ignore Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine is no failure.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


@pytest.fixture(autouse=True)
def nothing_kept_between_runs(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """No test reads the machine profiles and answer lengths of this user, or writes there."""
    monkeypatch.setenv("BATCHPIPE_HOME", str(tmp_path_factory.mktemp("state")))
    yield
    memory = sys.modules.get("fsspec.implementations.memory")
    if memory is not None:  # its files outlive every object that knows them
        memory.MemoryFileSystem.store.clear()
        memory.MemoryFileSystem.pseudo_dirs[:] = [""]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Directories of the models of `tiny_models`, each made once per session."""
    from tiny_models import make_model  # torch loads only where a test asks for a model

    made: dict[str, Path] = {}

    def directory_of(name: str) -> Path:
        if name not in made:
            made[name] = make_model(name, tmp_path_factory.mktemp(f"model-{name}"))
        return made[name]

    return directory_of


@pytest.fixture(scope="session")
def fast_link(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The profile of a machine on which any KV is sooner copied than computed."""
    from batchpipe.planner.machine.machines import CPU

    path = tmp_path_factory.mktemp("machine") / "fast-link.json"
    path.write_text(json.dumps({**CPU.as_fields(), "host_bytes_per_second": 1e18}))
    return path


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
