"""Which tokens of the prompts are scored: how likely the model finds each behind those before it.

The scores behind a token tell of the token that follows. In a shared node they serve all prompts
below it; behind its last token several may follow, one for each child.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from batchpipe.planner.plan import Plan
from batchpipe.planner.request import TokenIds
from batchpipe.planner.schedule.segment import Segment

Places = npt.NDArray[np.int64]

_NOTHING = 1 << 31  # beyond any prompt


class Scoring:
    """What is asked of each segment, by the plan alone: it is the same whenever one asks."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        firsts = (
            _NOTHING if sampling.prompt_logprobs is None else sampling.prompt_logprobs_from
            for sampling in plan.samplings
        )
        first_scored = np.fromiter(firsts, np.int64, len(plan.samplings))  # [prompts]
        self._first_scored = first_scored[plan.tree.order]  # by rank
        self._asked = bool((first_scored < plan.prompts.lengths).any())

    def __bool__(self) -> bool:
        """True where any token of any prompt is scored."""
        return self._asked

    def first_scored(self, segment: Segment) -> int:
        """The position of the first token that a prompt below it, or itself, has scored."""
        node, rank = segment.node, segment.rank
        if node < 0:
            return int(self._first_scored[rank])
        return int(self._first_scored[rank : int(self._plan.tree.last[node])].min())

    def unscored(self, segment: Segment) -> int:
        """How many of its first tokens no prompt wants the scores behind."""
        if not self._asked:
            return segment.length
        return max(0, min(segment.length, self.first_scored(segment) - 1 - segment.position))

    def places(self, segment: Segment, start: int, end: int) -> range:
        """Those of its places ``start:end`` behind which a prompt's next token is scored."""
        if not self._asked:
            return range(0)
        first = self.first_scored(segment) - 1 - segment.position
        if segment.node < 0:  # nothing of the prompt follows its last token
            prompt = self._plan.tree.order[segment.rank]
            end = min(end, int(self._plan.prompts.lengths[prompt]) - 1 - segment.position)
        return range(max(start, first), max(start, first, end))

    def followers(self, segment: Segment, places: range) -> tuple[Places, TokenIds]:
        """What follows these places in prompts that have it scored, by place and then by token.

        Behind the last place of a shared node that is each token with which a child begins.

        Returns:
            places, a place as often as it has followers  # [followers]
            token ids  # [followers]
        """
        plan, end = self._plan, segment.position + places.stop
        prompt = plan.prompts[int(plan.tree.order[segment.rank])]
        tokens = prompt[segment.position + places.start + 1 : end + 1]
        at = np.arange(places.start, places.stop)
        if segment.node >= 0 and len(places) and places.stop == segment.length:
            ranks = np.arange(segment.rank, int(plan.tree.last[segment.node]))
            below = plan.tree.order[ranks[self._first_scored[ranks] <= end]]
            behind = np.unique(plan.prompts.token_ids[plan.prompts.starts[below] + end])
            tokens = np.concatenate([tokens[:-1], behind])
            at = np.concatenate([at[:-1], np.full(len(behind), at[-1])])
        return at, tokens
