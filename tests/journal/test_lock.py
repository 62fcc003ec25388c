"""Exactly one process writes a run, and a dead one stands in nobody's way."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import pytest
from journal_runs import create, good, new_manifest, reopen

from batchpipe.errors import ConfigError
from batchpipe.journal import file_lock, lease, moments
from batchpipe.journal.folder import Folder, open_folder
from batchpipe.journal.holder import Holder
from batchpipe.journal.journal import Journal
from batchpipe.journal.lock import Busy, LostLock, hold, holder
from batchpipe.journal.manifest import packed

HOLDING = """
import sys
from batchpipe.journal.folder import open_folder
from batchpipe.journal.lock import hold
with hold(open_folder(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holding(url: str) -> Iterator[subprocess.Popen[str]]:
    """A real process that holds the lock until its input ends or it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDING, url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        said: IO[str] | None = process.stdout
        assert said is not None
        assert said.readline() == "held\n"
        yield process


@pytest.fixture
def local(tmp_path: Path) -> Folder:
    return open_folder(str(tmp_path / "run"))


@pytest.fixture
def no_flock(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)


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


# The lease: for folders without a kernel's lock.


@pytest.fixture
def remote(tmp_path: Path) -> Folder:
    return open_folder(f"memory://leases/{tmp_path.name}")


def record(**more: object) -> bytes:
    """A lock of a process of which this machine cannot tell whether it lives."""
    elsewhere = Holder("db1", 4711, "1", "another machine", "2026-11-21 13:36 UTC")
    return json.dumps({**elsewhere.as_record(), "token": "theirs", "beat": 1, **more}).encode()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "STALE_SECONDS", 0.1)
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.02)


@pytest.mark.usefixtures("impatient")
def test_a_beat_that_stands_still_is_taken_over(remote: Folder) -> None:
    remote.put("manifest.json", packed(new_manifest(1)))
    remote.put("lock", record())
    assert holder(remote) is None
    with hold(remote) as lock:
        lock.check()
    assert "lock" not in remote.names()


def test_a_beat_that_moves_is_left_alone(remote: Folder) -> None:
    remote.put("manifest.json", packed(new_manifest(1)))
    remote.put("lock", record())
    end = threading.Event()

    def beat() -> None:
        count = 1
        while not end.wait(0.02):
            count += 1
            remote.put("lock", record(beat=count))

    beating = threading.Thread(target=beat)
    beating.start()
    try:
        with pytest.raises(Busy, match=r"process 4711 on host db1 .* since 2026-11-21 13:36 UTC"):
            hold(remote)
        assert str(holder(remote)) == "process 4711 on host db1"
    finally:
        end.set()
        beating.join()


def test_a_dead_process_of_this_machine_is_stale_at_once(remote: Folder) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    me = Holder.me().as_record()
    for gone in ({"pid": dead.pid}, {"process_start": "1"}):  # the pid was given to another since
        remote.put("lock", json.dumps({**me, "token": "theirs", "beat": 1, **gone}).encode())
        assert holder(remote) is None
        with hold(remote):
            pass


def test_a_kill_9_leaves_a_lease_that_nobody_waits_for(local: Folder) -> None:
    script = HOLDING.replace(
        "with hold",
        "import errno, fcntl\ndef refuse(*_): raise OSError(errno.ENOLCK, 'none')\n"
        "fcntl.flock = refuse\nwith hold",
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, local.name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        process.kill()
        process.wait()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fcntl, "flock", raises_enolck)
        with hold(local) as lock:
            assert isinstance(lock, lease.Lease)


def raises_enolck(descriptor: int, operation: int) -> None:
    raise OSError(errno.ENOLCK, "No locks available")


@pytest.mark.usefixtures("no_flock")
def test_a_file_system_without_locks_has_a_lease(
    local: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.02)
    with hold(local) as lock:
        assert isinstance(lock, lease.Lease)
        Journal.create(local, new_manifest(1), lock)
        with pytest.raises(Busy):
            hold(local)
    assert "lock" not in local.names()


@pytest.mark.usefixtures("impatient")
def test_who_was_taken_over_stops_without_writing(remote: Folder) -> None:
    with hold(remote) as lock:
        journal = Journal.create(remote, new_manifest(2), lock)
        journal.add([good(0)])
        journal.flush()
        remote.put("lock", record())  # it was frozen, and process 4711 found its beat still
        before = {name: remote.get(name) for name in ("manifest.json", "parts/000000.parquet")}
        journal.add([good(1)])
        with pytest.raises(LostLock, match="process 4711 on host db1 has taken over"):
            journal.flush()
        time.sleep(0.1)
    assert remote.get("lock") == record()  # neither its beat nor its end touched the new one's
    assert {name: remote.get(name) for name in before} == before
    assert remote.names("parts") == ["000000.parquet"]


def test_who_is_taken_over_between_file_and_manifest_commits_nothing(remote: Folder) -> None:
    with hold(remote) as lock:
        journal = Journal.create(remote, new_manifest(2), lock)
        before = remote.get("manifest.json")
        journal.add([good(0)])

        def take_over(moment: str) -> None:
            if moment == "flush: before its manifest":
                remote.put("lock", record())

        moments.hook = take_over
        with pytest.raises(LostLock):
            journal.flush()
        assert remote.get("manifest.json") == before


def test_a_lease_whose_file_was_removed_is_lost(remote: Folder) -> None:
    with hold(remote) as lock:
        remote.remove("lock")
        with pytest.raises(LostLock):
            lock.check()


@pytest.mark.usefixtures("impatient")
def test_two_that_take_over_at_once_are_one_afterwards(
    remote: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "SETTLE_SECONDS", 0.5)
    remote.put("lock", record())
    held: list[object] = []

    def start() -> None:
        try:
            held.append(hold(remote))
        except Busy as busy:
            held.append(busy)

    starting = [threading.Thread(target=start) for _ in range(4)]
    for thread in starting:
        thread.start()
    for thread in starting:
        thread.join()
    leases = [each for each in held if isinstance(each, lease.Lease)]
    assert len(leases) == 1
    leases[0].check()
    leases[0].release()


def test_wall_clocks_that_jump_change_nothing(
    remote: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.02)
    now = [1e9]

    def jump() -> float:
        now[0] = -now[0] if now[0] < 0 else 4e9 - now[0]
        return now[0]

    monkeypatch.setattr(time, "time", jump)
    with hold(remote) as lock:
        Journal.create(remote, new_manifest(1), lock)
        with pytest.raises(Busy):
            hold(remote)
        lock.check()
    with hold(remote) as lock:
        lock.check()


@pytest.mark.usefixtures("impatient")
def test_a_store_that_cannot_be_reached_for_a_beat_is_no_end(remote: Folder) -> None:
    failures = [3]
    put: Callable[[str, bytes], None] = remote.put

    class Flaky:
        name = remote.name
        create, get, names, remove = remote.create, remote.get, remote.names, remote.remove

        def put(self, name: str, content: bytes) -> None:
            if failures[0]:
                failures[0] -= 1
                raise OSError(errno.EIO, "no route to host", name)
            put(name, content)

    with hold(Flaky()) as lock:
        first = remote.get("lock")
        while remote.get("lock") == first:
            time.sleep(0.01)
        lock.check()
    assert not failures[0]


def test_the_lock_is_no_part_of_a_run(folder: Folder) -> None:
    with hold(folder) as lock:
        Journal.create(folder, new_manifest(2), lock)
        assert "lock" in folder.names()
        reopen(folder)
        create(folder, 2)
        lock.check()


def test_the_constants_are_patient() -> None:
    assert lease.STALE_SECONDS > 3 * lease.BEAT_SECONDS
    assert file_lock.PATIENCE_SECONDS < 1
