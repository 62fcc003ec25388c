"""The command itself: its help, its usage errors and its exit codes."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

import batchpipe
from batchpipe.cli import main


def call(*arguments: str) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
        main(arguments)
    assert isinstance(ended.value.code, int)
    return ended.value.code, out.getvalue(), err.getvalue()


def test_help_names_the_commands_and_the_exit_codes() -> None:
    code, out, _ = call("--help")
    assert code == 0
    for word in ("demo", "plan", "run", "75", "130", "--max-errors"):
        assert word in out


@pytest.mark.parametrize("command", ["run", "plan", "demo"])
def test_every_command_explains_itself(command: str) -> None:
    code, out, _ = call(command, "-h")
    assert code == 0
    assert f"Usage: batchpipe {command}" in out


def test_the_version_is_the_packages() -> None:
    assert call("--version")[:2] == (0, f"batchpipe, version {batchpipe.__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run",), "Missing argument 'INPUT'"),
        (("run", "a.jsonl", "-o", "b.jsonl"), "Missing option '-m'"),
        (("run", "a.jsonl", "-m", "model"), "Missing option '-o'"),
        (("run", "a.jsonl", "--what"), "No such option '--what'"),
        (("plan", "a.jsonl", "-m", "model", "--dtype", "int4"), "'int4' is not one of"),
        (("travel",), "No such command 'travel'"),
    ],
)
def test_wrong_usage_exits_2_with_a_sentence(arguments: tuple[str, ...], words: str) -> None:
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert "Traceback" not in err


def test_no_command_shows_the_help() -> None:
    code, _, err = call()
    assert code == 2
    assert "Usage: batchpipe" in err


def test_a_module_run_exits_as_the_command_does(tmp_path: Path, tiny_model: object) -> None:
    """A real process: its exit code, one JSON on stdout, and nothing but lines on stderr."""
    (tmp_path / "job.jsonl").write_text('{"prompt": "The parcel"}\nnope\n')
    command = [sys.executable, "-m", "batchpipe", "run", "job.jsonl", "-o", "a.jsonl", "--json"]
    assert callable(tiny_model)
    ran = subprocess.run(
        [*command, "-m", str(tiny_model("llama")), "--max-tokens", "2"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 3, ran.stderr
    assert json.loads(ran.stdout)["output"] == "a.jsonl"
    assert "Traceback" not in ran.stderr
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == 2
