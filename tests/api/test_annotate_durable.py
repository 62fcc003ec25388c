"""With a run directory an interrupted call goes on where it was, and pays for nothing twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from harness import call

import batchpipe as bp
from batchpipe.journal import journal

TABLE = pa.table(
    {"text": [f"Question {n}: what? Answer:" for n in range(12)] + [None], "x": range(13)}
)
OPTIONS: dict[str, Any] = {"prompt": "text", "max_tokens": 5, "details": True}
pytestmark = pytest.mark.filterwarnings("ignore::batchpipe.FailedRowsWarning")


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return tmp_path / "kept"


def test_it_answers_as_without(llm: bp.LLM, run_dir: Path) -> None:
    plain = bp.annotate(TABLE, model=llm, **OPTIONS)
    kept = bp.annotate(TABLE, model=llm, run_dir=run_dir, **OPTIONS)
    # What is cached depends on the order of the steps.
    dropped = ["output_cached_tokens"]
    assert kept.drop_columns(dropped).equals(plain.drop_columns(dropped))


def test_an_interrupted_call_goes_on(
    llm: bp.LLM, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "FLUSH_SECONDS", 0.0)
    whole = bp.annotate(TABLE, model=llm, **OPTIONS)

    def stop(progress: bp.Progress) -> None:
        if progress.done >= 5:
            raise KeyboardInterrupt

    with bp.LLM(llm.model, step_tokens=32) as slow:
        with pytest.raises(KeyboardInterrupt):
            bp.annotate(TABLE, model=slow, run_dir=run_dir, progress=stop, **OPTIONS)
        told: list[bp.Progress] = []
        rest = bp.annotate(TABLE, model=slow, run_dir=run_dir, progress=told.append, **OPTIONS)
    assert told[0].done >= 5
    assert told[-1].completion_tokens <= 5 * (len(TABLE) - told[0].done)
    assert rest["output"].equals(whole["output"])


def test_a_finished_call_loads_no_model_and_computes_nothing(
    llm: bp.LLM, run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = bp.annotate(TABLE, model=llm.model, run_dir=run_dir, **OPTIONS)
    told: list[bp.Progress] = []
    again = bp.annotate(TABLE, model=llm.model, run_dir=run_dir, progress=told.append, **OPTIONS)
    assert again.equals(first)
    assert told == []
    assert capsys.readouterr() == ("", "")


def test_columns_that_are_not_asked_and_other_libraries_change_nothing(
    llm: bp.LLM, run_dir: Path
) -> None:
    first = bp.annotate(TABLE, model=llm, run_dir=run_dir, **OPTIONS)
    told: list[bp.Progress] = []
    other = pl.from_arrow(TABLE).with_columns(new=1).select("new", "text")
    again = bp.annotate(other, model=llm, run_dir=run_dir, progress=told.append, **OPTIONS)
    assert again["output"].to_list() == first["output"].to_pylist()
    assert told == []


def test_status_and_retry_know_the_directory(llm: bp.LLM, run_dir: Path) -> None:
    bp.annotate(TABLE, model=llm, run_dir=run_dir, **OPTIONS)
    told = call("status", run_dir, "--json")
    assert '"finished": 13' in told.out or '"rows": 13' in told.out
    ran = call("retry", run_dir, "--finish-reason", "length", "--set", "max_tokens=9", "--json")
    assert ran.summary["rows"] == 13
    again = bp.annotate(TABLE, model=llm, run_dir=run_dir, **OPTIONS)
    assert max(again["output_completion_tokens"].to_pylist()) == 9


@pytest.mark.parametrize(
    ("table", "options", "sentence"),
    [
        (TABLE.slice(1), {}, "holds a run of other rows; give another run_dir"),
        (TABLE, {"max_tokens": 6}, "holds a run of something else: sampling was"),
        (TABLE, {"prompt": None, "template": "{{ text }}"}, "template was None"),
    ],
)
def test_another_call_is_refused_and_nothing_is_lost(
    llm: bp.LLM, run_dir: Path, table: pa.Table, options: dict[str, Any], sentence: str
) -> None:
    first = bp.annotate(TABLE, model=llm, run_dir=run_dir, **OPTIONS)
    with pytest.raises(bp.ConfigError, match=sentence) as refused:
        bp.annotate(table, model=llm, run_dir=run_dir, **{**OPTIONS, **options})
    assert "--" not in str(refused.value)
    assert bp.annotate(TABLE, model=llm, run_dir=run_dir, **OPTIONS).equals(first)


def test_a_folder_with_something_else_in_it_is_left_alone(llm: bp.LLM, run_dir: Path) -> None:
    run_dir.mkdir()
    (run_dir / "notes.txt").write_text("mine")
    with pytest.raises(bp.ConfigError, match="is no run directory and not empty"):
        bp.annotate(TABLE, model=llm, run_dir=run_dir, **OPTIONS)
    assert [path.name for path in run_dir.iterdir()] == ["notes.txt"]


def test_failed_rows_raise_after_the_others_are_kept(llm: bp.LLM, run_dir: Path) -> None:
    with pytest.raises(bp.RowsFailed, match="1 of 13 rows failed, the first of them row 12"):
        bp.annotate(TABLE, model=llm, run_dir=run_dir, errors="raise", **OPTIONS)
    assert bp.annotate(TABLE, model=llm, run_dir=run_dir, **OPTIONS)["output"].null_count == 1
