"""`bp.run` and `bp.plan` are the commands: the same answers, the same plan, the same refusals."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from harness import call, read, write_lines

import batchpipe as bp
from batchpipe.api.keywords import JobKeywords, PlanKeywords, RunKeywords, SamplingKeywords
from batchpipe.config import JobOptions, PlanOptions, RunOptions
from batchpipe.planner.request import Sampling
from batchpipe.rows.parameters import COLUMNS

ROWS = [{"text": f"Question {number % 5}: what? Answer:", "n": 1} for number in range(12)]
TEMPLATE = "Please. {{ text }}"
TIMES = {"plan_seconds", "load_seconds", "run_seconds", "expected_seconds", "output", "run_dir"}


@pytest.fixture
def job(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "job.jsonl", ROWS)


def test_run_is_the_command(job: Path, model: Path, tmp_path: Path) -> None:
    ran = call(
        *("run", job, "-m", model, "-o", tmp_path / "a.jsonl", "--template", TEMPLATE),
        *("--max-tokens", 6, "--stop", "e", "--kv-memory", "1MB", "--json"),
    )
    told: list[bp.Progress] = []
    done = bp.run(
        job,
        model=model,
        out=tmp_path / "b.jsonl",
        template=TEMPLATE,
        max_tokens=6,
        stop="e",
        kv_memory=10**6,
        progress=told.append,
    )
    assert read(tmp_path / "b.jsonl") == read(tmp_path / "a.jsonl")
    mine = {name: value for name, value in done.as_json().items() if name not in TIMES}
    assert mine == {name: value for name, value in ran.summary.items() if name not in TIMES}
    assert told[-1].done == told[-1].total == 12
    assert str(done).startswith("12 of 12 rows answered, 7 of them duplicates")


def test_run_by_a_loaded_model_is_the_same_and_leaves_it_open(
    job: Path, llm: bp.LLM, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options: dict[str, Any] = {"template": TEMPLATE, "max_tokens": 6}
    bp.run(job, model=llm.model, out=tmp_path / "a.jsonl", **options)
    for name in ("b.jsonl", "c.jsonl"):
        bp.run(job, model=llm, out=tmp_path / name, **options)
        assert read(tmp_path / name) == read(tmp_path / "a.jsonl")
    assert capsys.readouterr() == ("", "")
    assert llm.generate(["a"], bp.SamplingParams(max_tokens=1))[0].status == "success"


def test_plan_is_the_command(job: Path, model: Path, llm: bp.LLM) -> None:
    ran = call("plan", job, "-m", model, "--template", TEMPLATE, "--max-tokens", 6, "--compare",
               "--kv-memory", "16MB")  # fmt: skip
    options: dict[str, Any] = {"template": TEMPLATE, "max_tokens": 6, "compare": True}
    assert f"{bp.plan(job, model=model, kv_memory='16MB', **options)}\n" == ran.out
    assert f"{bp.plan(job, model=llm, **options)}\n" == ran.out


def test_error_rows_are_counted_and_no_exception(llm: bp.LLM, tmp_path: Path) -> None:
    job = write_lines(tmp_path / "job.jsonl", [{"prompt": "a"}, {"prompt": ""}])
    done = bp.run(job, model=llm, out=tmp_path / "out.jsonl", max_tokens=2)
    assert (done.succeeded, done.failed, done.exit_code) == (1, 1, 3)


def test_a_stopped_run_goes_on_by_the_same_call(job: Path, llm: bp.LLM, tmp_path: Path) -> None:
    def stop(progress: bp.Progress) -> None:
        if progress.done:
            raise KeyboardInterrupt

    options: dict[str, Any] = {"out": tmp_path / "a.jsonl", "template": TEMPLATE, "max_tokens": 6}
    with pytest.raises(KeyboardInterrupt):
        bp.run(job, model=llm, progress=stop, **options)
    told: list[bp.Progress] = []
    assert bp.run(job, model=llm, progress=told.append, **options).succeeded == 12
    assert all(each.done_before > 0 for each in told)


@pytest.mark.parametrize(
    ("options", "kind", "sentence"),
    [
        (
            {"dtyp": "auto"},
            TypeError,
            "run() got an unexpected keyword argument 'dtyp'; did you mean dtype?",
        ),
        ({"order": "best"}, bp.ConfigError, "order is 'best'; it must be one of planned,"),
        ({"limit": 0}, bp.ConfigError, "limit is 0; it must be a whole number of 1 or more"),
        ({"prompt_column": "text", "max_tokens": 0}, bp.ConfigError, "max_tokens is 0"),
        (
            {"max_errors": "many"},
            bp.ConfigError,
            "max_errors 'many' is neither a count nor a share",
        ),
        ({"prompt_column": "q"}, bp.ConfigError, "has no column 'q' for prompt_column"),
        ({"engine": "openai"}, bp.ConfigError, "engine openai needs base_url"),
        ({"budget_hours": -1.0}, bp.ConfigError, "budget_hours -1 is no budget"),
    ],
)
def test_a_wrong_option_is_refused_in_the_words_of_python(
    job: Path, model: Path, tmp_path: Path, options: Any, kind: type[Exception], sentence: str
) -> None:
    with pytest.raises(kind) as refused:
        bp.run(job, model=model, out=tmp_path / "out.jsonl", **options)
    assert sentence in str(refused.value)
    assert "--" not in str(refused.value)


def test_what_an_llm_was_loaded_with_cannot_be_given_again(
    job: Path, llm: bp.LLM, tmp_path: Path
) -> None:
    for options in ({"dtype": "float32"}, {"base_url": "http://localhost:1/v1"}):
        with pytest.raises(bp.ConfigError, match=f"{next(iter(options))} belongs to the LLM"):
            bp.run(job, model=llm, out=tmp_path / "out.jsonl", **options)
    with pytest.raises(bp.ConfigError, match="kv_memory belongs to the LLM"):
        bp.plan(job, model=llm, kv_memory="1GB")


def test_every_option_of_the_commands_is_a_keyword() -> None:
    """A new option needs a line in `batchpipe.api.keywords`."""
    own = {"input", "model", "model_called", "batch_lines", "sampling", "row_sampling"}
    job = {each.name for each in fields(JobOptions)} - own
    run = {each.name for each in fields(RunOptions)} - {"out"}
    plan = {each.name for each in fields(PlanOptions)}
    sampling = set(SamplingKeywords.__annotations__)
    fields_of = {COLUMNS[name] for name in sampling | {"seed"}}
    assert fields_of == {each.name for each in fields(Sampling)} - {"prompt_logprobs_from"}
    assert set(RunKeywords.__annotations__) == job | run | sampling
    assert set(PlanKeywords.__annotations__) == set(JobKeywords.__annotations__) | plan
    assert set(bp.SamplingParams.__dataclass_fields__) == sampling | {"seed"}


class Texts(HTMLParser):
    """The page's texts; every tag is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_a_notebook_shows_tables_and_escapes_what_rows_say(llm: bp.LLM, tmp_path: Path) -> None:
    evil = "<script>alert(1)</script> & more "
    rows = [{"prompt": evil + "a"}, {"prompt": evil + "b"}, {"prompt": None, "x": evil}]
    job = write_lines(tmp_path / "job.jsonl", rows)
    preview = bp.plan(job, model=llm, max_tokens=2, compare=True)
    done = bp.run(job, model=llm, out=tmp_path / "<b>.jsonl", max_tokens=2)
    for page in (preview._repr_html_(), done._repr_html_()):
        assert "<script>" not in page
        assert "<b>" not in page
        assert "<table>" in page
        parser = Texts()
        parser.feed(page)
        assert parser.open == []
    assert evil.split("&")[0].strip() in preview.tree
    assert "prompt is null" in preview._repr_html_()


NAMES = """
import sys
import batchpipe as bp
for name in bp.__all__:
    assert callable(getattr(bp, name)), name
bp.SamplingParams(max_tokens=3)
try:
    bp.LLM("no-such-model", dtype="float99")
except bp.ConfigError:
    pass
assert set(bp.__all__) <= set(dir(bp))
try:
    bp.no_such_name
except AttributeError as error:
    assert "no attribute 'no_such_name'" in str(error)
print({"torch", "transformers", "pandas", "polars"} & set(sys.modules))
import batchpipe.running.job
assert callable(bp.run), "the package of that name is the function"
import batchpipe.running.job as job
assert job is batchpipe.running.job
"""


def test_every_public_name_is_there_without_torch_or_any_dataframe_library() -> None:
    ran = subprocess.run([sys.executable, "-c", NAMES], capture_output=True, text=True, check=True)
    assert ran.stdout == "set()\n"
