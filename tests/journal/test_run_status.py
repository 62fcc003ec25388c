"""Who asks how far a run is gets the truth, and disturbs nobody."""

from __future__ import annotations

import json
import threading
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from journal_runs import Unlocked, bad, create, good, new_manifest, reopen

from batchpipe.errors import ConfigError
from batchpipe.journal.error_kinds import kind_of
from batchpipe.journal.folder import Folder, open_folder
from batchpipe.journal.journal import Journal
from batchpipe.journal.lock import hold
from batchpipe.journal.manifest import Manifest, packed, read_manifest
from batchpipe.journal.status import describe
from batchpipe.rows.results import Result


def test_a_run_is_told_from_its_start_to_its_end(folder: Folder) -> None:
    journal = create(folder, 10)
    assert (describe(folder).state, describe(folder).finished) == ("stopped", 0)
    journal.add([good(row) for row in range(4)] + [bad(row) for row in range(4, 7)])
    journal.flush()
    told = describe(folder)
    assert (told.state, told.rows, told.finished, told.failed) == ("stopped", 10, 7, 3)
    assert told.statuses == {"success": 4, "error": 3}
    assert told.finish_reasons == {"none": 3, "stop": 2, "length": 2}
    assert (told.rows_per_second or 0) > 0
    assert told.seconds_left is None
    journal.add(good(row) for row in range(7, 10))
    journal.finish({})
    assert describe(folder).state == "finished"
    journal.begin_repair(journal.select({"error"}, set()), {"max_tokens": 9})
    told = describe(folder)
    assert (told.state, told.finished, told.failed) == ("repair pending", 7, 0)
    [repair] = told.repairs
    assert (repair.number, repair.rows, repair.waiting) == (1, 3, 3)
    journal.add([bad(4, "again"), good(5)])
    journal.flush()
    told = describe(folder)
    assert (told.state, told.finished, told.failed) == ("repair pending", 9, 1)
    assert told.repairs[0].waiting == 1
    journal.add([good(6)])
    journal.finish({})
    assert (describe(folder).state, describe(folder).failed) == ("finished", 1)


def test_a_run_under_way_names_its_writer(tmp_path: Path) -> None:
    folder = open_folder(str(tmp_path / "run"))
    with hold(folder) as lock:
        journal = Journal.create(folder, new_manifest(10), lock)
        journal.add(good(row) for row in range(4))
        told = describe(folder)
    assert told.state == "running"
    assert (told.holder or "").startswith("process ")
    assert told.seconds_left is not None
    assert describe(folder).state == "stopped"


def test_it_says_the_same_as_json_and_in_words(folder: Folder) -> None:
    journal = create(folder, 4)
    journal.add([good(0), *(Result.failed(row, f"prompt has {row}00 tokens") for row in (1, 2))])
    journal.begin_repair(np.array([1]), {"max_tokens": 9}, "--set max_tokens=9")
    told = describe(folder)
    assert json.loads(json.dumps(told.as_json())) == json.loads(json.dumps(asdict(told)))
    text = str(told)
    for words in (
        "repair pending",
        "2 of 4 finished (50.0%), 1 failed",
        "1 success, 2 error",
        "2 rows, the first 1: prompt has … tokens",
        "1 rows, 1 of them to do: --set max_tokens=9",
    ):
        assert words in text, text


@pytest.mark.parametrize(
    ("sentence", "kind"),
    [
        ("prompt has 812 tokens, the limit is 512", "prompt has … tokens, the limit is …"),
        ("max_tokens is -1; give 1 or more.", "max_tokens is …; give … or more."),
        ("temperature is 'hot' and can't be read", "temperature is … and can't be read"),
        ('the model\'s text "a b" is 1,000.5e-3 long', "the model's text … is … long"),
        ("sha256 of v2 is not known", "sha256 of v2 is not known"),
    ],
)
def test_errors_that_differ_in_values_are_one_kind(sentence: str, kind: str) -> None:
    assert kind_of(sentence) == kind


def test_the_most_frequent_errors_come_first_and_repaired_ones_not_at_all(folder: Folder) -> None:
    journal = create(folder, 9)
    journal.add(Result.failed(row, f"column 'a{row}' is empty") for row in (7, 3))
    journal.add(Result.failed(row, f"{row} tokens are too many") for row in (8, 6, 5, 4))
    journal.add(Result.failed(row, "never seen again") for row in (0, 1))
    journal.begin_repair(np.array([0, 1, 4]), {})
    journal.add([good(0), good(1), good(4)])
    journal.flush()
    kinds = [(each.error, each.rows, each.example) for each in describe(folder).errors]
    assert kinds == [("… tokens are too many", 3, 5), ("column … is empty", 2, 3)]


def test_damage_is_told_and_left_as_it_is(folder: Folder) -> None:
    journal = create(folder, 8)
    journal.add(good(row) for row in range(8))
    name = journal.manifest.parts[0].name
    folder.put(name, b"PAR1")
    before = folder.get("manifest.json")
    told = describe(folder)
    assert told.finished == 4
    assert told.damaged == {name: "is damaged: its checksum is not the manifest's"}
    assert f"{name} is damaged" in str(told)
    assert folder.get(name) == b"PAR1"
    assert folder.get("manifest.json") == before


def test_no_run_is_named(folder: Folder) -> None:
    with pytest.raises(ConfigError, match="holds no run"):
        describe(folder)
    folder.put("manifest.json", packed(Manifest({}, "", {})))
    assert describe(folder).rows is None
    assert "0 finished" in str(describe(folder))


def test_it_may_be_asked_while_parts_are_merged(folder: Folder) -> None:
    rows, told = 400, []
    end = threading.Event()

    def ask() -> None:
        while not end.is_set():
            told.append(describe(folder))

    journal = create(folder, rows)
    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for row in range(rows):
            journal.add([good(row)])
            journal.flush()
    finally:
        end.set()
        asking.join()
    assert all(not each.damaged for each in told)
    finished = [each.finished for each in told]
    assert finished == sorted(finished)
    assert reopen(folder).done().all()


def test_asking_writes_nothing(folder: Folder) -> None:
    Journal.create(folder, new_manifest(3), Unlocked())
    before = folder.names(), folder.get("manifest.json")
    describe(folder)
    assert (folder.names(), folder.get("manifest.json")) == before
    assert read_manifest(folder) is not None
