"""How likely the model found the prompts' own tokens, each computed once for all that share it.

Kept by segment from its computing until the last prompt below it is answered. Its KV may go before
that, evicted or preempted, and come again: what was found stays.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from batchpipe.engine.logprobs import Logprobs
from batchpipe.planner.plan import Plan
from batchpipe.planner.request import TokenIds
from batchpipe.planner.schedule.scoring import Scoring
from batchpipe.planner.schedule.segment import Chunk, Segment, Sequence


@dataclass(slots=True)
class _Kept:
    """What was found of one segment's followers, which stand by place and then by token."""

    first: int  # the first place that scores
    behind: TokenIds  # what follows its last place, rising; of a tail nothing
    found: Logprobs  # [followers]
    due: int  # prompts that will ask for it


class PromptScores:
    """The log-probabilities of prompts that run, as far as they are computed."""

    def __init__(self, plan: Plan, top: int) -> None:
        self.scoring = Scoring(plan)
        self._plan = plan
        self._top = top
        self._kept: dict[int, _Kept] = {}  # by node, or ~prompt for its tail

    def keep(self, chunk: Chunk, found: Logprobs) -> None:
        """These were found of the followers of the places that the chunk scores."""
        segment = chunk.segment
        key = segment.node if segment.node >= 0 else ~int(self._plan.tree.order[segment.rank])
        kept = self._kept.get(key)
        if kept is None:
            kept = self._kept[key] = self._room(segment)
        kept.found.put(chunk.scoring.start - kept.first, found)

    def settle(self, sequence: Sequence) -> Logprobs | None:
        """Those of the sequence's prompt, which is answered; None where it asked for none.

        They begin with its first token that is scored. What no other prompt will ask for is gone.
        """
        asked = self._asked(sequence)
        for segment in sequence.path:
            kept = self._kept.get(segment.node)
            if kept is not None:
                kept.due -= 1
                if not kept.due:
                    del self._kept[segment.node]
        self._kept.pop(~sequence.index, None)
        return asked

    def _asked(self, sequence: Sequence) -> Logprobs | None:
        index = sequence.index
        top = self._plan.samplings[index].prompt_logprobs
        if top is None or self._plan.sample[index]:  # samples of one row have one prompt
            return None
        first = self._plan.samplings[index].prompt_logprobs_from
        prompt = self._plan.prompts[index]
        parts = [Logprobs.empty(0, top)]
        for segment in (*sequence.path, sequence.tail):
            # Its followers are the tokens behind its first, and one behind its end.
            start = max(first, segment.position + 1)
            if segment.node < 0:
                parts += self._inner(~index, segment, start, len(prompt), top)
                continue
            end = segment.position + segment.length
            parts += self._inner(segment.node, segment, start, end, top)
            if first <= end:
                parts.append(self._behind(segment, int(prompt[end]), top))
        return Logprobs.joined(parts)

    def _inner(self, key: int, segment: Segment, start: int, end: int, top: int) -> list[Logprobs]:
        """Of the tokens at positions ``start:end``, each of which follows a place of its own."""
        if start >= end:
            return []
        kept = self._kept[key]
        base = segment.position + 1 + kept.first
        return [kept.found.of(start - base, end - base, top)]

    def _behind(self, segment: Segment, token: int, top: int) -> Logprobs:
        """Of a token that follows the end of a shared node."""
        kept = self._kept[segment.node]
        place = int(np.searchsorted(kept.behind, token))
        assert kept.behind[place] == token, f"token {token} follows no node {segment.node}"
        place += segment.length - 1 - kept.first
        return kept.found.of(place, place + 1, top)

    def _room(self, segment: Segment) -> _Kept:
        plan = self._plan
        prompt = int(plan.tree.order[segment.rank])
        places = self.scoring.places(segment, 0, int(plan.prompts.lengths[prompt]))
        if segment.node < 0:
            return _Kept(places.start, np.empty(0, np.int32), self._empty(len(places)), 1)
        places = range(places.start, segment.length)
        at, tokens = self.scoring.followers(segment, places)
        due = int(plan.tree.last[segment.node]) - segment.rank
        behind = tokens[at == segment.length - 1]
        return _Kept(places.start, behind, self._empty(len(tokens)), due)

    def _empty(self, tokens: int) -> Logprobs:
        return Logprobs.empty(tokens, self._top)
