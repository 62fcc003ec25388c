"""A dataframe comes back with answers, those of the command, and is otherwise as it was."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from harness import call, read

import batchpipe as bp
import batchpipe.polars

TEMPLATE = "Question: which of {{ n }} {{ text }}? Answer:"
TABLE = pa.table({"text": ["tickets", "boxes", "letters", "tickets"], "n": [3, 2, 5, 3]})
OPTIONS: dict[str, Any] = {"template": TEMPLATE, "max_tokens": 6}
KINDS = {
    "arrow": lambda table: table,
    "polars": pl.from_arrow,
    "lazy": lambda table: pl.from_arrow(table).lazy(),
    "pandas": lambda table: table.to_pandas(),
}


def values(frame: Any, column: str = "output") -> list[Any]:
    """The column's cells, whatever the frame."""
    if isinstance(frame, pl.LazyFrame):
        frame = frame.collect()
    if isinstance(frame, pd.DataFrame):
        return [None if pd.isna(cell) else cell for cell in frame[column]]
    return list(frame[column].to_pylist() if isinstance(frame, pa.Table) else frame[column])


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_comes_back_as_it_was_with_the_commands_answers(
    llm: bp.LLM, model: Path, tmp_path: Path, kind: str
) -> None:
    job = TABLE.rename_columns(["text", "count"])  # n would be a parameter in a job file
    pq.write_table(job, tmp_path / "job.parquet")
    call(
        *("run", tmp_path / "job.parquet", "-m", model, "-o", tmp_path / "out.parquet"),
        *("--template", TEMPLATE.replace("n }}", "count }}"), "--max-tokens", 6),
    )
    frame = KINDS[kind](TABLE)
    answered = bp.annotate(frame, model=llm, **OPTIONS)
    assert type(answered) is type(frame)
    assert values(answered) == [row["output"] for row in read(tmp_path / "out.parquet")]
    assert values(answered, "text") == values(frame, "text")
    assert values(frame.head(0) if kind == "polars" else frame, "n")[:1] in ([3], [])


def test_a_model_by_name_is_loaded_and_closed(llm: bp.LLM, model: Path) -> None:
    by_name = bp.annotate(TABLE, model=str(model), **OPTIONS)
    assert by_name.equals(bp.annotate(TABLE, model=llm, **OPTIONS))


def test_a_polars_frame_has_it_as_a_method(llm: bp.LLM) -> None:
    frame = pl.from_arrow(TABLE)
    expected = bp.annotate(frame, model=llm, **OPTIONS)
    assert frame.llm.annotate(model=llm, **OPTIONS).equals(expected)
    assert frame.lazy().llm.annotate(model=llm, **OPTIONS).collect().equals(expected)


@pytest.mark.parametrize(
    ("column", "cells", "option"),
    [
        ("q", ["Answer:", "The refund"], {"prompt": "q"}),
        ("q", [[3, 4], [5, 6]], {"prompt": "q"}),
        ("q", [[{"role": "user", "content": "a"}]] * 2, {"messages": "q"}),
        ("q", ['[{"role": "user", "content": "a"}]'] * 2, {"messages": "q"}),
        ("prompt", ["Answer:", "The refund"], {}),
        ("prompt_token_ids", [[3, 4], [5, 6]], {}),
        ("messages", [[{"role": "user", "content": "a"}]] * 2, {}),
    ],
)
def test_prompts_are_texts_tokens_or_chats(
    llm: bp.LLM, column: str, cells: list[Any], option: dict[str, str]
) -> None:
    table = pa.table({column: cells})
    for frame in (table, pl.from_arrow(table), table.to_pandas()):
        found = values(bp.annotate(frame, model=llm, max_tokens=3, **option))
        if isinstance(cells[0][0], int):
            expected = llm.generate(cells, bp.SamplingParams(max_tokens=3))
        elif "role" in str(cells[0]):
            expected = llm.chat(
                [[{"role": "user", "content": "a"}]] * 2, bp.SamplingParams(max_tokens=3)
            )
        else:
            expected = llm.generate(cells, bp.SamplingParams(max_tokens=3))
        assert found == [answer.output for answer in expected]


@pytest.mark.parametrize("kind", KINDS)
def test_rows_with_nulls_are_null_and_told(llm: bp.LLM, kind: str) -> None:
    table = pa.table({"text": ["a", None, "b", None]})
    with pytest.warns(
        bp.FailedRowsWarning,
        match="2 of 4 rows failed, the first of them row 1: text is null; they",
    ) as told:
        answered = bp.annotate(
            KINDS[kind](table), model=llm, prompt="text", output="label", details=True, max_tokens=2
        )
    assert told[0].filename == __file__
    whole = llm.generate(["a", "b"], bp.SamplingParams(max_tokens=2))
    assert values(answered, "label") == [whole[0].output, None, whole[1].output, None]
    assert values(answered, "label_status") == ["success", "error"] * 2
    assert values(answered, "label_error") == [None, "text is null"] * 2
    assert values(answered, "label_completion_tokens") == [2, 0, 2, 0]


def test_failed_rows_raise_before_any_is_answered(llm: bp.LLM) -> None:
    steps: list[bp.Progress] = []
    with pytest.raises(bp.RowsFailed, match="1 of 2 rows failed, the first of them row 1: text is"):
        bp.annotate(
            pa.table({"text": ["a", None]}),
            model=llm,
            prompt="text",
            errors="raise",
            progress=steps.append,
        )
    assert steps == []


@pytest.mark.parametrize("kind", KINDS)
def test_no_rows_need_no_model_and_have_the_columns(kind: str) -> None:
    frame = bp.annotate(
        KINDS[kind](TABLE.slice(0, 0)),
        model="no-such-model",
        details=True,
        output="label",
        **OPTIONS,
    )
    if kind == "lazy":
        frame = frame.collect()
    names = list(frame.column_names if kind == "arrow" else frame.columns)
    assert names[:4] == ["text", "n", "label", "label_status"]
    assert names[-1] == "label_completion_tokens"
    assert len(frame) == 0


def test_several_samples_stand_in_a_column_of_lists(llm: bp.LLM) -> None:
    answered = bp.annotate(TABLE, model=llm, **OPTIONS, n=3, temperature=1.0)
    assert [len(each) for each in values(answered, "output_outputs")] == [3] * 4
    assert [each[0] for each in values(answered, "output_outputs")] == values(answered)


def test_names_of_rows_and_seeds_choose_the_draws(llm: bp.LLM) -> None:
    frame = TABLE.append_column("id", pa.array(["p", "q", "r", "s"]))

    def drawn(frame: pa.Table, **options: Any) -> list[Any]:
        return values(bp.annotate(frame, model=llm, temperature=1.0, **OPTIONS, **options))

    named = drawn(frame, id_column="id")
    assert drawn(frame.take([3, 2, 1, 0]), id_column="id") == named[::-1]
    assert drawn(frame) != named
    assert drawn(frame, seed=0) == drawn(frame)
    assert drawn(frame, seed=1) != drawn(frame)


def test_a_column_of_a_parameters_name_is_only_a_column(llm: bp.LLM) -> None:
    table = pa.table({"text": ["a", "b"], "max_tokens": ["x", "y"], "stop": [1.5, 2.5]})
    answered = bp.annotate(table, model=llm, template="{{ text }} {{ stop }}", max_tokens=2)
    assert len(values(answered)) == 2


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    (
        {"template": "{{ texx }}"},
        bp.ConfigError,
        "the template uses a column that the input does not have: texx; its columns are text, n",
    ),
    (
        {"prompt": "texx"},
        bp.ConfigError,
        "the dataframe has no column 'texx'; its columns are text, n",
    ),
    ({}, bp.ConfigError, "none of the columns prompt, messages, prompt_token_ids; its columns are"),
    ({"prompt": "text", "template": "x"}, bp.ConfigError, "template and prompt exclude each other"),
    ({"prompt": "text", "output": "n"}, bp.ConfigError, "has a column 'n' already"),
    ({"prompt": "text", "errors": "ignore"}, bp.ConfigError, "it must be 'null' or 'raise'"),
    ({"prompt": "text", "temperature": -1}, bp.ConfigError, "temperature is -1"),
    ({"prompt": "text", "id_column": "x"}, bp.ConfigError, "the dataframe has no column 'x'"),
    ({"template": "{{ text "}, bp.ConfigError, "the template is wrong in line 1"),
    ({"prompt": "text", "tempreture": 1}, TypeError, "'tempreture'; did you mean temperature?"),
    ({"prompt": "text", "model": 3}, TypeError, "model must be an LLM or a model's name, not int"),
]


@pytest.mark.parametrize(("options", "kind", "sentence"), BAD)
def test_a_wrong_call_is_refused_before_any_model(
    options: dict[str, Any], kind: type[Exception], sentence: str
) -> None:
    with pytest.raises(kind) as refused:
        bp.annotate(TABLE, **{"model": "no-such-model", **options})
    assert sentence in str(refused.value)
    assert "--" not in str(refused.value)


@pytest.mark.parametrize("frame", [[1, 2], {"text": ["a"]}, pl.Series(["a"]), "text"])
def test_what_is_no_dataframe_is_named(frame: object) -> None:
    with pytest.raises(TypeError, match="is no dataframe that batchpipe knows; give one of polars"):
        bp.annotate(frame, model="no-such-model", prompt="text")


def test_columns_of_several_kinds_are_refused_by_name() -> None:
    mixed = pd.DataFrame({"text": ["a", 3, {"x": 1}]})
    with pytest.raises(bp.ConfigError, match="column 'text' cannot be read, for its values are of"):
        bp.annotate(mixed, model="no-such-model", prompt="text")
    twice = pd.DataFrame([["a", "b"]], columns=["text", "text"])
    with pytest.raises(bp.ConfigError, match="the dataframe has 2 columns 'text'"):
        bp.annotate(twice, model="no-such-model", prompt="text")


def test_a_closed_llm_is_refused(model: Path) -> None:
    with bp.LLM(model) as llm:
        pass
    with pytest.raises(bp.ConfigError, match="is closed; make a new one"):
        bp.annotate(TABLE, model=llm, **OPTIONS)


def test_a_whole_answer_warns_of_nothing(llm: bp.LLM, capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bp.annotate(TABLE, model=llm, **OPTIONS)
    assert capsys.readouterr() == ("", "")
