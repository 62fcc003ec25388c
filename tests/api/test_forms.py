"""Answers of a form in Python: typed columns and values, the likeliest label with its margin."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import batchpipe as bp

TEXTS = ["Question: which ticket is urgent? Answer:", "The refund goes to", "Question: which box?"]
LABELS = ["yes", "no", "not now"]  # two begin alike, and one is the beginning of another
SCHEMA = {
    "type": "object",
    "properties": {
        "age": {"type": "integer", "minimum": 0, "maximum": 9},
        "ok": {"type": "boolean"},
    },
    "required": ["age", "ok"],
    "additionalProperties": False,
}
MAKERS: dict[str, Any] = {"arrow": pa.table, "polars": pl.DataFrame, "pandas": pd.DataFrame}


class Person:
    """As pydantic has it."""

    @classmethod
    def model_json_schema(cls) -> dict[str, Any]:
        return SCHEMA


def cells(frame: Any, name: str) -> list[Any]:
    return list(frame[name].to_pylist() if isinstance(frame, pa.Table) else frame[name])


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("run_dir", [None, "kept"])
def test_choices_are_a_text_and_a_categorical_column(
    llm: bp.LLM, tmp_path: Path, kind: str, run_dir: str | None
) -> None:
    frame = MAKERS[kind]({"text": TEXTS, "choices": ["a,b"] * 3})  # a column is no parameter
    labelled = bp.annotate(
        frame,
        model=llm,
        prompt="text",
        choices=LABELS,
        output="label",
        run_dir=run_dir and tmp_path / run_dir,
    )
    assert type(labelled) is type(frame)
    assert set(cells(labelled, "label")) <= {*LABELS}
    assert cells(labelled, "label_parsed") == cells(labelled, "label")
    kinds = {"arrow": pa.types.is_dictionary, "pandas": lambda k: k == "category"}
    if kind == "arrow":
        assert kinds[kind](labelled.schema.field("label_parsed").type)
    elif kind == "pandas":
        assert kinds[kind](labelled["label_parsed"].dtype)
    else:
        assert labelled["label_parsed"].dtype in (pl.Categorical, pl.Enum)


@pytest.mark.parametrize("schema", [SCHEMA, Person, json.dumps(SCHEMA), "file"])
def test_a_schema_is_a_struct_however_it_is_given(
    llm: bp.LLM, tmp_path: Path, schema: object
) -> None:
    if schema == "file":
        schema = tmp_path / "form.json"
        schema.write_text(json.dumps(SCHEMA))
    table = bp.annotate(
        pa.table({"prompt": TEXTS}), model=llm, schema=schema, max_tokens=60, temperature=1.0
    )
    assert table.schema.field("output_parsed").type == pa.struct(
        [("age", pa.int64()), ("ok", pa.bool_())]
    )
    for text, value in zip(cells(table, "output"), cells(table, "output_parsed"), strict=True):
        assert json.loads(text) == value
        assert 0 <= value["age"] <= 9


def test_each_prompt_may_have_a_form_of_its_own(llm: bp.LLM) -> None:
    params = [
        bp.SamplingParams(choices=LABELS),
        bp.SamplingParams(regex="[ab]{3}"),
        bp.SamplingParams(schema=SCHEMA, max_tokens=60),
        bp.SamplingParams(grammar='root ::= "x" "y"'),
        bp.SamplingParams(regex="("),
        None,
    ]
    answers = llm.generate([TEXTS[0]] * 6, params)
    assert answers[0].parsed == answers[0].output
    assert answers[0].output in LABELS
    assert answers[1].output is not None
    assert {*answers[1].output} <= {*"ab"}
    assert (len(answers[1].output), answers[1].parsed) == (3, None)
    assert answers[2].parsed.keys() == {"age", "ok"}
    assert answers[3].output == "xy"
    assert answers[4].status == "error"
    assert answers[4].error is not None
    assert answers[4].error.startswith("the regex cannot be compiled")
    assert answers[5].status == "success"


def test_what_was_cut_keeps_its_text_and_has_no_value(llm: bp.LLM) -> None:
    with pytest.warns(bp.FailedRowsWarning, match="or have there what does not have the form"):
        table = bp.annotate(
            pa.table({"prompt": TEXTS}), model=llm, schema=SCHEMA, max_tokens=2, details=True
        )
    assert cells(table, "output_status") == ["invalid_output"] * 3
    assert cells(table, "output_parsed") == [None] * 3
    assert None not in cells(table, "output")


def test_the_command_as_a_function_takes_python_values(llm: bp.LLM, tmp_path: Path) -> None:
    job = tmp_path / "job.jsonl"
    job.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in TEXTS))
    for number, model in enumerate((llm, llm.model)):
        out = tmp_path / f"{number}.jsonl"
        done = bp.run(job, model=model, out=out, schema=Person, max_tokens=60)
        assert done.succeeded == 3
        assert bp.run(job, model=model, out=out, schema=Person, max_tokens=60) == done
        rows = [json.loads(line) for line in out.read_text().splitlines()]
        assert [row["parsed"] for row in rows] == [json.loads(row["output"]) for row in rows]


@pytest.mark.parametrize("kind", MAKERS)
def test_labels_have_the_probabilities_of_their_scores(llm: bp.LLM, kind: str) -> None:
    frame = MAKERS[kind]({"text": [*TEXTS, None]})
    with pytest.warns(bp.FailedRowsWarning, match="1 of 4 rows failed, the first of them row 3"):
        labelled = bp.annotate(
            frame,
            model=llm,
            prompt="text",
            choices=LABELS,
            probabilities=True,
            output="label",
            details=True,
        )
    for place, text in enumerate(TEXTS):
        # One label begins another, so that the end of the answer tells them apart.
        ids = [llm.tokenizer(label, add_special_tokens=False)["input_ids"] for label in LABELS]
        ends = [[*each, llm.tokenizer.eos_token_id] for each in ids]
        totals = np.array([each.logprob for each in llm.score([text] * 3, ends)])
        wanted = np.exp(totals) / np.exp(totals).sum()
        found = cells(labelled, "label_probabilities")[place]
        assert [found[label] for label in LABELS] == pytest.approx(wanted.tolist(), abs=1e-4)
        assert cells(labelled, "label")[place] == LABELS[int(wanted.argmax())]
        first, second = sorted(wanted, reverse=True)[:2]
        assert cells(labelled, "label_margin")[place] == pytest.approx(first - second, abs=1e-4)
    assert cells(labelled, "label_status") == ["success"] * 3 + ["error"]
    assert pd.isna(cells(labelled, "label_margin")[3])
    assert cells(labelled, "label_probabilities")[3] is None


def test_no_rows_have_the_same_columns(llm: bp.LLM) -> None:
    some, none = pa.table({"prompt": TEXTS}), pa.table({"prompt": pa.array([], pa.string())})
    for options in (
        {"choices": LABELS, "probabilities": True},
        {"choices": LABELS},
        {"schema": SCHEMA, "max_tokens": 60},
    ):
        wanted = bp.annotate(some, model=llm, **options).schema
        assert bp.annotate(none, model="no/model", **options).schema.equals(wanted)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"probabilities": True}, "give choices"),
        ({"probabilities": True, "regex": "a"}, "leave regex"),
        ({"probabilities": True, "choices": LABELS, "temperature": 1.0}, "leave temperature"),
        ({"probabilities": True, "choices": LABELS, "run_dir": "x"}, "leave one of both"),
        ({"choices": ["one"]}, "give two texts or more"),
        ({"choices": LABELS, "regex": "a"}, "exclude each other"),
        ({"schema": 3}, "schema is 3; it must be a JSON Schema"),
        ({"schema": "no.json"}, "schema no.json cannot be read"),
        ({"regex": "("}, "regex: the regex cannot be compiled"),
    ],
)
def test_a_form_that_cannot_be_is_refused_before_the_model_loads(
    options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(bp.ConfigError, match=sentence.replace("(", "\\(")):
        bp.annotate(pa.table({"prompt": TEXTS}), model="no/model", **options)


def test_one_form_for_all_prompts_is_refused_at_once(llm: bp.LLM) -> None:
    with pytest.raises(bp.ConfigError, match=r"^regex: the regex cannot be compiled"):
        llm.generate(TEXTS, bp.SamplingParams(regex="("))


def test_samples_of_a_form_need_no_temperature_where_the_model_has_its_own(
    tmp_path: Path, model: Path
) -> None:
    own = tmp_path / "own"
    shutil.copytree(model, own)
    config = json.loads((own / "generation_config.json").read_text())
    config |= {"do_sample": True, "temperature": 0.9}
    (own / "generation_config.json").write_text(json.dumps(config))
    table = bp.annotate(pa.table({"prompt": TEXTS}), model=own, choices=LABELS, n=3)
    assert all({*each} <= {*LABELS} for each in cells(table, "output_outputs"))
