"""How long will the answers be? What is known exactly is used exactly, the rest is learnt.

Prompts that begin alike were made by one template, and the answers to one template are alike in
length: so lengths are learnt by group, in this run and from earlier ones. Knows lengths and groups
only; where history is kept is not known here.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from itertools import chain

import numpy as np
import numpy.typing as npt

from batchpipe.planner.request import Prompts
from batchpipe.planner.tree.prefix_tree import Int32s, Int64s, PrefixTree

FIRST_GUESS_TOKENS = 128  # before any answer is finished
RECENT_ANSWERS = 1000  # as many finished lengths are remembered (Past-Future's window)
GUESS_QUANTILE = 0.9  # a high quantile: a wrong guess costs a preemption, a careful one only room
FEW_ANSWERS = 5  # a group with fewer borrows the missing ones from the other groups
KEY_TOKENS = 64  # prompts with so many first tokens in common are of one group
MIN_GROUP = 8  # prompts; a smaller group would still be learning when its last answer ends
KEY_BYTES = 16
REST = b""  # the key of group 0: all prompts that begin like too few others


def group_prompts(tree: PrefixTree, prompts: Prompts) -> tuple[Int32s, list[bytes]]:
    """Prompts of one group have their first `KEY_TOKENS` tokens in common, and no others do.

    The last token of a prompt does not count, as in the tree. Groups of fewer than `MIN_GROUP`
    prompts are one together, group 0 with the key `REST`, which is there even if empty. The others
    stand in the order of their tokens.

    Returns:
        the group of each prompt  # [prompts]
        the key of each group: a digest of the first tokens alone, so other rows made by the same
        template have the same key in another run  # [groups]
    """
    sizes = tree.last - tree.first
    # Prompts that share their first tokens are below the one node that has the last of them.
    holds = (tree.start < KEY_TOKENS) & (tree.end >= KEY_TOKENS)
    nodes = np.flatnonzero(holds & (sizes >= MIN_GROUP))
    ids = np.arange(1, len(nodes) + 1, dtype=np.int32)
    changes = np.zeros(len(prompts) + 1, dtype=np.int32)  # of the group, from rank to rank
    changes[tree.first[nodes]] += ids
    changes[tree.last[nodes]] -= ids
    groups = np.empty(len(prompts), dtype=np.int32)
    groups[tree.order] = np.cumsum(changes[:-1], dtype=np.int32)
    starts = prompts.starts[tree.order[tree.first[nodes]]]
    heads = prompts.token_ids[starts[:, None] + np.arange(KEY_TOKENS)].astype("<i4")
    return groups, [REST, *(blake2b(head, digest_size=KEY_BYTES).digest() for head in heads)]


class _Window:
    """The last `RECENT_ANSWERS` lengths, in order of arrival and by size."""

    __slots__ = ("added", "by_size", "recent")

    def __init__(self, history: Iterable[int] = ()) -> None:
        self.recent = deque(history, maxlen=RECENT_ANSWERS)
        self.by_size = sorted(self.recent)
        self.added = 0

    def __len__(self) -> int:
        return len(self.recent)

    def add(self, length: int) -> None:
        """The length is in; the oldest is out where there is no more room."""
        if len(self.recent) == RECENT_ANSWERS:
            del self.by_size[bisect_left(self.by_size, self.recent[0])]
        self.recent.append(length)
        insort(self.by_size, length)
        self.added += 1

    def likely_end(self, produced: int) -> int:
        """A high quantile of the lengths above ``produced``; 0 where there are none."""
        longer = bisect_right(self.by_size, produced)
        count = len(self.by_size) - longer
        return self.by_size[longer + int(GUESS_QUANTILE * (count - 1))] if count else 0


class OutputLengths:
    """The lengths of finished answers by group, and from them the length of the next.

    Past-Future (LightLLM): an answer that already has ``produced`` tokens is compared only with
    finished answers that became longer than that. BlendServe: a group without answers is expected
    to be as its siblings are. History counts like answers of this run until they push it out.

    Args:
        groups: the group of each prompt; None: all are of group 0  # [prompts]
        history: group -> lengths that were finished in earlier runs, oldest first
    """

    def __init__(
        self, groups: Int32s | None = None, history: Mapping[int, Sequence[int]] | None = None
    ) -> None:
        self._groups: Int32s | None = None
        self._group_of: memoryview | None = None
        if groups is not None:
            self.regroup(groups)
        self._windows = {group: _Window(each) for group, each in (history or {}).items() if each}
        self._everyone = _Window(self._sample())

    def _sample(self) -> list[int]:
        """A fair sample of all history, in mixed order: no group is the first to be pushed out."""
        lengths = [length for window in self._windows.values() for length in window.recent]
        mixed = np.random.default_rng(0).permutation(len(lengths))[:RECENT_ANSWERS]
        return [lengths[place] for place in mixed.tolist()]

    def regroup(self, groups: Int32s) -> None:
        """These are the groups of the prompts from now on; those of before keep theirs."""
        self._groups = np.ascontiguousarray(groups, dtype=np.int32)
        self._group_of = self._groups.data  # fast to index

    @property
    def known(self) -> int:
        """Answers added in this run."""
        return self._everyone.added

    def finished(self, group: int) -> Sequence[int]:
        """The last lengths that this run added to the group, oldest first; no history."""
        window = self._windows.get(group)
        if window is None or not window.added:
            return []
        return list(window.recent)[-window.added :]

    def add(self, prompt: int, length: int) -> None:
        """One more answer of this prompt ended of itself with ``length`` tokens."""
        group = self._group(prompt)
        window = self._windows.get(group)
        if window is None:
            window = self._windows[group] = _Window()
        window.add(length)
        self._everyone.add(length)

    def remaining(self, prompt: int, produced: int, max_tokens: int, exact: bool) -> int:
        """Tokens still expected, at least 1; ``exact`` where nothing but the limit ends it."""
        limit = max_tokens - produced
        if exact or limit <= 1:
            return max(1, limit)
        end = self._likely_end(self._group(prompt), produced)
        likely = end - produced if end else max(FIRST_GUESS_TOKENS, produced // 2)
        return max(1, min(limit, likely))

    def expected(self, max_tokens: Int64s, exact: npt.NDArray[np.bool_]) -> Int64s:  # [prompts]
        """The mean length of an answer to each prompt before it begins, at least 1.

        That is the mean of ``min(length, limit)`` over the prompt's group. A group with too few
        answers fills up with the mean over all other groups; before any answer ends it is a guess.

        Args:
            max_tokens: the limit of each answer  # [prompts]
            exact: where nothing but the limit ends the answer  # [prompts]
        """
        groups = np.zeros(len(max_tokens), np.int32) if self._groups is None else self._groups
        assert len(groups) == len(max_tokens) == len(exact), (
            f"{len(groups)} prompts, {len(max_tokens)} limits, {len(exact)} times exact or not"
        )
        if self._windows:
            guess = self._means(groups.astype(np.int64), max_tokens)
        else:
            guess = np.full(len(groups), FIRST_GUESS_TOKENS)
        return np.where(exact, max_tokens, np.minimum(np.maximum(guess, 1), max_tokens))

    def _group(self, prompt: int) -> int:
        return 0 if self._group_of is None else self._group_of[prompt]

    def _likely_end(self, group: int, produced: int) -> int:
        """The length at which such an answer ends, 0 where none was longer than ``produced``.

        The end never comes nearer while ``produced`` grows: each quantile only rises, and where the
        group has no longer answers, what others have is above all of the group's.
        """
        window = self._windows.get(group)
        count = len(window) if window else 0
        own = window.likely_end(produced) if window else 0
        if own and count >= FEW_ANSWERS:
            return own
        others = self._everyone.likely_end(produced)
        if not (own and others):
            return own or others
        return (count * own + (FEW_ANSWERS - count) * others) // FEW_ANSWERS

    def _means(self, groups: Int64s, limit: Int64s) -> Int64s:  # [prompts]
        """The rounded mean of ``min(length, limit)`` for each prompt; some length is known."""
        present = sorted(self._windows)
        counts = np.array([len(self._windows[group]) for group in present], dtype=np.int64)
        by_size = chain.from_iterable(self._windows[group].by_size for group in present)
        lengths = np.fromiter(by_size, dtype=np.int64, count=int(counts.sum()))
        offsets = np.zeros(max(present[-1], int(groups.max(initial=0))) + 2, dtype=np.int64)
        offsets[np.array(present) + 1] = counts
        offsets = np.cumsum(offsets)  # lengths[offsets[group] : offsets[group + 1]] are the group's
        first, last = offsets[groups], offsets[groups + 1]

        # One search finds each prompt's limit among its group's lengths: (group, length) rises.
        span = int(lengths.max()) + 1
        places = np.repeat(np.array(present, dtype=np.int64), counts) * span + lengths
        below = np.minimum(limit, span - 1)
        reach = np.searchsorted(places, groups * span + below, side="right")
        own_sum = _capped_sum(lengths, first, reach, last, limit)
        own_count = last - first
        ranked = np.sort(lengths)
        reach = np.searchsorted(ranked, below, side="right")
        none, every = np.zeros_like(reach), np.full_like(reach, len(ranked))
        siblings_sum = _capped_sum(ranked, none, reach, every, limit) - own_sum
        siblings_count = len(ranked) - own_count

        borrowed = np.maximum(FEW_ANSWERS - own_count, 0) * (siblings_count > 0)
        total = own_sum + borrowed * (siblings_sum / np.maximum(siblings_count, 1))
        means: Int64s = np.floor(total / (own_count + borrowed) + 0.5).astype(np.int64)
        return means


def _capped_sum(
    lengths: Int64s, first: Int64s, reach: Int64s, last: Int64s, limit: Int64s
) -> Int64s:
    """The sum of ``min(length, limit)`` over first:last, where first:reach are within the limit."""
    sums = np.append(0, np.cumsum(lengths))
    total: Int64s = sums[reach] - sums[first] + (last - reach) * limit
    return total
