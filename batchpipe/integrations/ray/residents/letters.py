"""What workers are to be told beside prompts, kept until they are spoken to."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from batchpipe.integrations.ray.residents.messages import Asked
from batchpipe.planner.request import TokenIds

Head = tuple[str, bytes]  # of a model


@dataclass(slots=True)
class _Told:
    """What one worker knows, and what it is to be told."""

    models: frozenset[str] = frozenset()
    heads: set[Head] = field(default_factory=set)  # that it keeps for prompts to come
    forgotten: list[tuple[str, int]] = field(default_factory=list)  # model and ticket


class Letters:
    """With what prompts to each model will begin, and which answers nobody follows any more."""

    def __init__(self, workers: int) -> None:
        self._heads: dict[Head, TokenIds] = {}  # with which prompts are still to come
        self._ended: dict[Head, TokenIds] = {}  # of which some worker may not know the end
        self._told = [_Told() for _ in range(workers)]

    def begin(self, worker: int, models: Collection[str]) -> None:
        """The worker has these models; of those that are new to it, it knows nothing."""
        told = self._told[worker]
        staying = told.models & frozenset(models)
        self._told[worker] = _Told(
            frozenset(models),
            {head for head in told.heads if head[0] in staying},
            [each for each in told.forgotten if each[0] in staying],
        )

    def died(self, worker: int) -> None:
        """Who takes its place knows nothing."""
        self._told[worker] = _Told()

    def expect(self, model: str, head: TokenIds, *, more: bool) -> None:
        """Every worker with the model is to know it."""
        name = model, head.tobytes()
        (self._heads if more else self._ended)[name] = head
        (self._ended if more else self._heads).pop(name, None)

    def forget(self, worker: int, model: str, ticket: int) -> None:
        """The worker is to know that one prompt less follows this one."""
        self._told[worker].forgotten.append((model, ticket))

    def take(self, worker: int, has_waiting: Callable[[str], bool]) -> list[Asked]:
        """What the worker is told now: no head has ended that prompts in its line begin with."""
        told = self._told[worker]
        begun = [h for h in self._heads if h[0] in told.models and h not in told.heads]
        ended = [h for h in told.heads if h not in self._heads and not has_waiting(h[0])]
        told.heads.update(begun)
        told.heads.difference_update(ended)
        heads = [(h[0], (self._heads[h], True)) for h in begun]
        heads += [(h[0], (self._ended[h], False)) for h in ended]
        forgotten, told.forgotten = told.forgotten, []
        models = {*(model for model, _ in heads), *(model for model, _ in forgotten)}
        return [
            Asked(
                model,
                heads=tuple(head for m, head in heads if m == model),
                forgotten=tuple(ticket for m, ticket in forgotten if m == model),
            )
            for model in sorted(models)
        ]
