"""A workflow that dies at any moment goes on in the middle: nothing is lost or asked twice."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from flows import SHAPES, chain, exploded, grouped, rows, run
from harness import call, ended, read, spawn, write_lines

from batchpipe.errors import ConfigError, StoppedEarly
from batchpipe.journal import moments
from batchpipe.journal.folder import open_folder
from batchpipe.journal.manifest import read_manifest
from batchpipe.journal.part_file import batches
from batchpipe.workflow import begin
from batchpipe.workflow.builder import Workflow
from batchpipe.workflow.journal import journal
from batchpipe.workflow.step_progress import ToldSteps

YAML = """
models:
  a: {{model: {model}, dtype: float32, kv_memory: 20MB}}
steps:
  first: {{llm: a, template: "About {{{{ title }}}}:", max_tokens: 12}}
  each: {{explode: names}}
  judge: {{llm: a, template: "{{{{ first.output }}}} of {{{{ each.item }}}}:", max_tokens: 9}}
  together: {{reduce: each, items: {{name: each.item, said: judge.output}}}}
  last: {{llm: a, template: "So {{{{ together.items | length }}}} {{{{ title }}}}", max_tokens: 9}}
output: {{items: together.items, last: last.output}}
"""

IMPATIENT = """
import sys
from batchpipe.workflow.journal import journal
journal.FLUSH_SECONDS = 0.0
from batchpipe.cli import main
main(sys.argv[1:])
"""


class Killed(BaseException):
    pass


@pytest.fixture
def models(tiny_model: Callable[[str], Path]) -> Mapping[str, Path]:
    return {"a": tiny_model("llama"), "b": tiny_model("qwen3")}


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every turn's outcomes go to disk."""
    monkeypatch.setattr(journal, "FLUSH_SECONDS", 0.0)
    yield
    moments.hook = None


def kill_at(count: int) -> None:
    """From so many durable actions on, nothing more happens in this process."""
    left = count

    def reached(moment: str) -> None:
        nonlocal left
        left -= 1
        if left <= 0:
            raise Killed

    moments.hook = reached


def asked_of(folder: Path) -> list[tuple[Any, ...]]:
    """Every outcome in the run directory."""
    manifest = read_manifest(open_folder(str(folder)))
    assert manifest is not None
    found = [
        (row["table"], row["ordinal"], row["step"], tuple(row["below"]), row["stage"])
        for part in manifest.parts
        for table in batches((folder / part.name).read_bytes())
        for row in table.to_pylist()
    ]
    return sorted(found, key=str)


@pytest.mark.parametrize("shape", ["chain", "exploded", "grouped", "voted", "cascaded"])
def test_killed_at_any_moment_it_ends_as_if_never_stopped(
    shape: str, models: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = shape in ("voted", "cascaded")
    if both:  # its models come one after the other
        monkeypatch.setattr(begin, "memory_bytes", lambda device: 1_200_000)
    flow = SHAPES[shape](models if both else {"a": models["a"]})
    expected, whole = run(flow, rows(), tmp_path, out="whole.jsonl")
    once = asked_of(tmp_path / "whole.jsonl.run")
    for count in (2, 6, 9, 14):
        out = f"killed-{count}.jsonl"
        for again in (count, count + 1, count + 3):
            kill_at(again)
            try:
                run(flow, rows(), tmp_path, out=out)
                break
            except Killed:
                moments.hook = None
        moments.hook = None
        found, summary = run(flow, rows(), tmp_path, out=out)
        assert found == expected
        assert asked_of(tmp_path / f"{out}.run") == once
        for step, tally in summary.by_step.items():
            assert tally["calls"] >= whole.by_step[step]["calls"] - tally["collapsed"]
            assert tally["rows"] == whole.by_step[step]["rows"]
            assert tally["failed"] == whole.by_step[step]["failed"]


def test_kill_9_in_the_middle(models: Mapping[str, Path], tmp_path: Path) -> None:
    inputs = write_lines(tmp_path / "in.jsonl", rows(60))
    flow = tmp_path / "flow.yaml"
    flow.write_text(YAML.format(model=models["a"]))
    arguments = ("run", inputs, "--workflow", flow, "-o")
    assert call(*arguments, tmp_path / "whole.jsonl").code == 0
    out = tmp_path / "out.jsonl"
    for finished in (0, 10):
        process = spawn(*arguments, out, script=IMPATIENT)
        while process.poll() is None and not _has_finished(f"{out}.run", finished):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert ended(process).code in (-signal.SIGKILL, 0)
    assert call(*arguments, out).code == 0
    assert read(out) == read(tmp_path / "whole.jsonl")
    assert asked_of(Path(f"{out}.run")) == asked_of(tmp_path / "whole.jsonl.run")


def _has_finished(run_dir: str, rows: int) -> bool:
    manifest = read_manifest(open_folder(run_dir))
    return manifest is not None and sum(part.rows for part in manifest.parts) > rows


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_stop_is_granted_and_the_same_command_goes_on(
    number: int, code: int, models: Mapping[str, Path], tmp_path: Path
) -> None:
    inputs = write_lines(tmp_path / "in.jsonl", rows(60))
    flow = tmp_path / "flow.yaml"
    flow.write_text(YAML.format(model=models["a"]))
    out = tmp_path / "out.jsonl"
    arguments = ("run", inputs, "--workflow", flow, "-o", out, "--json")
    process = spawn(*arguments, script=IMPATIENT)
    while process.poll() is None and not _has_finished(f"{out}.run", 0):
        time.sleep(0.01)
    process.send_signal(number)
    stopped = ended(process)
    assert stopped.code == code
    assert "the same command goes on from there" in stopped.sentence
    ran = call(*arguments)
    assert ran.code == 0
    assert ran.summary["rows"] == 60
    assert ran.summary["by_step"]["first"]["calls"] == 60


def test_another_flow_is_refused_with_its_step(models: Mapping[str, Path], tmp_path: Path) -> None:
    flow = chain({"a": models["a"]})
    run(flow, rows(), tmp_path)
    other = chain({"a": models["a"]})
    other.llm("more", "a", template="{{ title }}")
    with pytest.raises(ConfigError, match="step more"):
        run(other, rows(), tmp_path)
    text = YAML.format(model=models["a"])
    (tmp_path / "flow.yaml").write_text(text)
    arguments = ("run", tmp_path / "in.jsonl", "--workflow", tmp_path / "flow.yaml", "-o")
    assert call(*arguments, tmp_path / "y.jsonl").code == 0
    (tmp_path / "flow.yaml").write_text(text.replace("max_tokens: 12", "max_tokens: 11"))
    refused = call(*arguments, tmp_path / "y.jsonl")
    assert refused.code == 2
    assert "step first: sampling.max_tokens was 12 and is 11" in refused.sentence
    assert call(*arguments, tmp_path / "y.jsonl", "--overwrite").code == 0


def test_too_many_failed_rows_end_the_run_early(models: Mapping[str, Path], tmp_path: Path) -> None:
    inputs = [{"title": "" if n % 2 else "a"} for n in range(8)]
    flow = Workflow(models={"a": models["a"]})
    flow.llm("first", "a", template="{{ title }}", max_tokens=2)
    with pytest.raises(StoppedEarly, match="stopped by --max-errors"):
        run(flow, inputs, tmp_path, max_errors="1")
    _, summary = run(flow, inputs, tmp_path, max_errors="50%")
    assert (summary.failed, summary.exit_code) == (4, 0)


def test_a_finished_run_is_not_run_again(models: Mapping[str, Path], tmp_path: Path) -> None:
    flow = exploded({"a": models["a"]})
    expected, first = run(flow, rows(), tmp_path)
    seen: list[object] = []
    found, again = run(flow, rows(), tmp_path, watcher=ToldSteps(seen.append))
    assert (found, again, seen) == (expected, first, [])


def test_a_damaged_part_is_computed_again(models: Mapping[str, Path], tmp_path: Path) -> None:
    flow = grouped({"a": models["a"]})
    expected, _ = run(flow, rows(), tmp_path)
    [*parts] = sorted((tmp_path / "out.jsonl.run" / "parts").iterdir())
    parts[len(parts) // 2].write_bytes(b"broken")
    (tmp_path / "out.jsonl").unlink()
    found, _ = run(flow, rows(), tmp_path)
    assert found == expected


def test_votes_are_drawn_by_row_and_not_by_when(models: Mapping[str, Path], tmp_path: Path) -> None:
    flow = Workflow(models={"a": models["a"]})
    flow.vote("v", ["a"], template="{{ title }}?", max_tokens=4, samples=3, temperature=1.5)
    flow.output("v.output", "v.votes")
    expected, _ = run(flow, rows(), tmp_path, out="whole.jsonl")
    kill_at(7)
    with pytest.raises(Killed):
        run(flow, rows(), tmp_path)
    moments.hook = None
    found, _ = run(flow, rows(), tmp_path)
    assert found == expected
