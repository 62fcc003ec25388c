"""What a session keeps comes back, and what is wrong with its file is no error."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness import call, ended, spawn, write_lines

from batchpipe.journal import manifest
from batchpipe.journal.folder import Folder, open_folder
from batchpipe.journal.manifest import Manifest, read_manifest
from batchpipe.running.session.record import (
    Session,
    Shared,
    SlowRow,
    name_of,
    packed_session,
    read_sessions,
)
from batchpipe.running.session.timeline import Point

STARTED = "2026-01-02T03:04:05+00:00"
SESSION = Session(
    number=1,
    started=STARTED,
    is_done=True,
    facts={"prompts": 3, "order": "dfs"},
    versions={"python": "3.11"},
    shared=(Shared(-1, 0, 4, 0, 3, "A </script> letter"),),
    mean_tokens=(5, 6),
    slow_rows=(SlowRow(2, "row-2", 1.5, 7, 9),),
    points=(Point(0.5, 1, 10, 2, 16, 0), Point(1.0, 2, 12, 4, 32, 3)),
)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return open_folder(str(tmp_path / "run"))


def manifest_of(started: str) -> Manifest:
    return Manifest({}, "", {}, sessions=(manifest.Session(started, 1.0, 0),))


def test_a_session_comes_back_as_it_was(folder: Folder) -> None:
    folder.put(name_of(1), packed_session(SESSION))
    assert read_sessions(folder, manifest_of(STARTED)) == (SESSION,)


def test_a_file_that_is_missing_damaged_or_of_another_run_is_left_out(folder: Folder) -> None:
    assert read_sessions(folder, manifest_of(STARTED)) == ()
    content = packed_session(SESSION)
    for start in range(0, len(content), 97):
        broken = content[:start] + bytes([content[start] ^ 0xFF]) + content[start + 1 :]
        folder.put(name_of(1), broken)
        read_sessions(folder, manifest_of(STARTED))  # whatever it finds, it raises nothing
    folder.put(name_of(1), content[: len(content) // 2])
    assert read_sessions(folder, manifest_of(STARTED)) == ()
    folder.put(name_of(1), content)
    assert read_sessions(folder, manifest_of("2026-01-02T03:04:06+00:00")) == ()


def sessions_of(run_dir: Path) -> tuple[Session, ...]:
    folder = open_folder(str(run_dir))
    known = read_manifest(folder)
    assert known is not None
    return read_sessions(folder, known)


def test_a_run_tells_of_every_session(tmp_path: Path, model: Path) -> None:
    shared = "The same letter begins every one of these prompts. "
    job = write_lines(tmp_path / "job.jsonl", [{"prompt": f"{shared}{n}"} for n in range(30)])
    out = tmp_path / "answers.jsonl"
    command = ("run", job, "-m", model, "-o", out, "--max-tokens", 4, "--temperature", 1)
    stopped = ended(spawn(*command, "--budget-hours", 1e-9))
    assert stopped.code == 75, stopped.err
    done = call(*command, "--json")
    assert done.code == 0, done.err
    sessions = sessions_of(Path(f"{out}.run"))
    assert [each.is_done for each in sessions] == [False, True][-len(sessions) :]
    last, summary = sessions[-1], done.summary
    points = last.points
    assert sum(each.points[-1].rows for each in sessions if each.points) == 30
    assert sum(e.points[-1].prefill_tokens for e in sessions) == summary["computed_prompt_tokens"]
    assert points[-1].steps <= summary["steps"]
    assert max(each.kv_tokens for each in points) <= summary["kv_tokens"]
    assert [each.seconds for each in points] == sorted(each.seconds for each in points)
    assert any("The same letter" in node.text for node in last.shared)
    assert 0 < len(last.slow_rows) <= 30
    slow = [each.seconds for each in last.slow_rows]
    assert slow == sorted(slow, reverse=True)
    assert slow[0] <= points[-1].seconds
    assert {"python", "torch", "batchpipe"} <= last.versions.keys()


def test_a_run_that_is_discarded_leaves_no_session_behind(tmp_path: Path, model: Path) -> None:
    job = write_lines(tmp_path / "job.jsonl", [{"prompt": f"letter {n}"} for n in range(3)])
    command = ("run", job, "-m", model, "-o", tmp_path / "a.jsonl", "--max-tokens", 2)
    run_dir = tmp_path / "a.jsonl.run"
    assert call(*command).code == 0
    assert call("report", run_dir).code == 0
    (run_dir / "sessions" / "000007.parquet").write_bytes(b"of another run")
    assert call(*command, "--seed", 1, "--overwrite").code == 0
    assert [path.name for path in (run_dir / "sessions").iterdir()] == ["000001.parquet"]
    assert not (run_dir / "report.html").exists()
