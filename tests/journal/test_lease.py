"""Where no kernel keeps a lock, a beat does: it stops with its process, whatever stops that."""

from __future__ import annotations

import errno
import fcntl
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from journal_runs import create, good, new_manifest, reopen
from lock_holders import HOLDING, holding

from batchpipe.journal import file_lock, lease, moments
from batchpipe.journal.folder import Folder, open_folder
from batchpipe.journal.holder import Holder
from batchpipe.journal.journal import Journal
from batchpipe.journal.lock import Busy, LostLock, hold, holder
from batchpipe.journal.manifest import packed


@pytest.fixture
def local(tmp_path: Path) -> Folder:
    return open_folder(str(tmp_path / "run"))


@pytest.fixture
def no_flock(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)


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


@pytest.mark.usefixtures("no_flock")
def test_a_kill_9_leaves_a_lease_that_nobody_waits_for(local: Folder) -> None:
    script = HOLDING.replace(
        "with hold",
        "import errno, fcntl\ndef refuse(*_): raise OSError(errno.ENOLCK, 'none')\n"
        "fcntl.flock = refuse\nwith hold",
    )
    with holding(local.name, script) as process:
        process.kill()
        process.wait()
    with hold(local) as lock:
        assert isinstance(lock, lease.Lease)


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
