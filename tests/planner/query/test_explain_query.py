"""A plan's text, as a person has read it and found it right; and what a plan chooses."""

from __future__ import annotations

from dataclasses import replace

import pytest
from golden import check_golden
from toy_models import SHAPES
from toy_workflows import step, workflow

from batchpipe.planner.machine.machines import machine_named
from batchpipe.planner.machine.step_cost import StepCost
from batchpipe.planner.query.cost import ModelHost, load_seconds
from batchpipe.planner.query.explain import explain_query
from batchpipe.planner.query.graph import INPUT, QueryGraph
from batchpipe.planner.query.placement import ModelSize
from batchpipe.planner.query.planning import Hardware, plan_query
from batchpipe.planner.query.statistics import Statistics


def hardware(device_gb: int) -> Hardware:
    machine = machine_named("h100")
    costs = {name: StepCost(each, machine, "bfloat16") for name, each in SHAPES.items()}
    sizes = {name: each.weight_bytes("bfloat16") for name, each in SHAPES.items()}
    return Hardware(
        hosts={name: ModelHost(cost, 200_000) for name, cost in costs.items()},
        sizes={
            name: ModelSize(size + 4 * 10**9, load_seconds(size)) for name, size in sizes.items()
        },
        device_bytes=device_gb * 10**9,
    )


STATISTICS = Statistics(
    rows={INPUT: 10_000, "each": 30_000},
    distinct={("title",): 10_000, ("genre",): 10, ("text",): 2_000, ("genre", "text"): 4_000},
    column_tokens={"title": 8, "genre": 2, "text": 300},
    output_tokens={"entities": 48, "judge": 4, "why": 64, "verdict": 64},
    kept={"known": 0.4},
    prompts_per_row={"verdict": 5},
)


def judged_entities() -> QueryGraph:
    """Entities of a text, each looked up and judged, a verdict of them all, by two models."""
    return workflow(
        step("entities", "llm", "text", blocks=("Name all people.\n⟨0⟩\n",)),
        step("again", "llm", "text", blocks=("Name all people.\n⟨0⟩\n",)),
        step("names", "python", "entities.output"),
        step("genres", "python", "genre", "names.value"),
        step("facts", "sql", "genre"),
        step("known", "filter", "facts.rows"),
        step("each", "explode", "names.value"),
        step(
            "judge",
            "llm",
            *("each.item", "facts.first", "text"),
            level="each",
            models=("large",),
            blocks=("Person: ⟨0⟩\n", "Facts: ⟨1⟩\n", "Text: ⟨2⟩\n", "Is it one? Say yes or no.\n"),
            order_free=True,
        ),
        step(
            "why",
            "llm",
            *("text", "again.output"),
            blocks=("Name all people.\n⟨0⟩\n⟨1⟩\nWhy these?",),
        ),
        step("together", "reduce", "each.item", "judge.output"),
        step("verdict", "vote", "together.items", models=("small", "large"), is_pure=False),
        step("unused", "http", "title"),
        outputs=("genres.value", "why.output", "verdict.output"),
    )


def test_a_plan_tells_its_steps_what_the_rules_spared_and_its_phases() -> None:
    plan = plan_query(judged_entities(), STATISTICS, hardware(device_gb=52))
    check_golden("workflow", explain_query(plan))


def test_models_that_fit_together_work_in_one_phase() -> None:
    plan = plan_query(judged_entities(), STATISTICS, hardware(device_gb=80))
    assert plan.placement.is_co_resident
    assert sorted(plan.placement.loads) == ["large", "small"]


@pytest.mark.parametrize("rows", [100, 1_000_000])
def test_a_filter_comes_first_only_where_it_spares_more_than_another_load(rows: int) -> None:
    """The small model's answers decide for whom the large one is asked, and the other way round."""
    graph = workflow(
        step("first", "llm", "text"),
        step("judged", "llm", "first.output", models=("large",)),
        step("good", "filter", "judged.output"),
        step("second", "llm", "title", "text"),
        outputs=("second.output",),
    )
    statistics = replace(STATISTICS, rows={INPUT: rows}, distinct={}, kept={"good": 0.1})
    plan = plan_query(graph, statistics, hardware(device_gb=52))
    awaits = plan.graph.by_name["second"].after == {"good"}
    assert awaits == (rows == 1_000_000)
    assert len(plan.placement.loads) == (3 if awaits else 2)
