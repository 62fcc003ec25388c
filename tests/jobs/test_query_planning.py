"""The benchmark of planning a workflow plans one."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "jobs" / "bench"))

from query_planning import planned


def test_the_benchmarks_workflow_gives_every_rule_something_to_do() -> None:
    found = planned(rows=200, steps=20)
    assert {applied.rule for applied in found.plan.optimised.trace} == {
        "drop_unused",
        "merge_identical",
        "filters_first",
        "collapse_rows",
        "shared_text_first",
        "reuse_answers",
    }
    assert found.seconds > 0
    assert len(found.plan.placement.phases) > 1
