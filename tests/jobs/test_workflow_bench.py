"""The benchmark of workflows at its smallest: every workload, every contender, equal results."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from harness import call, read

from batchpipe.demo.prompt import load_tickets
from batchpipe.workflow.authoring.yaml_file import read_flow
from batchpipe.workflow.lowering.lower import lowered

sys.path.insert(0, str(Path(__file__).parents[2] / "jobs" / "bench"))

from agent_dags import DAGS
from answerers import ANSWERERS
from contest import cached_model
from flow_cases import ANSWER, ASSISTANT, END, RECORDED, USER
from operator_at_a_time import Interpreter
from workflows import CONTENDERS, WORKLOADS, agreement, built, compared, figures, readable

ROWS = 2
TICKETS = [ticket.text for ticket in load_tickets()[:200]]


def recorded(name: str) -> list[dict[str, Any]]:
    """Requests such as a recorded workload has, about the shipped tickets."""
    if name == "tot_game24":
        return [
            {"workflow_id": f"game/{game}", "stage": stage, "prompt": f"{stage % 2}. {text}"}
            for game in range(ROWS)
            for stage in range(3)
            for text in (*TICKETS[game : game + 3], TICKETS[0])
        ]
    rows = []
    for place, text in enumerate(TICKETS):
        request = f"{name}/{place}/0"
        if name == "openie_2wiki":
            first = f"<|im_start|>system\nName things.{END}{USER}{text}{END}{ASSISTANT}"
            head = f"<|im_start|>system\nName facts.{END}{USER}Paragraph:\n"
            second = f"{head}{text}\n\n{ANSWER % request}\n{END}{ASSISTANT}"
        else:
            first = f"{USER}{text}{END}{ASSISTANT}"
            second = f"{first}{ANSWER % request}{END}{USER}Why?{END}{ASSISTANT}"
        for stage, prompt in enumerate((first, second)):
            rows.append({"request_id": request, "stage": stage, "prompt": prompt})
    return rows


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prompt files such as the benchmark is given."""
    folder = tmp_path_factory.mktemp("prompts")
    for name in RECORDED:
        pq.write_table(pa.Table.from_pylist(recorded(name)), folder / f"{name}.parquet")
    return folder


@pytest.fixture(scope="module")
def models(prompts: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two names for the smallest model that the benchmark makes."""
    folder = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONSAFEPATH", raising=False)  # scripts import what lies beside them
        made = cached_model("llama-8m", sorted(prompts.iterdir()), folder, ["--whole-words"])
    return {"a": made, "b": made}


@pytest.mark.parametrize("name", WORKLOADS)
def test_every_way_answers_alike(
    name: str, prompts: Path, models: dict[str, Path], tmp_path: Path
) -> None:
    with built(name, prompts, ROWS, models) as (case, folder):
        options = ("-o", tmp_path / "out.parquet", "--dtype", "float32", "--json")
        done = call("run", folder / "input.parquet", "--workflow", folder / "flow.yaml", *options)
        assert done.code == 0, done.err
        flow = read_flow(folder / "flow.yaml")
        single: list[dict[str, Any]] = []
        for way, answerer in sorted(ANSWERERS.items(), reverse=True):  # single first
            answerers = {each: answerer(flow.models[each].model, "float32") for each in flow.models}
            interpreter = Interpreter(lowered(flow, list(case.table[0])), answerers)
            theirs = interpreter.run(case.table)
            interpreter.close()
            single = single or theirs
            rows = [
                row | {"least_gap": s["least_gap"]} for row, s in zip(theirs, single, strict=True)
            ]
            found = agreement(read(tmp_path / "out.parquet"), rows)
            assert found["same_rows"] == found["clear_rows"], way
        assert found["clear_rows"] > 0
    calls = sum(step["calls"] for step in done.summary["by_step"].values() if step["prompt_tokens"])
    if "distinct_calls" in case.facts:
        assert calls <= case.facts["distinct_calls"] < case.facts["llm_rows"]
    if name in DAGS:
        assert calls == ROWS * case.facts["llm_steps"]


def test_contenders_are_measured_in_processes_of_their_own(
    prompts: Path, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    with built("mtbench_2turn", prompts, ROWS, models) as (case, folder):
        rounds = compared(case, folder, CONTENDERS, repeat=1, dtype="float32")
    table = figures(rounds, len(case.table))
    assert [row["contender"] for row in table] == list(CONTENDERS)
    by_name = {row["contender"]: row for row in table}
    assert by_name["workflow"]["calls"] == by_name["single"]["calls"] == 2 * ROWS
    computed = [by_name[name]["computed_prompt_tokens"] for name in CONTENDERS[:3]]
    assert computed == sorted(computed)
    assert len(readable(table)) == len(CONTENDERS)
