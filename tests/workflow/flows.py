"""Workflows of every shape over a small table, and how they are run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import Row, read, write_lines

from batchpipe.workflow.builder import Workflow
from batchpipe.workflow.command import run_workflow
from batchpipe.workflow.options import WorkflowOptions
from batchpipe.workflow.step_progress import UnwatchedSteps, WorkflowWatcher
from batchpipe.workflow.summary import WorkflowSummary

WORDS = ["parcel", "refund", "kettle", "letter", "card", "box"]


def rows(count: int = 10) -> list[Row]:
    return [
        {
            "title": f"the {WORDS[n % 6]} number {n}",
            "genre": WORDS[n % 3],
            "names": WORDS[: n % 4],
        }
        for n in range(count)
    ]


def shouted(batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"loud": row["output"].upper(), "size": len(row["output"])} for row in batch]


def chain(models: Mapping[str, Path]) -> Workflow:
    flow = Workflow(models=models)
    flow.llm("first", "a", template="Question: {{ title }}. Answer:", max_tokens=8)
    flow.llm("second", "a", template="{{ first.output }} Please tell", max_tokens=6)
    flow.python("third", shouted, reads=["second.output"], writes=["loud", "size"])
    flow.llm("fourth", "a", template="{{ third.loud }} {{ first.output }}", max_tokens=5)
    return flow.output(first="first.output", fourth="fourth.output", size="third.size")


def turns(models: Mapping[str, Path]) -> Workflow:
    """A chat whose second turn begins with the first and its answer."""
    flow = Workflow(models=models)
    flow.llm("first", "a", template="user: {{ title }}\nassistant:", max_tokens=8)
    flow.llm(
        "second",
        "a",
        template="user: {{ title }}\nassistant:{{ first.output }}\nuser: why?\nassistant:",
        max_tokens=8,
    )
    return flow.output(first="first.output", second="second.output")


def diamond(models: Mapping[str, Path]) -> Workflow:
    flow = Workflow(models=models)
    flow.llm("top", "a", template="The {{ title }} is", max_tokens=6)
    flow.llm("left", "a", template="{{ top.output }} on the left", max_tokens=4)
    flow.llm("right", "a", messages=[{"role": "user", "content": "{{ top.output }}"}], max_tokens=7)
    flow.llm("end", "a", template="{{ left.output }}{{ right.output }}", max_tokens=5)
    return flow.output(end="end.output")


def exploded(models: Mapping[str, Path]) -> Workflow:
    flow = Workflow(models=models)
    flow.llm("first", "a", template="About {{ title }}:", max_tokens=5)
    flow.explode("each", "names")
    flow.filter("short", "each.item | length < 7 and each.index != 1")
    flow.llm("judge", "a", template="{{ first.output }} of {{ each.item }}:", max_tokens=4)
    flow.reduce("together", "each", items={"name": "each.item", "said": "judge.output"})
    flow.llm("last", "a", template="So {{ together.items | tojson }}", max_tokens=4)
    return flow.output(items="together.items", last="last.output")


def below(models: Mapping[str, Path]) -> Workflow:
    """The results are of the rows that an explode makes."""
    flow = Workflow(models=models)
    flow.explode("each", "names")
    flow.llm("judge", "a", template="{{ title }} and {{ each.item }}:", max_tokens=4)
    return flow.output(name="each.item", said="judge.output")


def grouped(models: Mapping[str, Path]) -> Workflow:
    flow = Workflow(models=models)
    flow.filter("keep", "not title.endswith('4')")
    flow.llm("first", "a", template="{{ title }}:", max_tokens=4)
    flow.reduce("kind", "input", by=["genre"], items={"title": "title", "said": "first.output"})
    flow.llm("sum", "a", template="{{ kind.genre }} {{ kind['items'] | tojson }}", max_tokens=6)
    return flow.output(kind="kind.genre", members="kind.items", summary="sum.output")


def two_models(models: Mapping[str, Path]) -> Workflow:
    flow = Workflow(models=models)
    flow.llm("first", "a", template="{{ title }} is", max_tokens=5)
    flow.llm("second", "b", template="{{ first.output }} and", max_tokens=5)
    flow.llm("third", "a", template="{{ second.output }} then", max_tokens=5)
    flow.llm("beside", "b", template="{{ title }} beside", max_tokens=3)
    return flow.output(third="third.output", beside="beside.output")


def voted(models: Mapping[str, Path]) -> Workflow:
    """So cold that every sample is the greedy answer."""
    flow = Workflow(models=models)
    flow.vote(
        "verdict",
        ["a", "b"],
        template="{{ title }}?",
        max_tokens=4,
        samples=3,
        temperature=1e-6,
    )
    return flow.output(verdict="verdict.output", share="verdict.share", model="verdict.model")


def cascaded(models: Mapping[str, Path]) -> Workflow:
    flow = Workflow(models=models)
    flow.cascade(
        "grade",
        ["a", "b"],
        template="Is {{ title }} urgent? Answer:",
        choices=["yes", "no", "yes and no"],
        margin=0.9,
    )
    flow.llm("why", "a", template="{{ title }}: {{ grade.output }}, for", max_tokens=4)
    return flow.output(grade="grade.output", model="grade.model", why="why.output")


SHAPES = {
    each.__name__: each
    for each in (
        chain,
        turns,
        diamond,
        exploded,
        below,
        grouped,
        two_models,
        voted,
        cascaded,
    )
}


def run(
    flow: Workflow,
    inputs: Sequence[Mapping[str, Any]],
    folder: Path,
    *,
    out: str = "out.jsonl",
    watcher: WorkflowWatcher | None = None,
    **options: Any,
) -> tuple[list[Row], WorkflowSummary]:
    """The rows of OUT and the summary."""
    source = folder / "in.jsonl"
    if not source.exists():
        write_lines(source, inputs)
    asked = {"kv_memory": "20MB", "dtype": "float32", **options}
    given = WorkflowOptions(str(source), str(folder / out), **asked)
    summary = run_workflow(flow.flow, given, watcher=watcher or UnwatchedSteps())
    return read(folder / out), summary
