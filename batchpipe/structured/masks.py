"""Where every running answer stands in its grammar, and which tokens may come next.

Knows the sequences of a step by their places; what a grammar is only `grammars` knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from batchpipe.planner.request import Constraint, Sampling
from batchpipe.planner.schedule.segment import Chunk

if TYPE_CHECKING:  # it needs a package that not everybody has
    from batchpipe.structured.grammars import Grammars


@dataclass(frozen=True, slots=True)
class _Place:
    """A row of scores that belongs to a constrained answer."""

    row: int
    index: int  # of its prompt
    guessed: list[int]  # tokens behind the answer, as if they were drawn


class Masks:
    """The matchers of the running answers that have a constraint, by prompt.

    An answer's matcher has seen exactly the tokens that it has. So a step that is computed again,
    and a sequence that gave up its memory, find it as they left it.

    Args:
        grammars: what compiles the constraints
        samplings: of every prompt of the plan
    """

    def __init__(self, grammars: Grammars, samplings: Sequence[Sampling]) -> None:
        self._grammars = grammars
        self._samplings = samplings
        self._matchers: dict[int, Any] = {}  # xgrammar.GrammarMatcher

    def apply(
        self,
        logits: Tensor,  # [rows, vocab]
        chunks: Sequence[Chunk],
        first: int = 0,
    ) -> Tensor:  # [rows, vocab]
        """No constrained answer can go on but as its grammar allows; all others are untouched.

        The scores, which are changed in place, are of the chunks' draws from ``first`` on. No
        matcher is changed for good: it can be called again.
        """
        places = [
            replace(place, row=place.row - first)
            for place in self._places(chunks)
            if first <= place.row < first + len(logits)
        ]
        if not places:
            return logits
        assert logits.shape[1] == self._grammars.vocab, f"{logits.shape} scores"
        masks = self._grammars.full_masks(len(logits))
        known = [place for place in places if not place.guessed]
        matchers = [self._matcher(place.index) for place in known]
        if known:
            self._grammars.fill(matchers, masks, [place.row for place in known])
        for place in places:
            if place.guessed:
                self._fill_behind_guesses(masks, place)
        self._grammars.apply(masks, logits, [place.row for place in places])
        return logits

    def grown(self, samplings: Sequence[Sampling]) -> None:
        """Prompts have joined the plan; these are the samplings of them all."""
        for each in samplings[len(self._samplings) :]:
            if each.constraint is not None:
                self._grammars.expect(each.constraint)
        self._samplings = samplings

    def accept(self, index: int, token: int) -> bool:
        """The answer has this token more; whether nothing can follow it but an end.

        The token is one that `apply` allowed.
        """
        if self._constraint(index) is None:
            return False
        matcher = self._matcher(index)
        accepted = matcher.accept_token(token)
        assert accepted, f"token {token} of prompt {index} is not allowed"
        return bool(matcher.is_completed()) and not self._may_go_on(index, or_end=False)

    def is_stuck(self, index: int) -> bool:
        """True where no token of the model spells what the grammar wants next."""
        if self._constraint(index) is None:
            return False
        return not self._may_go_on(index, or_end=True)

    def forget(self, index: int) -> None:
        """The prompt has its answer."""
        self._matchers.pop(index, None)
        constraint = self._constraint(index)
        if constraint is not None:
            self._grammars.answered(constraint)

    def close(self) -> None:
        """No answer goes on; nothing is compiled for those that wait."""
        self._grammars.close()

    def _places(self, chunks: Sequence[Chunk]) -> list[_Place]:
        places: list[_Place] = []
        row = 0
        for chunk in chunks:
            if chunk.sequence is not None and self._constraint(chunk.sequence.index) is not None:
                places += [
                    _Place(row + nth, chunk.sequence.index, chunk.guessed(0, place + 1).tolist())
                    for nth, place in enumerate(chunk.drawing)
                ]
            row += len(chunk.drawing)
        return places

    def _fill_behind_guesses(self, masks: Tensor, place: _Place) -> None:
        """The place's mask is what may follow the answer and the guessed tokens.

        Where a guess is wrong any mask will do: what is drawn behind it is thrown away.
        """
        matcher = self._matcher(place.index)
        accepted = 0
        for token in place.guessed:
            if not matcher.accept_token(token):
                break
            accepted += 1
        if accepted == len(place.guessed) and not matcher.is_terminated():
            matcher.fill_next_token_bitmask(masks, place.row)
        if accepted:
            matcher.rollback(accepted)

    def _may_go_on(self, index: int, *, or_end: bool) -> bool:
        """Whether some token may come next; with ``or_end`` one that ends the answer counts too."""
        masks = self._grammars.full_masks(1)
        self._matcher(index).fill_next_token_bitmask(masks, 0)
        return bool((masks if or_end else masks & ~self._grammars.ends).any())

    def _matcher(self, index: int) -> Any:
        matcher = self._matchers.get(index)
        if matcher is None:
            constraint = self._constraint(index)
            assert constraint is not None, f"prompt {index} has no constraint"
            matcher = self._matchers[index] = self._grammars.matcher(constraint)
        return matcher

    def _constraint(self, index: int) -> Constraint | None:
        return self._samplings[index].constraint
