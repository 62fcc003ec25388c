"""Which models are in memory when, and what runs then: phases of a workflow.

Work takes as long in whatever order, so what is chosen is when to load what: loads are fewest where
they dominate. Knows models as bytes and seconds, nothing of devices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from batchpipe.planner.query.residency import Load, Residency, Search, cheapest, pilot

EXACT_STAGES = 14  # with more of them, states may be too many


@dataclass(frozen=True, slots=True)
class Stage:
    """What an operator asks of one model, all rows together."""

    operator: str
    model: str
    seconds: float
    after: frozenset[int] = frozenset()  # stages, by place in the sequence, that come before


@dataclass(frozen=True, slots=True)
class ModelSize:
    """What a model takes up, and how long it takes to be there."""

    memory_bytes: int  # with the least memory for keys that it can work with
    load_seconds: float


@dataclass(frozen=True, slots=True)
class Phase:
    """Models in memory together, and what runs while they are."""

    models: tuple[str, ...]
    loads: tuple[str, ...]  # of these, those that were not there before
    stages: tuple[int, ...]  # by place, in an order in which they can begin
    seconds: float  # of loading and of working


@dataclass(frozen=True, slots=True)
class Placement:
    """The phases of a workflow, in order."""

    stages: tuple[Stage, ...]
    phases: tuple[Phase, ...]
    is_exact: bool  # no placement is faster

    @property
    def seconds(self) -> float:
        """Of all loads and all work."""
        return sum(phase.seconds for phase in self.phases)

    @property
    def loads(self) -> tuple[str, ...]:
        """The models as they are loaded, one as often as that happens."""
        return tuple(model for phase in self.phases for model in phase.loads)

    @property
    def is_co_resident(self) -> bool:
        """True where all models are in memory together, each loaded once."""
        return len(self.phases) <= 1


def placed(
    stages: Sequence[Stage],
    models: Mapping[str, ModelSize],
    device_bytes: int,
    *,
    exact_stages: int = EXACT_STAGES,
) -> Placement:
    """The phases that take least; of many stages phases that take little.

    Raises:
        ValueError: a model is larger than the device, or stages await one another in a circle
    """
    names = sorted({stage.model for stage in stages})
    for name in names:
        if models[name].memory_bytes > device_bytes:
            raise ValueError(
                f"model {name} needs {models[name].memory_bytes:,} bytes and the device has "
                f"{device_bytes:,}; choose a smaller or quantised model, or another device"
            )
    residency = Residency(
        model_of=tuple(names.index(stage.model) for stage in stages),
        before=tuple(sum(1 << each for each in stage.after) for stage in stages),
        memory_bytes=tuple(models[name].memory_bytes for name in names),
        load_seconds=tuple(models[name].load_seconds for name in names),
        device_bytes=device_bytes,
    )
    is_exact = len(stages) <= exact_stages
    search: Search = cheapest if is_exact else pilot
    return Placement(tuple(stages), _phases(stages, names, residency, search(residency)), is_exact)


def _phases(
    stages: Sequence[Stage], names: Sequence[str], residency: Residency, loads: Sequence[Load]
) -> tuple[Phase, ...]:
    """A phase for each time that models leave; what is loaded beside others joins their phase."""
    phases: list[Phase] = []
    done = at = 0
    while at < len(loads):
        held, loaded = loads[at].resident, [loads[at].model]
        at += 1
        while at < len(loads) and loads[at].resident & held == held:
            held = loads[at].resident
            loaded.append(loads[at].model)
            at += 1
        ran = residency.run(done, held)
        work = sum(stages[each].seconds for each in ran)
        phases.append(
            Phase(
                models=tuple(name for bit, name in enumerate(names) if held >> bit & 1),
                loads=tuple(names[model] for model in loaded),
                stages=tuple(ran),
                seconds=work + sum(residency.load_seconds[model] for model in loaded),
            )
        )
        done |= sum(1 << each for each in ran)
    assert done == residency.everything, f"{done:b} of {residency.everything:b} ran"
    return tuple(phases)
