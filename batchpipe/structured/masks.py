"""Where every running answer stands in its grammar, and which tokens may come next.

Knows the sequences of a step by their places; what a grammar is only `grammars` knows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
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
        self._wide: set[int] = set()  # prompts of which the last mask allowed many tokens

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
        assert logits.shape[1] == self._grammars.vocab, f"{logits.shape} scores"
        places = self._places(chunks, first, first + len(logits))
        places = self._needing_masks(places, logits)
        if not places:
            return logits
        masks = self._grammars.full_masks(len(logits))
        known = [place for place in places if not place.guessed]
        matchers = [self._matcher(place.index) for place in known]
        if known:
            self._grammars.fill(matchers, masks, [place.row for place in known])
        for place in places:
            if place.guessed:
                self._fill_behind_guesses(masks, place)
        wide = self._grammars.apply(masks, logits, [place.row for place in places])
        self._wide -= {place.index for place in places}
        self._wide |= {place.index for place in places if place.row in wide}
        return logits

    def grown(self, samplings: Sequence[Sampling], joined: Iterable[int]) -> None:
        """These prompts have joined the plan; its samplings are of all of them."""
        self._samplings = samplings
        for index in joined:
            constraint = self._constraint(index)
            if constraint is not None:
                self._grammars.expect(constraint)

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
        self._wide.discard(index)
        constraint = self._constraint(index)
        if constraint is not None:
            self._grammars.answered(constraint)

    def close(self) -> None:
        """No answer goes on; nothing is compiled for those that wait."""
        self._grammars.close()

    def _places(self, chunks: Sequence[Chunk], start: int, end: int) -> list[_Place]:
        """Those of the draws ``start:end`` that are constrained; rows count from ``start``."""
        places: list[_Place] = []
        row = -start
        for chunk in chunks:
            sequence = chunk.sequence
            if sequence is not None and self._constraint(sequence.index) is not None:
                places += [
                    _Place(row + nth, sequence.index, chunk.guessed(0, place + 1).tolist())
                    for nth, place in enumerate(chunk.drawing)
                    if 0 <= row + nth < end - start
                ]
            row += len(chunk.drawing)
        return places

    def _needing_masks(self, places: list[_Place], logits: Tensor) -> list[_Place]:
        """All but the greedy places whose largest score is of a token that may come next.

        To try a token takes 5 us; a mask takes up to 700 within a text of bounded length.
        """
        tried = [place for place in places if self._is_tried(place)]
        if not tried:
            return places
        best = logits[[place.row for place in tried]].argmax(dim=-1).tolist()
        pairs = zip(tried, best, strict=True)
        settled = {place.row for place, token in pairs if self._allows(place.index, token)}
        return [place for place in places if place.row not in settled]

    def _is_tried(self, place: _Place) -> bool:
        """Whether the token with the largest score is drawn, and is likely to be allowed."""
        if place.guessed or place.index not in self._wide:
            return False
        sampling = self._samplings[place.index]
        return sampling.temperature == 0 and sampling.repetition_penalty == 1

    def _allows(self, index: int, token: int) -> bool:
        is_allowed = self._accepts(index, token)
        if is_allowed:
            self._matcher(index).rollback(1)
        return is_allowed

    def _accepts(self, index: int, token: int) -> bool:
        """The matcher has seen the token, if that may come next."""
        matcher, constraint = self._matcher(index), self._constraint(index)
        assert constraint is not None, f"prompt {index} has no constraint"
        # A guess may go on behind the end of an answer, at which xgrammar warns of each token.
        is_open = self._grammars.may_say(constraint, token) and not matcher.is_terminated()
        return is_open and bool(matcher.accept_token(token))

    def _fill_behind_guesses(self, masks: Tensor, place: _Place) -> None:
        """The place's mask is what may follow the answer and the guessed tokens.

        Where a guess is wrong any mask will do: what is drawn behind it is thrown away.
        """
        matcher = self._matcher(place.index)
        accepted = 0
        for token in place.guessed:
            if not self._accepts(place.index, token):
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
