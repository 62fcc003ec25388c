"""KV of answered prompts, kept for prompts that will begin with them and their answers.

Nobody else reads it, so where memory is short it goes before any node that several still need: then
whoever follows computes it again. Who follows need not repeat the very tokens of the answer, whose
text may be cut into others: what counts is how far both go together.
"""

from __future__ import annotations

import numpy as np

from batchpipe.planner.kv_ledger import Ledger
from batchpipe.planner.request import TokenIds
from batchpipe.planner.schedule.growth import KVRun, run_through
from batchpipe.planner.schedule.segment import Sequence


class KeptAnswers:
    """Whose KV is kept, where it lies, and who follows whom."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._due: dict[int, int] = {}  # prompts that will follow each, by prompt
        self._runs: dict[int, KVRun] = {}  # of answered prompts, in the order of their answers
        self._tokens: dict[int, TokenIds] = {}  # what they and their answers say
        self._source: dict[int, tuple[int, int]] = {}  # whom each follows, and for how many tokens

    def expect(self, index: int, followers: int) -> None:
        """So many prompts will begin with this one and its answer."""
        self._due[index] = followers

    def follow(self, index: int, prompt: TokenIds, source: int) -> None:
        """The prompt begins as the answered source and its answer do, as far as it does."""
        known = self._tokens.get(source)
        self._source[index] = (source, 0 if known is None else common_tokens(known, prompt))

    def answered(self, sequence: Sequence, prompt: TokenIds) -> None:
        """The sequence is complete, and still holds its KV: it is kept where somebody follows."""
        if self._due.get(sequence.index):
            run = run_through(sequence.path, sequence.tail).without_room()
            if len(run.slots):
                self._ledger.share(run.blocks)
                self._runs[sequence.index] = run
                answer = np.array(sequence.answer, dtype=np.int32)
                self._tokens[sequence.index] = np.concatenate([prompt, answer])

    def of(self, index: int) -> KVRun | None:
        """The KV with which the prompt begins, where it follows somebody and that is still kept."""
        source, tokens = self._source.get(index, (-1, 0))
        run = self._runs.get(source)
        return None if run is None or not tokens else run.first(tokens)

    def has(self, index: int) -> bool:
        """True where the prompt begins with KV that is kept."""
        return self.of(index) is not None

    def begun(self, index: int) -> None:
        """The prompt runs, and holds what it needs itself."""
        source, _ = self._source.pop(index, (-1, 0))
        if source >= 0:
            self.forget(source)

    def forget(self, index: int) -> None:
        """One prompt less follows this one; behind the last its KV is given back."""
        left = self._due.get(index, 0) - 1
        if left > 0:
            self._due[index] = left
            return
        self._due.pop(index, None)
        self._release(index)

    def drop(self) -> int | None:
        """The KV kept last is given back; how many tokens it were, None where nothing is kept."""
        if not self._runs:
            return None
        index = next(reversed(self._runs))
        tokens = self._runs[index].computed
        self._release(index)
        return tokens

    def _release(self, index: int) -> None:
        self._tokens.pop(index, None)
        run = self._runs.pop(index, None)
        if run is not None:
            self._ledger.give_back(run.blocks)


def common_tokens(some: TokenIds, others: TokenIds) -> int:
    """How many first tokens both have alike."""
    shorter = min(len(some), len(others))
    differs = some[:shorter] != others[:shorter]
    return int(differs.argmax()) if differs.any() else shorter
