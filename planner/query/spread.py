"""Which worker has which models in memory, and the phases of a workflow on several workers.

Where all models of a phase fit on a worker, every worker has them all. Else they are spread: one
copy of each, then more copies of those that have most work for each copy they have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from batchpipe.planner.query.placement import ModelSize, Phase, Placement, Stage, placed

Models = tuple[str, ...]  # in memory together


def placed_on(
    stages: Sequence[Stage],
    models: Mapping[str, ModelSize],
    device_bytes: int,
    workers: int,
) -> Placement:
    """The phases that take least on so many devices alike, each phase's seconds being all theirs.

    With the memory of several devices fewer models must leave; with that of one each device has
    the same models, and no work is without a worker.

    Raises:
        ValueError: a model is larger than a device, or stages await one another in a circle
    """
    alone = placed(stages, models, device_bytes)
    if workers == 1:
        return alone
    found = [_by_all(alone, models, device_bytes, workers)]
    for devices in range(2, min(workers, len(models)) + 1):
        if alone.is_co_resident:
            break
        together = placed(stages, models, device_bytes * devices)
        found.append(_by_all(together, models, device_bytes, workers))
    return min((each for each in found if each is not None), key=lambda each: each.seconds)


def spread(
    seconds: Mapping[str, float],
    models: Mapping[str, ModelSize],
    device_bytes: int,
    workers: int,
) -> tuple[Models, ...] | None:  # [workers]
    """The models of each worker, every model on one at least; None where they have no room.

    Args:
        seconds: of work, by each model that must be there
        models: their sizes
        device_bytes: of each worker's device
        workers: how many there are
    """
    names = sorted(seconds)
    sizes = {name: models[name].memory_bytes for name in names}
    if sum(sizes.values()) <= device_bytes:
        return (tuple(names),) * workers
    held = _one_of_each(sizes, device_bytes, workers)
    if held is None:
        return None
    _copied(held, seconds, sizes, device_bytes)
    return tuple(tuple(sorted(each)) for each in held)


def matched(before: Sequence[Models], now: Sequence[Models]) -> tuple[Models, ...]:
    """The same models for each worker as before, as far as some worker is to have them."""
    left = list(now)
    found: list[Models | None] = []
    for models in before:
        found.append(models if models in left else None)
        if models in left:
            left.remove(models)
    return tuple(left.pop(0) if models is None else models for models in found)


def _by_all(
    placement: Placement, models: Mapping[str, ModelSize], device_bytes: int, workers: int
) -> Placement | None:
    """The placement with the seconds of so many workers; None where a phase has no room on them."""
    phases: list[Phase] = []
    for phase in placement.phases:
        seconds = phase_seconds(placement, phase)
        held = spread(seconds, models, device_bytes, workers)
        if held is None:
            return None
        loading = max(
            sum(models[name].load_seconds for name in phase.loads if name in each) for each in held
        )
        copies = {name: sum(name in each for each in held) for name in seconds}
        work = max(sum(seconds.values()) / workers, *(seconds[n] / copies[n] for n in seconds))
        phases.append(replace(phase, seconds=loading + work))
    return replace(placement, phases=tuple(phases))


def phase_seconds(placement: Placement, phase: Phase) -> dict[str, float]:
    """The work of each model of the phase on one device."""
    found = dict.fromkeys(phase.models, 0.0)
    for stage in (placement.stages[each] for each in phase.stages):
        found[stage.model] += stage.seconds
    return found


def _one_of_each(
    sizes: Mapping[str, int], device_bytes: int, workers: int
) -> list[set[str]] | None:
    """Each model once, the largest first, each wherever there is room first."""
    held: list[set[str]] = [set() for _ in range(workers)]
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        most = device_bytes - sizes[name]
        room = next((each for each in held if sum(sizes[n] for n in each) <= most), None)
        if room is None:
            return None
        room.add(name)
    return held


def _copied(
    held: list[set[str]],
    seconds: Mapping[str, float],
    sizes: Mapping[str, int],
    device_bytes: int,
) -> None:
    """Whatever room there is has another copy of a model with work."""
    copies = {name: sum(name in each for each in held) for name in sizes}

    def work(models: set[str]) -> float:
        return sum(seconds[name] / copies[name] for name in models)

    def room(name: str) -> list[set[str]]:
        most = device_bytes - sizes[name]
        return [h for h in held if name not in h and sum(sizes[n] for n in h) <= most]

    while True:
        able = [name for name in sizes if seconds[name] > 0 and room(name)]
        if not able:
            return
        busiest = max(able, key=lambda name: seconds[name] / copies[name])
        min(room(busiest), key=work).add(busiest)
        copies[busiest] += 1
