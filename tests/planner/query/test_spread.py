"""Models over workers: every model has a place, no worker more than it has room for."""

from __future__ import annotations

from itertools import combinations, product

from hypothesis import given
from hypothesis import strategies as st

from batchpipe.planner.query.placement import ModelSize, Stage, placed
from batchpipe.planner.query.spread import matched, placed_on, spread

GB = 10**9


def sizes(**gigabytes: float) -> dict[str, ModelSize]:
    return {name: ModelSize(int(each * GB), 1.0) for name, each in gigabytes.items()}


def test_models_that_fit_together_are_on_every_worker() -> None:
    found = spread({"a": 1.0, "b": 9.0}, sizes(a=2, b=5), 8 * GB, 3)
    assert found == (("a", "b"),) * 3


def test_models_are_spread_by_their_work() -> None:
    found = spread({"a": 90.0, "b": 10.0}, sizes(a=5, b=5), 8 * GB, 4)
    assert found is not None
    assert sorted(found) == [("a",), ("a",), ("a",), ("b",)]


def test_room_is_filled_with_copies_of_what_has_most_work() -> None:
    found = spread({"large": 1.0, "small": 5.0}, sizes(large=6, small=3), 8 * GB, 2)
    assert found is not None
    assert sorted(found) == [("large",), ("small",)]
    found = spread({"a": 1.0, "b": 5.0, "c": 1.0}, sizes(a=3, b=3, c=3), 6 * GB, 2)
    assert found is not None
    assert sorted(each for models in found for each in models) == ["a", "b", "b", "c"]


def can_be_packed(gigabytes: list[int], device: int, workers: int) -> bool:
    return any(
        all(
            sum(size for size, at in zip(gigabytes, places, strict=True) if at == worker) <= device
            for worker in range(workers)
        )
        for places in product(range(workers), repeat=len(gigabytes))
    )


@given(
    gigabytes=st.lists(st.integers(1, 6), min_size=1, max_size=5),
    work=st.lists(st.floats(0, 10), min_size=5, max_size=5),
    device=st.integers(6, 9),
    workers=st.integers(1, 4),
)
def test_every_model_has_a_place_and_no_worker_too_much(
    gigabytes: list[int], work: list[float], device: int, workers: int
) -> None:
    models = {f"m{n}": ModelSize(size * GB, 1.0) for n, size in enumerate(gigabytes)}
    seconds = dict(zip(models, work, strict=False))
    found = spread(seconds, models, device * GB, workers)
    if found is None:  # only where first-fit has no room either: never where each can be alone
        assert len(models) > workers
        return
    assert can_be_packed(gigabytes, device, workers)
    assert len(found) == workers
    assert {name for each in found for name in each} == set(models)
    for each in found:
        assert sum(models[name].memory_bytes for name in each) <= device * GB


def test_two_workers_keep_two_models_that_would_take_turns_on_one() -> None:
    stages = [
        Stage("first", "a", 5.0),
        Stage("second", "b", 5.0, frozenset({0})),
        Stage("third", "a", 5.0, frozenset({1})),
    ]
    models = {name: ModelSize(5 * GB, 2.0) for name in "ab"}
    assert len(placed(stages, models, 8 * GB).phases) == 3
    [phase] = placed_on(stages, models, 8 * GB, 2).phases
    assert phase.models == ("a", "b")
    assert phase.seconds == 2.0 + 10.0  # a has most to do
    light = [Stage(each.operator, each.model, 0.01, each.after) for each in stages]
    heavy = [Stage("first", "a", 100.0), Stage("second", "b", 1.0, frozenset({0}))]
    assert len(placed_on(light, models, 8 * GB, 2).phases) == 1
    assert len(placed_on(heavy, models, 8 * GB, 2).phases) == 2  # b's worker would do nothing


def test_one_worker_has_the_plan_of_one_device() -> None:
    stages = [Stage("first", "a", 5.0), Stage("second", "b", 5.0, frozenset({0}))]
    for device in (8, 16):
        alone = placed(stages, sizes(a=5, b=5), device * GB)
        assert placed_on(stages, sizes(a=5, b=5), device * GB, 1) == alone


def test_workers_keep_the_models_that_they_have() -> None:
    before = (("a",), ("b",), ("a", "b"))
    for now in combinations([("b",), ("a",), ("c",), ("a", "b")], 3):
        found = matched(before, now)
        assert sorted(found) == sorted(now)
        assert all(each == old for each, old in zip(found, before, strict=True) if old in now)
