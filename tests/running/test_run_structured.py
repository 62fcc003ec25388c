"""Answers of a form, from the command to the results: typed, checked, and refused in time."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from harness import Ran, Row, call, ended, read, spawn, write_lines, write_parquet

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 5},
        "age": {"type": "integer"},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2},
        "more": {"type": "object", "properties": {"x": {"type": "boolean"}}},
    },
    "required": ["name", "age", "tags"],
}
TYPE = pa.struct(
    [
        ("name", pa.string()),
        ("age", pa.int64()),
        ("tags", pa.list_(pa.string())),
        ("more", pa.struct([("x", pa.bool_())])),
    ]
)
HOT = ("--temperature", 1, "--max-tokens", 250)


@pytest.fixture
def job(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "job.jsonl", [{"prompt": f"Tell them, {n}"} for n in range(12)])


def run(job: Path, model: Path, *more: object, out: str = "out.parquet") -> Ran:
    return call("run", job, "-m", model, "-o", job.parent / out, "--json", *more)


def rows_of(job: Path, out: str = "out.parquet") -> list[Row]:
    return read(job.parent / out)


def test_choices_are_a_categorical_column(job: Path, model: Path) -> None:
    ran = run(job, model, "--choices", "good,bad,so so", *HOT)
    assert ran.code == 0, ran.err
    table = pq.read_table(job.parent / "out.parquet")
    assert table.schema.field("parsed").type == pa.dictionary(pa.int32(), pa.string())
    labels = table["parsed"].combine_chunks().dictionary.to_pylist()
    assert labels == ["good", "bad", "so so"]
    for row in table.to_pylist():
        assert row["output"] == row["parsed"] in labels
        assert (row["status"], row["finish_reason"]) == ("success", "stop")
    assert len(set(table["output"].to_pylist())) > 1


def test_a_column_that_the_template_shows_is_no_form(tmp_path: Path, model: Path) -> None:
    rows = [{"schema": "table parcels", "question": "how many?"}, {"schema": "x", "question": "y"}]
    job = write_lines(tmp_path / "job.jsonl", rows)
    ran = run(job, model, "--template", "{{ schema }}: {{ question }}", "--max-tokens", 2)
    assert ran.code == 0, ran.err
    answers = rows_of(job)
    assert [row["status"] for row in answers] == ["success", "success"]
    assert "parsed" not in answers[0]


@pytest.mark.parametrize("as_file", [True, False])
def test_a_schema_is_a_struct_column_and_a_nested_value(
    job: Path, model: Path, tmp_path: Path, as_file: bool
) -> None:
    given: object = json.dumps(SCHEMA)
    if as_file:
        given = tmp_path / "person.json"
        given.write_text(json.dumps(SCHEMA))
    assert run(job, model, "--schema", given, *HOT).code == 0
    assert run(job, model, "--schema", given, *HOT, out="out.jsonl").code == 0
    table = pq.read_table(job.parent / "out.parquet")
    assert table.schema.field("parsed").type == TYPE
    for row, line in zip(table.to_pylist(), rows_of(job, "out.jsonl"), strict=True):
        value = json.loads(row["output"])
        jsonschema.validate(value, SCHEMA)
        assert line["parsed"] == value
        assert row["parsed"]["age"] == value["age"]
        assert line["output"] == row["output"]


def test_fields_in_a_line_are_a_schema(job: Path, model: Path) -> None:
    ran = run(job, model, "--schema", "ok bool, mood enum(good|bad)?", *HOT)
    assert ran.code == 0, ran.err
    kind = pa.struct([("ok", pa.bool_()), ("mood", pa.string())])
    assert pq.read_schema(job.parent / "out.parquet").field("parsed").type == kind


def test_a_pattern_or_a_grammar_needs_no_column_beside_the_text(job: Path, model: Path) -> None:
    assert run(job, model, "--regex", "[A-Z]{2}-[0-9]+;", *HOT).code == 0
    for row in rows_of(job):
        assert re.fullmatch("[A-Z]{2}-[0-9]+;", row["output"])
        assert "parsed" not in row
    path = job.parent / "g.gbnf"
    path.write_text('root ::= "<" [a-z]{1,4} ">"')
    assert run(job, model, "--grammar", path, *HOT, out="g.jsonl").code == 0
    for row in rows_of(job, "g.jsonl"):
        assert re.fullmatch("<[a-z]{1,4}>", row["output"])
        assert "parsed" not in row


def test_every_row_may_ask_for_its_own_form(job: Path, model: Path) -> None:
    rows: list[dict[str, Any]] = [{"prompt": f"Tell them, {n}"} for n in range(8)]
    rows[0]["choices"] = ["x", "y"]
    rows[1]["schema"] = SCHEMA
    rows[2]["schema"] = '{"type": "boolean"}'
    rows[3]["regex"] = "[0-9]{4}"
    rows[4]["grammar"] = 'root ::= "q"'
    rows[5] |= {"choices": ["x", "y"], "regex": "a"}
    rows[6]["schema"] = {"type": "thing"}
    ran = run(write_lines(job, rows), model, "--choices", "yes,no", *HOT, out="out.jsonl")
    assert ran.code == 3, ran.err
    found = rows_of(job, "out.jsonl")
    assert found[0]["parsed"] in ("x", "y")
    jsonschema.validate(found[1]["parsed"], SCHEMA)
    assert found[2]["parsed"] in (True, False)
    assert found[3]["output"].isdigit()
    assert found[4]["output"] == "q"
    assert found[5]["error"] == "choices and regex exclude each other: give one"
    assert "the schema cannot be compiled: Unsupported type" in found[6]["error"]
    assert found[7]["parsed"] in ("yes", "no")
    assert [row["status"] for row in found].count("error") == 2


def test_a_column_of_arrow_structs_asks_as_well(job: Path, model: Path) -> None:
    """One struct type has the fields of all rows: what a row lacks is null, and not asked."""
    first = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
    second = {"type": "object", "properties": {"b": {"enum": ["x", "y"]}}, "required": ["b"]}
    rows = [{"prompt": "Tell", "schema": each} for each in (first, second, None)]
    path = write_parquet(job.parent / "job.parquet", rows)
    ran = run(path, model, *HOT)
    assert ran.code == 0, ran.err
    parsed = [row["parsed"] for row in rows_of(job)]
    assert [*json.loads(parsed[0])] == ["a"]
    assert [*json.loads(parsed[1])] == ["b"]
    assert parsed[2] is None


def test_an_answer_cut_short_is_invalid_and_a_retry_completes_it(job: Path, model: Path) -> None:
    cut = ("--schema", json.dumps(SCHEMA), "--temperature", 1, "--max-tokens", 4)
    ran = run(job, model, *cut)
    assert ran.code == 3
    assert (ran.summary["failed"], ran.summary["invalid_output"]) == (12, 12)
    for row in rows_of(job):
        assert (row["status"], row["finish_reason"]) == ("invalid_output", "length")
        assert row["output"].startswith("{")
        assert row["parsed"] is None
        assert row["completion_tokens"] == 4
        assert row["error"].startswith("the answer ran out of tokens")
    run_dir = job.parent / "out.parquet.run"
    again = call("retry", run_dir, "--status", "invalid_output", "--set", "max_tokens=250")
    assert again.code == 0, again.err
    table = pq.read_table(job.parent / "out.parquet")
    assert table.schema.field("parsed").type == TYPE
    assert table["status"].to_pylist() == ["success"] * 12


def test_a_retry_may_ask_for_another_form(job: Path, model: Path) -> None:
    assert run(job, model, "--regex", "[0-9]{3}", "--max-tokens", 2).code == 3
    run_dir = job.parent / "out.parquet.run"
    settings = ("--set", 'choices=["a","b"]', "--set", "max_tokens=9")
    again = call("retry", run_dir, "--status", "invalid_output", *settings)
    assert again.code == 0, again.err
    for row in rows_of(job):
        assert row["parsed"] == row["output"] in ("a", "b")


def test_a_killed_run_goes_on_with_the_same_answers(job: Path, model: Path) -> None:
    write_lines(job, [{"prompt": f"Tell them, {n}"} for n in range(60)])
    form = ("--schema", json.dumps(SCHEMA), *HOT)
    assert run(job, model, *form, out="whole.parquet").code == 0
    line = ("run", job, "-m", model, "-o", job.parent / "out.parquet", *form, "--step-tokens", 16)
    process = spawn(*line)
    parts = job.parent / "out.parquet.run"
    while process.poll() is None and not any(parts.glob("**/*part*.parquet")):
        pass
    process.kill()
    ended(process)
    assert call(*line).code == 0
    whole, resumed = (
        pq.read_table(job.parent / name, columns=["output", "parsed", "status"])
        for name in ("whole.parquet", "out.parquet")
    )
    assert whole.equals(resumed)


def test_samples_are_each_judged(job: Path, model: Path) -> None:
    assert run(job, model, "--choices", "a,b", "--n", 3, *HOT).code == 0
    for row in rows_of(job):
        assert set(row["outputs"]) <= {"a", "b"}
        assert row["parsed"] == row["outputs"][0]


def test_a_changed_form_is_another_run(job: Path, model: Path) -> None:
    assert run(job, model, "--choices", "a,b").code == 0
    other = run(job, model, "--choices", "a,c")
    assert other.code == 2
    assert "sampling was" in other.sentence


def test_a_form_narrows_the_longest_answer_that_is_planned_for(job: Path, model: Path) -> None:
    given = ("plan", job, "-m", model, "--json")
    planned = call(*given, "--choices", "yes,no").summary
    assert planned["most_answer_tokens"] == 12 * 4
    assert call(*given).summary["most_answer_tokens"] > 12 * 4


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        (("--schema", '{"type": "thing"}'), "--schema: the schema cannot be compiled: Unsupported"),
        (("--schema", '{"enum": []}'), "enum array must not be empty"),
        (("--schema", "{"), "which is no JSON"),
        (("--schema", "missing.json"), "--schema missing.json cannot be read"),
        (("--regex", "(a"), "--regex: the regex cannot be compiled: Regex parsing error"),
        (("--grammar", "start: x"), "--grammar: the grammar cannot be compiled: EBNF lexer error"),
        (("--choices", "a"), "choices is 'a'; there is no choice: give two texts or more"),
        (("--choices", "a,b,a"), "choices has 'a' twice"),
        (("--choices", "a,b", "--regex", "a"), "choices and regex exclude each other"),
        (("--choices", "a,b", "--ignore-eos"), "ignore_eos and choices exclude each other"),
    ],
)
def test_a_form_that_makes_no_sense_is_refused_before_the_model_loads(
    job: Path, bare_model: Path, given: tuple[str, ...], wrong: str
) -> None:
    ran = run(job, bare_model, *given)
    assert ran.code == 2, ran.err
    assert wrong in ran.sentence
    assert not (job.parent / "out.parquet.run").exists()


def test_a_model_whose_answers_have_no_end_is_refused(
    job: Path, bare_model: Path, tmp_path: Path
) -> None:
    endless = tmp_path / "endless"
    shutil.copytree(bare_model, endless)
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        fields = json.loads((endless / name).read_text())
        (endless / name).write_text(json.dumps(fields | {"eos_token_id": None, "eos_token": None}))
    ran = run(job, endless, "--choices", "a,b")
    assert ran.code == 2, ran.err
    assert "has no token that ends an answer" in ran.sentence


def test_rows_that_all_ask_for_nonsense_are_all_told(job: Path, model: Path) -> None:
    write_lines(job, [{"prompt": "a", "regex": "(a"}, {"prompt": "b", "choices": ["x"]}])
    ran = run(job, model)
    assert ran.code == 3, ran.err
    assert [row["status"] for row in rows_of(job)] == ["error", "error"]


def test_without_the_package_the_install_line_is_told(
    job: Path, bare_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    ran = run(job, bare_model, "--choices", "a,b")
    assert ran.code == 2
    assert "pip install 'batchpipe[structured]'" in ran.sentence


def test_stop_strings_cut_and_what_is_cut_is_judged(job: Path, model: Path) -> None:
    form = ("--regex", "[a-z]{2}(;[0-9]{2})?", "--stop", ";", *HOT)
    assert run(job, model, *form).code == 0
    assert all(re.fullmatch("[a-z]{2}", row["output"]) for row in rows_of(job))
