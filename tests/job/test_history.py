"""Lengths of finished answers from run to run: kept by model and template, never in the way."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchpipe.job.history import KEPT_GROUPS, KEPT_LENGTHS, load_history, save_history

MODEL, TEMPLATE = "someone/model", "Summarize: {text}"

keys = st.sampled_from([b"", b"\x00" * 16, b"\xff" * 16])
runs = st.lists(st.dictionaries(keys, st.lists(st.integers(0, 2000), max_size=600)), max_size=5)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BATCHPIPE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def kept_files(home: Path) -> list[Path]:
    return sorted((home / "lengths").iterdir())


def test_nothing_is_known_before_the_first_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert load_history(MODEL, TEMPLATE) == {}
    assert capsys.readouterr().err == ""


@given(runs)
def test_lengths_of_all_runs_stand_in_order(
    tmp_path_factory: pytest.TempPathFactory, runs: list[dict[bytes, list[int]]]
) -> None:
    home = tmp_path_factory.mktemp("home")
    wanted: dict[bytes, list[int]] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BATCHPIPE_HOME", str(home))
        for run in runs:
            save_history(MODEL, TEMPLATE, run)
            for key, lengths in run.items():
                if lengths:
                    wanted[key] = [*wanted.get(key, []), *lengths][-KEPT_LENGTHS:]
            assert load_history(MODEL, TEMPLATE) == wanted


def test_each_model_and_template_has_its_own() -> None:
    pairs = [(MODEL, TEMPLATE), (MODEL, None), (MODEL, ""), ("other", TEMPLATE), ("other", None)]
    for length, (model, template) in enumerate(pairs, start=1):
        save_history(model, template, {b"": [length]})
    for length, (model, template) in enumerate(pairs, start=1):
        assert load_history(model, template) == {b"": [length]}


def test_folder_of_a_model_is_the_same_by_any_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for parent in ("one", "two"):
        (tmp_path / parent / "model").mkdir(parents=True)
    save_history(str(tmp_path / "one" / "model"), None, {b"": [7]})
    monkeypatch.chdir(tmp_path / "one")
    assert load_history("model", None) == load_history("../one/model/", None) == {b"": [7]}
    monkeypatch.chdir(tmp_path / "two")
    assert load_history("model", None) == {}


def test_no_text_is_kept(home: Path) -> None:
    save_history(MODEL, TEMPLATE, {b"a key of 16 byte": [1, 2], b"": [3]})
    (file,) = kept_files(home)
    assert json.loads(file.read_text()) == {"": [3], b"a key of 16 byte".hex(): [1, 2]}
    assert len(file.stem) == 32
    assert int(file.stem, 16) >= 0


def test_oldest_groups_make_room_for_new_ones() -> None:
    def key(number: int) -> bytes:
        return number.to_bytes(16, "big")

    save_history(MODEL, None, {key(number): [number] for number in range(KEPT_GROUPS)})
    save_history(MODEL, None, {key(0): [5]})
    save_history(MODEL, None, {key(KEPT_GROUPS): [6], key(KEPT_GROUPS + 1): [7, 7]})
    kept = load_history(MODEL, None)
    assert len(kept) == KEPT_GROUPS
    assert kept.keys() & {key(1), key(2)} == set()
    assert kept[key(0)] == [0, 5]
    assert kept[key(KEPT_GROUPS + 1)] == [7, 7]


def test_groups_with_the_most_answers_stay_when_one_run_has_too_many() -> None:
    many = {number.to_bytes(16, "big"): [1] for number in range(KEPT_GROUPS + 10)}
    save_history(MODEL, None, {b"": [4] * 20, **many})
    kept = load_history(MODEL, None)
    assert len(kept) == KEPT_GROUPS
    assert kept[b""] == [4] * 20


def test_run_without_answers_leaves_no_file(home: Path) -> None:
    save_history(MODEL, TEMPLATE, {})
    save_history(MODEL, TEMPLATE, {b"": []})
    assert not home.exists()


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b'{"": [1, 2',
        b"\xff\xfe\x00",
        b"[1, 2]",
        b'{"": 3}',
        b'{"": ["3"]}',
        b'{"": [true]}',
        b'{"": [-1]}',
        b'{"": [1.5]}',
        b'{"": [99999999999]}',
        b'{"not hex": [1]}',
        b"[" * 100_000,
    ],
    ids=range(12),
)
def test_damaged_file_is_one_line_and_written_anew(
    home: Path, capsys: pytest.CaptureFixture[str], damage: bytes
) -> None:
    save_history(MODEL, TEMPLATE, {b"": [1]})
    (file,) = kept_files(home)
    file.write_bytes(damage)
    assert load_history(MODEL, TEMPLATE) == {}
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"{file} is damaged" in error
    save_history(MODEL, TEMPLATE, {b"": [2]})
    assert load_history(MODEL, TEMPLATE) == {b"": [2]}
    assert capsys.readouterr().err == ""


def test_folder_that_cannot_be_written_is_one_line(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home.write_text("a file, not a folder")
    save_history(MODEL, TEMPLATE, {b"": [1]})
    error = capsys.readouterr().err
    assert error.startswith("Answer lengths are not kept for later runs: ")
    assert error.count("\n") == 1
    assert load_history(MODEL, TEMPLATE) == {}
    error = capsys.readouterr().err
    assert error.startswith("Answer lengths of earlier runs are not used: ")
    assert error.count("\n") == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_folder_keeps_what_it_has(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_history(MODEL, TEMPLATE, {b"": [1]})
    (home / "lengths").chmod(0o500)
    save_history(MODEL, TEMPLATE, {b"": [2]})
    (home / "lengths").chmod(0o700)
    assert "not kept" in capsys.readouterr().err
    assert load_history(MODEL, TEMPLATE) == {b"": [1]}


def test_failed_write_leaves_the_old_file_and_nothing_else(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save_history(MODEL, TEMPLATE, {b"": [1]})

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    save_history(MODEL, TEMPLATE, {b"": [2]})
    assert "No space left on device" in capsys.readouterr().err
    assert load_history(MODEL, TEMPLATE) == {b"": [1]}
    assert len(kept_files(home)) == 1
