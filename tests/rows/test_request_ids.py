"""Request ids: unique over the whole job, whatever its batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from row_jobs import cut_small, lines_of

from batchpipe.errors import ConfigError
from batchpipe.rows.request_ids import RequestIds, _HashSet
from batchpipe.rows.source import Source, open_source


def ids_of(source: Source, id_column: str | None = None) -> list[str]:
    ids = RequestIds(source, id_column)
    return [each for rows in source.batches() for each in ids.read(rows)]


@pytest.fixture(params=[10_000, 2, 1])
def batch_rows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    cut_small(monkeypatch, rows=request.param)
    return int(request.param)


@pytest.mark.usefixtures("batch_rows")
def test_request_ids(tmp_path: Path) -> None:
    source = lines_of(
        tmp_path,
        [
            {"request_id": "x", "key": 1},
            {"request_id": 7, "key": 2.0},
            {"request_id": None, "key": None},
            {"request_id": "", "key": float("nan")},
        ],
    )
    assert ids_of(source) == ["x", "7", "row-2", ""]
    assert ids_of(source, "key") == ["1", "2", "row-2", "row-3"]
    with pytest.raises(ConfigError, match=r"no column 'nope' for --id-column; its columns are re"):
        ids_of(source, "nope")


@pytest.mark.usefixtures("batch_rows")
def test_rows_without_an_id_are_named_by_their_ordinal(tmp_path: Path) -> None:
    (tmp_path / "jobs.jsonl").write_text('{"a": 1}\nnope\n{"a": 2}\n')
    assert ids_of(open_source(str(tmp_path / "jobs.jsonl"))) == ["row-0", "row-1", "row-2"]


def test_input_without_a_readable_row_asks_for_no_id_column(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text("nope\n")
    assert ids_of(open_source(str(tmp_path / "bad.jsonl")), "key") == ["row-0"]


@pytest.mark.usefixtures("batch_rows")
@pytest.mark.parametrize(
    ("ids", "sentence"),
    [
        (["x", "y", "z", "y"], r"request_id 'y' is on row 1 and on row 3.*--id-column"),
        ([7, "7"], r"'7' is on row 0 and on row 1"),
        (["row-1", None], r"'row-1' is on row 0 and on row 1"),
    ],
)
def test_ids_that_two_rows_share_are_refused(tmp_path: Path, ids: list[Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        ids_of(lines_of(tmp_path, [{"request_id": each} for each in ids]))


@pytest.mark.usefixtures("batch_rows")
def test_a_batch_may_be_read_again(tmp_path: Path) -> None:
    source = lines_of(tmp_path, [{"request_id": each} for each in "abcde"])
    ids = RequestIds(source, None)
    for _ in range(2):
        assert [each for rows in source.batches() for each in ids.read(rows)] == list("abcde")


def test_ids_of_one_hash_are_still_different(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_small(monkeypatch, rows=2)
    source = lines_of(tmp_path, [{"request_id": each} for each in "abcdc"])
    monkeypatch.setattr(_HashSet, "add", lambda self, hashes: True)
    ids, batches = RequestIds(source, None), source.batches()
    assert ids.read(next(batches)) == ["a", "b"]
    assert ids.read(next(batches)) == ["c", "d"]
    with pytest.raises(ConfigError, match=r"'c' is on row 2 and on row 4"):
        ids.read(next(batches))


@given(st.lists(st.lists(st.integers(-40, 40), max_size=9), max_size=9))
def test_the_hash_set_finds_what_a_set_finds(batches: list[list[int]]) -> None:
    hashes, seen = _HashSet(), set[int]()
    for batch in batches:
        twice = len(set(batch)) < len(batch) or not seen.isdisjoint(batch)
        assert hashes.add(np.array(batch, dtype=np.int64)) == twice
        seen.update(batch)


@pytest.mark.parametrize("cell", [[1], True, 1.5, {"a": 1}])
def test_an_id_that_is_no_key_is_refused(
    tmp_path: Path, cell: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_small(monkeypatch, rows=1)
    with pytest.raises(ConfigError, match=r"request_id of row 1 is .*must be a text or a whole"):
        ids_of(lines_of(tmp_path, [{"request_id": "a"}, {"request_id": cell}]))
