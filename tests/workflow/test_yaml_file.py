"""YAML and Python say the same, and each mistake in a file is one sentence with its line."""

from __future__ import annotations

from pathlib import Path

import pytest
from flow_files import YAML, python_flow

import batchpipe as bp
from batchpipe.errors import ConfigError
from batchpipe.workflow.authoring.yaml_file import flow_of_text, read_flow
from batchpipe.workflow.steps import Cascade, Llm, Vote

SMALL = "models: {m: x}\nsteps:\n  a:\n    llm: m\n    template: hi\n"


def test_yaml_and_python_make_equal_flows(tmp_path: Path) -> None:
    (tmp_path / "flow.yaml").write_text(YAML)
    read = read_flow(tmp_path / "flow.yaml")
    assert read == python_flow().flow
    assert bp.Workflow.from_yaml(tmp_path / "flow.yaml").flow == read
    changed = python_flow().llm("more", "small", template="x").flow
    assert read != changed


def test_lines_are_those_of_the_file() -> None:
    flow = flow_of_text(YAML, "flow.yaml")
    written = YAML.splitlines()
    for step in flow.steps:
        assert step.line is not None
        assert written[step.line - 1].startswith(f"  {step.name}:")
    entities = flow.by_name["entities"]
    assert written[entities.lines["template"] - 1] == "      Passage:"
    assert written[entities.lines["stop"] - 1] == '    stop: "\\n"'


def test_plain_words_stay_words() -> None:
    grade = flow_of_text(YAML, "flow.yaml").by_name["grade"]
    assert isinstance(grade, Cascade)
    assert grade.choices == ("yes", "no")
    text = SMALL.replace("hi", "12:30") + "    stop: [on, 2020-01-01]\n"
    step = flow_of_text(text, "f").by_name["a"]
    assert isinstance(step, Llm)
    assert step.blocks == ("12:30",)
    assert step.sampling["stop"] == ("on", "2020-01-01")


@pytest.mark.parametrize(
    ("written", "read"),
    [("1e-3", 1e-3), (".5", 0.5), ("2", 2.0), ("010", None), ("1_0", None), ("0x1", None)],
)
def test_numbers_are_as_in_json(written: str, read: float | None) -> None:
    text = SMALL + f"    temperature: {written}\n"
    if read is None:
        with pytest.raises(ConfigError, match=f"temperature is '{written}'; it must be a number"):
            flow_of_text(text, "f")
        return
    step = flow_of_text(text, "f").by_name["a"]
    assert isinstance(step, Llm)
    assert step.sampling["temperature"] == read


@pytest.mark.parametrize("text", ["a: \x00", "[" * 100_000, "steps: {? [a] : b}", "--- a\n--- b"])
def test_what_no_parser_takes_is_one_sentence(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^f"):
        flow_of_text(text, "f")


def test_what_is_not_said_is_greedy_and_votes_are_not() -> None:
    flow = flow_of_text(YAML, "flow.yaml")
    chat, verdict = flow.by_name["chat"], flow.by_name["verdict"]
    assert isinstance(chat, Llm)
    assert isinstance(verdict, Vote)
    assert chat.sampling == {"temperature": 0.0}
    assert verdict.sampling == {"temperature": 0.7}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "f.yaml is empty"),
        ("steps: [", "f.yaml line 1: this is no YAML"),
        (
            "steps: {a: !!python/object:os.system {}}",
            "line 1: this is no YAML: could not determine",
        ),
        ("just words", "f.yaml line 1: a workflow is 'just words'; it must be keys with values"),
        ("models: {}\nstep: {}", r"line 2: a workflow has no key step; did you mean steps\?; its"),
        ("models: {}", "line 1: there are no steps"),
        (SMALL + "  a:\n    llm: m\n", "line 6: steps.a stands here a second time"),
        (
            SMALL + "    max_token: 3\n",
            r"line 6, step a: llm has no key max_token; did you mean max",
        ),
        (SMALL + "    n: 3\n", "line 6, step a: llm has no key n"),
        (
            SMALL + "    max_tokens: few\n",
            "line 6, step a: max_tokens is 'few'; it must be a whole",
        ),
        (SMALL + "    choices: [a]\n", "line 6, step a: choices is .* there is no choice"),
        (
            SMALL + "    order: free\n    messages: []\n",
            "line 3, step a: template and messages excl",
        ),
        (SMALL.replace("template: hi", "top_k: 3"), "line 3, step a: template is missing; or give"),
        (
            SMALL.replace("llm: m", "lm: m"),
            r"line 3: step a is of no kind; did you mean llm\?; a st",
        ),
        (SMALL.replace("llm: m", "llm: m\n    sql: d"), "line 3: step a are both of llm, sql"),
        (SMALL.replace("  a:", "  a-b:"), "line 3, step a-b: 'a-b' cannot name a step"),
        (SMALL.replace("  a:", "  loop:"), "'loop' cannot name a step"),
        (SMALL.replace("{m: x}", "{m: {mode: x}}"), "line 1: model m has no model; give a hub id"),
        (
            SMALL.replace("{m: x}", "{m: {model: x, dtyp: a}}"),
            r"no option dtyp; did you mean dtype\?",
        ),
        (
            SMALL.replace("{m: x}", "{m: {model: x, dtype: a}}"),
            "model m: dtype is 'a'; it must be o",
        ),
        (
            SMALL.replace("{m: x}", "{m: {model: x, kv_memory: a}}"),
            "model m: kv_memory 'a' is no am",
        ),
        (SMALL + "databases: {d: films.db}", "line 6: database d is 'films.db'; write a URL such"),
        (SMALL + "output: 3", "line 6: output is 3; list columns"),
        (SMALL + "  b: &b [*b]\n", "it contains itself|it must be keys"),
        (
            SMALL + "  b: {http: PUT https://x}",
            "line 6, step b: http is 'PUT https://x'; write GET",
        ),
        (SMALL + "  b: {http: GET x}", "step b: http asks 'x'; a URL begins with"),
        (SMALL + "  b: {http: GET https://x, body: {}}", "step b: a GET has no body"),
        (SMALL + "  b: {python: os, reads: [], writes: [x]}", "python is 'os'; write module:funct"),
        (SMALL + "  b: {python: 'os:x', writes: []}", "step b: writes is \\[\\]; list the fields"),
        (SMALL + "  b: {reduce: a}", "step b: items is missing"),
        (
            SMALL + "  b: {vote: m, template: x, samples: 1}",
            "samples is 1; it must be a whole numb",
        ),
        (SMALL + "  b: {vote: m, template: x, temperature: 0}", "all samples of the vote would be"),
        (
            SMALL + "  b: {vote: m, template: x, answer: '('}",
            "'\\(', which is no regular expression",
        ),
        (SMALL + "  b: {cascade: [m], template: x}", "cascade names 1 model; give a small one"),
        (SMALL + "  b: {cascade: [m, k], template: x}", "choices is missing; the margin is"),
        (SMALL + "  b: {sql: d, query: ''}", "query is ''; it must be a text that is not empty"),
        (
            SMALL + "  b: {sql: d, query: x, values: {t: []}}",
            "values.t is \\[\\]; it must be an expr",
        ),
    ],
)
def test_a_mistake_is_told_with_file_and_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        flow_of_text(text, "f.yaml")
    assert "f.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the workflow .*no\.yaml: No such file"):
        read_flow(tmp_path / "no.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9")
    with pytest.raises(ConfigError, match=r"latin\.yaml is not UTF-8"):
        read_flow(tmp_path / "latin.yaml")


def test_aliases_that_grow_without_end_are_refused() -> None:
    bomb = "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
    for name, below in zip("bcdefg", "abcdef", strict=True):
        bomb += f"{name}: &{name} [{', '.join([f'*{below}'] * 10)}]\n"
    with pytest.raises(ConfigError, match="more than 100,000 values"):
        flow_of_text(bomb, "f.yaml")


def test_python_tells_the_step() -> None:
    flow = bp.Workflow(models={"m": "x"}).llm("a", "m", template="x")
    with pytest.raises(ConfigError, match=r"^step a: there is one of this name already"):
        flow.llm("a", "m", template="x")
    with pytest.raises(ConfigError, match=r"^step b: top_p is 2; it must be a number above 0"):
        flow.llm("b", "m", template="x", top_p=2)
    with pytest.raises(ConfigError, match=r"^step b: items is missing"):
        flow.reduce("b", "a", items={})
