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
from batchpipe.planner.plan_file import read_plan_facts, read_plan_order, save_plan
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
        save_plan(path, plan, {})
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
    save_plan(path, plan, {"machine": "h100", "seconds": 1.5})
    assert read_plan_facts(path) == {
        "order": "dfs",
        "prompts": 2,
        "prompt_tokens": 4,
        "distinct_tokens": 3,
        "machine": "h100",
        "seconds": 1.5,
    }


def test_equal_plans_give_equal_bytes(tmp_path: Path) -> None:
    asked = [([row % 7, row % 5, row], SAMPLINGS[row % 3]) for row in range(1000)]
    for name, facts in (("one", {"a": 1, "b": 2}), ("other", {"b": 2, "a": 1})):
        plan = plan_of(asked)
        save_plan(tmp_path / name, plan, facts)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    plan = plan_of([([1, 2], Sampling(max_tokens=2**40))])  # more than the column holds
    path = tmp_path / "plan.parquet"
    path.write_text("old")
    with pytest.raises(ValueError, match=r"not in range|out of bounds"):
        save_plan(path, plan, {})
    folder = tmp_path / "folder.parquet"
    folder.mkdir()
    with pytest.raises(IsADirectoryError):
        save_plan(folder, plan_of([([1], SAMPLINGS[0])]), {})
    assert path.read_text() == "old"
    assert sorted(found.name for found in tmp_path.iterdir()) == ["folder.parquet", "plan.parquet"]


def test_a_new_plan_takes_the_place_of_the_old(tmp_path: Path) -> None:
    path = tmp_path / "plan.parquet"
    for rows in ([[1], [2]], [[3]]):
        plan = plan_of([(ids, SAMPLINGS[0]) for ids in rows])
        save_plan(path, plan, {})
        assert len(read_plan_order(path)) == len(rows)
    assert [found.name for found in tmp_path.iterdir()] == ["plan.parquet"]
