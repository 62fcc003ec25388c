"""Exactly one process writes a run, and a dead one stands in nobody's way."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from journal_runs import good, new_manifest
from lock_holders import HOLDING, holding

from batchpipe.errors import ConfigError
from batchpipe.journal import lease
from batchpipe.journal.folder import Folder, open_folder
from batchpipe.journal.journal import Journal
from batchpipe.journal.lock import Busy, LostLock, hold, holder


@pytest.fixture
def local(tmp_path: Path) -> Folder:
    return open_folder(str(tmp_path / "run"))


def test_a_second_process_is_told_who_writes(local: Folder) -> None:
    with holding(local.name) as first:
        with pytest.raises(Busy) as told:
            hold(local)
        who = holder(local)
    assert told.value.exit_code == 75
    assert f"process {first.pid} on host " in str(told.value)
    assert f"has been writing {local.name} since 20" in str(told.value)
    assert "wait for it or stop it: the same command goes on from there" in str(told.value)
    assert who is not None
    assert who.pid == first.pid
    assert holder(local) is None


def test_a_second_holder_in_the_same_process_is_refused_too(any_folder: Folder) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lease, "BEAT_SECONDS", 0.02)
        with hold(any_folder) as lock:
            lock.check()
            with pytest.raises(Busy, match=f"process {os.getpid()} on host"):
                hold(any_folder)
            told = holder(any_folder)
            assert told is not None
            assert told.pid == os.getpid()
            lock.check()
    assert holder(any_folder) is None
    with hold(any_folder):
        pass


def test_a_killed_holder_is_nobody_at_once(local: Folder) -> None:
    with holding(local.name) as first:
        first.kill()
        assert first.wait() == -signal.SIGKILL
        assert holder(local) is None
        with hold(local) as lock:
            lock.check()


def test_a_stopped_process_still_holds(local: Folder) -> None:
    with holding(local.name) as first:
        first.send_signal(signal.SIGSTOP)
        assert holder(local) is not None
        with pytest.raises(Busy):
            hold(local)
        first.send_signal(signal.SIGCONT)


def test_one_of_many_processes_gets_the_lock(local: Folder) -> None:
    script = HOLDING.replace("sys.stdin.read()", "import time; time.sleep(2)")
    command = [sys.executable, "-c", script, local.name]
    started = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    said = [process.communicate()[0] for process in started]
    assert said.count("held\n") >= 1
    assert all(text in ("held\n", "") for text in said)
    failed = [process for process in started if process.returncode]
    assert len(failed) == said.count("")


def test_looking_never_makes_a_start_fail(local: Folder) -> None:
    with hold(local) as lock:
        Journal.create(local, new_manifest(1), lock)
    end = threading.Event()

    def look() -> None:
        while not end.is_set():
            holder(local)

    lookers = [threading.Thread(target=look) for _ in range(2)]
    for looker in lookers:
        looker.start()
    try:
        for _ in range(30):
            with hold(local) as lock:
                lock.check()
    finally:
        end.set()
        for looker in lookers:
            looker.join()


def test_a_lock_whose_file_was_replaced_is_lost(local: Folder) -> None:
    with hold(local) as lock:
        journal = Journal.create(local, new_manifest(1), lock)
        local.remove("lock")
        local.put("lock", b"")
        journal.add([good(0)])
        before = local.get("manifest.json")
        with pytest.raises(LostLock, match="stops without writing"):
            journal.flush()
        assert local.get("manifest.json") == before
        assert local.names("parts") == []


def test_a_directory_in_which_no_run_began_is_not_there_afterwards(tmp_path: Path) -> None:
    with hold(open_folder(str(tmp_path / "deep" / "run"))):
        assert (tmp_path / "deep" / "run" / "lock").is_file()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine").mkdir()
    with hold(open_folder(str(tmp_path / "mine"))):
        pass
    assert list((tmp_path / "mine").iterdir()) == []


def test_a_lock_that_comes_and_goes_with_its_directory_is_held_by_one(local: Folder) -> None:
    inside: list[int] = []

    def come_and_go() -> None:
        for _ in range(60):
            with suppress(Busy), hold(local) as lock:
                inside.append(1)
                assert len(inside) == 1
                lock.check()
                inside.pop()

    with ThreadPoolExecutor(3) as threads:
        for done in [threads.submit(come_and_go) for _ in range(3)]:
            done.result()


def test_a_lock_whose_file_goes_while_it_is_taken_is_taken_anew(
    local: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    local.put("lock", b"")
    flock, times = fcntl.flock, iter([1])

    def late(descriptor: int, operation: int) -> None:
        if next(times, 0):
            local.remove("lock")
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with hold(local) as lock:
        lock.check()


@pytest.mark.parametrize("name", [".manifest.json.1f.tmp", "lock"])
def test_what_a_death_at_the_very_start_leaves_is_not_foreign(folder: Folder, name: str) -> None:
    folder.put(name, b"")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lease, "STALE_SECONDS", 0.05)
        with hold(folder) as lock:
            Journal.create(folder, new_manifest(1), lock)


@pytest.mark.parametrize("name", ["letter.txt", "parts/000000.parquet", ".hidden"])
def test_a_folder_of_somebody_else_is_refused_and_untouched(folder: Folder, name: str) -> None:
    folder.put(name, b"dear")
    with pytest.raises(ConfigError) as refused:
        hold(folder)
    sentence = f"{folder.name} is no run directory and not empty; choose another --run-dir"
    assert str(refused.value) == sentence
    assert "lock" not in folder.names()


def test_a_manifest_of_somebody_else_is_refused_and_untouched(folder: Folder) -> None:
    folder.put("manifest.json", b'{"name": "my web page"}')
    with pytest.raises(ConfigError, match="is none of a run of batchpipe"):
        hold(folder)
    assert folder.names() == ["manifest.json"]


def test_a_file_is_no_folder(any_folder: Folder) -> None:
    any_folder.put("file", b"")
    with pytest.raises(ConfigError, match=r"run/file is a file; choose another --run-dir"):
        hold(open_folder(f"{any_folder.name}/file"))


@pytest.mark.parametrize("path", ["/proc/run", "/dev/null/run", "/sys"])
def test_a_directory_that_cannot_be_made_or_written_is_named(path: str) -> None:
    with pytest.raises(ConfigError) as refused:
        hold(open_folder(path))
    assert path in str(refused.value)
    assert "choose another" in str(refused.value)
    assert "--run-dir" in str(refused.value)
