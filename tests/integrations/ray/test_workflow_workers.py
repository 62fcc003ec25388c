"""A workflow on Ray workers: what one process answers, wherever models are and whoever dies."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from harness import Row, call, ended, read, spawn, write_lines
from struck_runs import (
    IMPATIENT_FLOW,
    deadly_model,
    on,
    parts_of,
    wait_until,
    while_running,
)

import batchpipe as bp
from batchpipe.integrations.ray.residents import opening
from batchpipe.workflow.journal import journal

Workers = Callable[[], list[int]]

# Two models, a chat whose second turn follows the first, rows made of rows, drawn votes.
YAML = """
models:
  a: {{model: {a}, dtype: float32, kv_memory: 20MB}}
  b: {{model: {b}, dtype: float32, kv_memory: 20MB}}
steps:
  first:
    llm: a
    template: "user: {{{{ title }}}}\\nassistant:"
    max_tokens: 16
  second:
    llm: a
    template: "user: {{{{ title }}}}\\nassistant:{{{{ first.output }}}}\\nuser: why?\\nassistant:"
    max_tokens: 12
  each: {{explode: names}}
  judge: {{llm: b, template: "{{{{ second.output }}}} of {{{{ each.item }}}}:", max_tokens: 9}}
  together: {{reduce: each, items: {{name: each.item, said: judge.output}}}}
  drawn:
    vote: [b]
    template: "{{{{ title }}}}?"
    samples: 3
    max_tokens: 6
    temperature: 1.5
  last:
    llm: a
    template: "So {{{{ together.items | length }}}} {{{{ title }}}}"
    max_tokens: 9
output: {{second: second.output, items: together.items, votes: drawn.votes, last: last.output}}
"""

WORDS = ["parcel", "refund", "kettle", "letter", "card", "box"]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outcomes go to disk at once: so a test sees from outside that a run is under way."""
    monkeypatch.setattr(journal, "FLUSH_SECONDS", 0.0)


@pytest.fixture(scope="module")
def models(tiny_model: Callable[[str], Path]) -> Mapping[str, Path]:
    return {"a": tiny_model("llama"), "b": tiny_model("qwen3")}


@pytest.fixture(scope="module")
def flow(models: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("flow") / "flow.yaml"
    path.write_text(YAML.format(**models))
    return path


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [
        {"title": f"{WORDS[n % 3] * 9} and the {WORDS[n % 6]} number {n}", "names": WORDS[: n % 4]}
        for n in range(40)
    ]
    return write_lines(tmp_path_factory.mktemp("inputs") / "in.jsonl", rows)


def arguments(inputs: Path, flow: Path, out: Path, *more: object) -> tuple[object, ...]:
    return ("run", inputs, "--workflow", flow, "-o", out, "--json", *more)


@pytest.fixture(scope="module")
def expected(inputs: Path, flow: Path) -> list[Row]:
    """What one process answers."""
    out = inputs.with_name("alone.jsonl")
    assert call(*arguments(inputs, flow, out)).code == 0
    return read(out)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


@pytest.fixture
def one_model_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker has no room for both models."""
    monkeypatch.setattr(opening, "memory_bytes", lambda device: 1_200_000)


def test_workers_answer_what_one_process_answers(
    cluster: Any, inputs: Path, flow: Path, out: Path, expected: list[Row]
) -> None:
    command = arguments(inputs, flow, out, *on(cluster, 2))
    ran = call(*command)
    assert ran.code == 0, ran.err
    assert read(out) == expected
    summary = ran.summary
    assert summary["loads"] == 4
    assert [worker["worker"] for worker in summary["workers"]] == [0, 1]
    assert all(worker["prompts"] > 0 for worker in summary["workers"])
    written = sum(worker["completion_tokens"] for worker in summary["workers"])
    assert written == summary["completion_tokens"]
    assert call(*command).summary == summary
    assert call("report", f"{out}.run").code == 0
    assert "<h2>Workers</h2>" in Path(f"{out}.run/report.html").read_text()


def test_models_without_room_beside_each_other_have_workers_of_their_own(
    cluster: Any,
    one_model_each: None,
    inputs: Path,
    flow: Path,
    out: Path,
    expected: list[Row],
) -> None:
    ran = call(*arguments(inputs, flow, out, *on(cluster, 2)))
    assert ran.code == 0, ran.err
    assert read(out) == expected
    assert all(worker["prompts"] > 0 for worker in ran.summary["workers"])


def test_a_worker_changes_its_model_where_there_are_fewer_workers_than_models(
    cluster: Any,
    one_model_each: None,
    inputs: Path,
    flow: Path,
    out: Path,
    expected: list[Row],
) -> None:
    made = bp.Workflow.from_yaml(flow)
    done = bp.run(inputs, workflow=made, out=out, workers=1, ray_address=cluster.address)
    assert read(out) == expected
    assert done.loads == 3  # a, b, and a once more
    assert "worker 0: " in str(done)


def test_a_killed_worker_loses_nothing(
    cluster: Any,
    inputs: Path,
    flow: Path,
    out: Path,
    expected: list[Row],
    workers_of: Workers,
) -> None:
    thread = while_running(out, lambda: os.kill(workers_of()[0], signal.SIGKILL))
    ran = call(*arguments(inputs, flow, out, *on(cluster, 2)))
    thread.join()
    assert ran.code == 0, ran.err
    assert read(out) == expected
    assert sum(worker["deaths"] for worker in ran.summary["workers"]) == 1


def test_a_run_goes_on_when_a_node_is_removed(
    cluster: Any, inputs: Path, flow: Path, out: Path, expected: list[Row]
) -> None:
    node = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    thread = while_running(out, lambda: cluster.remove_node(node, allow_graceful=False))
    ran = call(*arguments(inputs, flow, out, *on(cluster, 3)))
    thread.join()
    assert ran.code == 0, ran.err
    assert read(out) == expected


def test_a_killed_driver_leaves_no_worker_and_the_same_command_goes_on(
    cluster: Any,
    inputs: Path,
    flow: Path,
    out: Path,
    expected: list[Row],
    workers_of: Workers,
) -> None:
    command = arguments(inputs, flow, out, *on(cluster, 2))
    process = spawn(*command, script=IMPATIENT_FLOW)
    wait_until(lambda: parts_of(out) or process.poll() is not None)
    process.kill()
    assert ended(process).code == -signal.SIGKILL
    wait_until(lambda: not workers_of())
    ran = call(*command)
    assert ran.code == 0, ran.err
    assert read(out) == expected


def test_a_prompt_that_kills_three_workers_is_its_rows_error(
    cluster: Any, models: Mapping[str, Path], tmp_path: Path, out: Path
) -> None:
    folder = deadly_model(models["a"], tmp_path / "model")
    flow = tmp_path / "flow.yaml"
    flow.write_text(
        f"models: {{a: {{model: {folder}, kv_memory: 20MB, trust_remote_code: true}}}}\n"
        'steps: {said: {llm: a, template: "{{ text }}", max_tokens: 4}}\n'
    )
    texts = [f"{letter * 30}{number}" for letter in "abcdefg" for number in range(2)]
    inputs = write_lines(tmp_path / "in.jsonl", [{"text": each} for each in [*texts, "z" * 9]])
    ran = call(*arguments(inputs, flow, out, *on(cluster, 2)))
    assert ran.code == 3, ran.err
    rows = read(out)
    assert [row["status"] for row in rows] == ["success"] * 14 + ["error"]
    assert "3 workers died one after the other on this prompt" in rows[-1]["error"]
    assert "crashed or was killed" in rows[-1]["error"]
    assert sum(worker["deaths"] for worker in ran.summary["workers"]) == 3
