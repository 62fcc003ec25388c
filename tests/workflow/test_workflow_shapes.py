"""Workflows of any shape, drawn by chance, give what one step after the other gives."""

from __future__ import annotations

import tempfile
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import pytest
from flow_interpreter import interpreted
from flows import run

from batchpipe.errors import ConfigError
from batchpipe.workflow.builder import Workflow
from batchpipe.workflow.lowering.lower import lowered
from batchpipe.workflow.running import runtime


def summed(batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A number and a list of each row's numbers; some rows are refused."""
    made = []
    for row in batch:
        total = sum(value if isinstance(value, int) else len(str(value)) for value in row.values())
        if total % 11 == 3:
            raise ValueError(f"{total} is refused")
        made.append({"n": total, "many": list(range(total % 4))})
    return made


def drawn(random: Random) -> Workflow:
    """A workflow of functions, filters, explodes and reduces."""
    flow = Workflow()
    numbers, lists, levels = ["a", "b"], ["xs"], ["input"]
    for place in range(random.randint(2, 9)):
        name = f"s{place}"
        kind = random.choice(("python", "python", "filter", "explode", "explode", "reduce", "by"))
        if kind == "python":
            reads = random.sample(numbers[-5:], min(len(numbers), random.randint(1, 2)))
            flow.python(name, summed, reads=reads, writes=["n", "many"])
            numbers.append(f"{name}.n")
            lists.append(f"{name}.many")
        elif kind == "filter":
            flow.filter(name, f"{random.choice(numbers[-4:])} % 3 != {random.randint(0, 2)}")
        elif kind == "explode":
            flow.explode(name, random.choice(lists[-3:]))
            numbers.append(f"{name}.item")
            levels.append(name)
        else:
            by = random.sample(numbers[-4:], 1) if kind == "by" else []
            number = random.choice(numbers[-4:])
            of = random.choice(levels[-2:])
            on_error = random.choice(("fail", "skip"))
            flow.reduce(name, of, by=by, items={"v": number}, on_error=on_error)
            lists.append(f"{name}['items'] | map(attribute='v') | list")
            if by:
                levels.append(name)
    shown = random.choice(numbers[2:] or ["a"])
    return flow.output(shown=shown)


def fitting(seed: int) -> Workflow:
    """The first of this seed's workflows that makes sense."""
    random = Random(seed)
    while True:
        try:
            flow = drawn(random)
            lowered(flow.flow, ["a", "b", "xs"])
            return flow
        except ConfigError:
            continue


@pytest.mark.parametrize("seed", range(60))
def test_any_shape_equals_step_by_step(seed: int) -> None:
    flow = fitting(seed)
    random = Random(seed)
    inputs = [
        {
            "a": random.randint(0, 9),
            "b": random.randint(0, 9),
            "xs": [random.randint(0, 9) for _ in range(random.randint(0, 3))],
        }
        for _ in range(12)
    ]
    with tempfile.TemporaryDirectory() as folder:
        few = {"MOST_TREES": random.choice((1, 3, 100)), "ADMITTED_AT_ONCE": 1}
        with patch.multiple(runtime, **few):
            found, summary = run(flow, inputs, Path(folder))
    expected = interpreted(flow.flow, inputs)
    for rows in (found, expected):
        for row in rows:  # of equal steps either may be the one that is named
            row["error"] = row["error"] and row["error"].partition("failed")[2]
    assert found == expected
    assert summary.rows == len(expected)
