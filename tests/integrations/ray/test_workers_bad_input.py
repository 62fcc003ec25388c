"""Workers that cannot be had: each is told in a sentence, before any model loads."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from harness import call, write_lines


@pytest.fixture
def command(tmp_path: Path, bare_model: Path) -> tuple[object, ...]:
    job = write_lines(tmp_path / "job.jsonl", [{"prompt": "a"}])
    return ("run", job, "-m", bare_model, "-o", tmp_path / "out.jsonl")


@pytest.fixture
def closed_port() -> int:
    """A port at which nobody listens."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def refused(command: tuple[object, ...], *words: str) -> None:
    ran = call(*command)
    assert ran.code == 2, ran.err
    for word in words:
        assert word in ran.sentence


def test_more_workers_than_cpus_are_refused(command: tuple[object, ...], cluster: Any) -> None:
    address = ("--ray-address", cluster.address)
    refused((*command, "--workers", 99, *address), "--workers 99", "CPUs", "give --workers")
    refused(
        (*command, "--workers", 1, "--device", "cuda", *address), "--device cuda", "--device cpu"
    )


def test_an_address_that_does_not_answer_is_told(
    command: tuple[object, ...], closed_port: int
) -> None:
    address = f"127.0.0.1:{closed_port}"
    refused((*command, "--workers", 1, "--ray-address", address), address, "no Ray cluster answers")


def test_an_address_needs_workers(command: tuple[object, ...]) -> None:
    refused((*command, "--ray-address", "auto"), "--ray-address auto", "needs --workers")


def test_workers_have_our_own_engine(command: tuple[object, ...]) -> None:
    more = ("--workers", 2, "--engine", "openai", "--base-url", "http://localhost:1/v1")
    refused((*command, *more), "--workers 2", "--engine batchpipe")


def test_devices_that_are_not_there_share_no_model(
    command: tuple[object, ...],
) -> None:
    words = ("--tensor-parallel 2", "this machine has", "CUDA device", "--engine openai")
    refused((*command, "--tensor-parallel", 2), *words)


def test_a_missing_ray_is_told_with_the_line_that_installs_it(command: tuple[object, ...]) -> None:
    script = (
        "import sys; sys.modules['ray'] = None\nfrom batchpipe.cli import main\nmain(sys.argv[1:])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script, *map(str, command), "--workers", "2"],
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 2
    assert ran.stderr.rstrip().endswith("pip install 'batchpipe[ray]'")
    assert "--workers needs the package ray, which" in ran.stderr
