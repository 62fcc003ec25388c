"""Plan files: every prompt once, in order of admission, told as the plan itself tells it."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchpipe.planner.order import POLICIES
from batchpipe.planner.plan import Plan
from batchpipe.planner.plan_file import packed_plan, read_plan_facts, read_plan_order
from batchpipe.planner.planning import make_plan
from batchpipe.planner.request import Prompts, Sampling

SAMPLINGS = (Sampling(max_tokens=5), Sampling(max_tokens=9), Sampling(temperature=0.8, n=2))

token_rows = st.lists(st.integers(0, 2), min_size=1, max_size=5)
asked_rows = st.lists(st.tuples(token_rows, st.sampled_from(SAMPLINGS)), max_size=14)


def plan_of(asked: list[tuple[list[int], Sampling]], order: str = "dfs") -> Plan:
    return make_plan(Prompts.pack([ids for ids, _ in asked]), [s for _, s in asked], order=order)


@given(asked_rows, st.sampled_from(sorted(POLICIES)))
def test_rows_tell_what_the_plan_does_in_order_of_admission(
    asked: list[tuple[list[int], Sampling]], order: str
) -> None:
    plan = plan_of(asked, order)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "plan.parquet"
        path.write_bytes(packed_plan(plan, {}))
        rows = pq.read_table(path).to_pylist()
        assert read_plan_order(path).tolist() == plan.order.prompts.tolist()
    assert [row["place"] for row in rows] == list(range(len(plan.prompts)))
    assert [row["prompt"] for row in rows] == plan.order.prompts.tolist()
    for row in rows:
        prompt = row["prompt"]
        path_nodes = plan.tree.path(row["rank"])
        assert plan.tree.order[row["rank"]] == prompt
        assert row["node"] == (path_nodes[-1] if path_nodes else -1)
        spans = plan.tree.end[path_nodes] - plan.tree.start[path_nodes]
        assert row["shared_tokens"] == spans.sum()
        assert row["prompt_tokens"] == len(plan.prompts[prompt])
        assert (row["first_row"], row["sample"]) == (plan.first_row[prompt], plan.sample[prompt])
        assert row["max_tokens"] == plan.samplings[prompt].max_tokens
        assert row["expected_output_tokens"] == plan.output_tokens[prompt]


def test_facts_are_the_plans_and_the_callers(tmp_path: Path) -> None:
    plan = plan_of([([1, 2], SAMPLINGS[0]), ([1, 3], SAMPLINGS[0]), ([1, 3], SAMPLINGS[0])])
    path = tmp_path / "plan.parquet"
    path.write_bytes(packed_plan(plan, {"machine": "h100", "seconds": 1.5}))
    assert read_plan_facts(path) == {
        "order": "dfs",
        "prompts": 2,
        "prompt_tokens": 4,
        "distinct_tokens": 3,
        "machine": "h100",
        "seconds": 1.5,
    }


def test_equal_plans_give_equal_bytes() -> None:
    asked = [([row % 7, row % 5, row], SAMPLINGS[row % 3]) for row in range(1000)]
    one = packed_plan(plan_of(asked), {"a": 1, "b": 2})
    assert packed_plan(plan_of(asked), {"b": 2, "a": 1}) == one


def test_what_a_column_cannot_hold_is_refused() -> None:
    plan = plan_of([([1, 2], Sampling(max_tokens=2**40))])
    with pytest.raises(ValueError, match=r"not in range|out of bounds"):
        packed_plan(plan, {})
