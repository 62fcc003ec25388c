"""KV of answered prompts, kept for prompts that will begin with them and their answers.

Nobody else reads it, so where memory is short it goes before any node that several still need: then
whoever follows has it back from host memory, or computes it again. Who follows need not repeat the
very tokens of the answer, whose text may be cut into others: what counts is how far both go
together.

An answered prompt's number in the plan may soon be another's: so it is known by its ticket.
"""

from __future__ import annotations

import numpy as np

from batchpipe.planner.kv_ledger import BLOCK_TOKENS, Ledger
from batchpipe.planner.request import TokenIds
from batchpipe.planner.schedule.growth import KVRun, run_through
from batchpipe.planner.schedule.host_memory import Aside, HostMemory
from batchpipe.planner.schedule.segment import Sequence, Slots


class KeptAnswers:
    """Whose KV is kept, where it lies, and who follows whom."""

    def __init__(self, ledger: Ledger, host: HostMemory) -> None:
        self._ledger, self._host = ledger, host
        self._tickets: dict[int, int] = {}  # of prompts not answered yet, by prompt
        # By ticket: prompts that will follow, the KV of the answered in the order of their answers,
        # what of it is on the host instead, and what these and their answers say.
        self._due: dict[int, int] = {}
        self._runs: dict[int, KVRun] = {}
        self._asides: dict[int, Aside] = {}
        self._tokens: dict[int, TokenIds] = {}
        self._source: dict[int, tuple[int, int]] = {}  # whom each prompt follows, for how far

    def expect(self, index: int, ticket: int, followers: int) -> None:
        """So many prompts will begin with this one and its answer; they know it by the ticket."""
        self._tickets[index] = ticket
        self._due[ticket] = followers

    def follow(self, index: int, prompt: TokenIds, source: int) -> None:
        """The prompt begins as the answered source and its answer do, as far as it does."""
        known = self._tokens.get(source)
        # Its last token is its own: something must be computed for a token to be drawn.
        tokens = 0 if known is None else common_tokens(known, prompt[:-1])
        self._source[index] = (source, tokens)

    def answered(self, sequence: Sequence, prompt: TokenIds) -> None:
        """The sequence is complete, and still holds its KV: it is kept where somebody follows."""
        ticket = self._tickets.pop(sequence.index, None)
        if ticket in self._due:
            run = run_through(sequence.path, sequence.tail).without_room()
            if len(run.slots):
                self._ledger.share(run.blocks)
                self._runs[ticket] = run
                answer = np.array(sequence.answer, dtype=np.int32)
                self._tokens[ticket] = np.concatenate([prompt, answer])

    def of(self, index: int) -> KVRun | None:
        """The KV with which the prompt begins, where it follows somebody and that is still kept."""
        if index not in self._source:
            return None
        source, tokens = self._source[index]
        run = self._runs.get(source)
        return None if run is None or not tokens else run.first(tokens)

    def aside_of(self, index: int) -> Aside | None:
        """The same where that, or some of it, lies on the host."""
        source, tokens = self._source.get(index, (None, 0))
        aside = None if source is None else self._asides.get(source)
        return None if aside is None else aside.between(0, tokens)

    def has(self, index: int) -> bool:
        """True where the prompt begins with KV that is kept on the device."""
        return self.of(index) is not None

    def begun(self, index: int) -> None:
        """The prompt runs, and holds what it needs itself."""
        if index in self._source:
            self.forget(self._source.pop(index)[0])

    def forget(self, ticket: int) -> None:
        """One prompt less follows this one; behind the last its KV is given back."""
        left = self._due.get(ticket, 0) - 1
        if left > 0:
            self._due[ticket] = left
            return
        self._due.pop(ticket, None)
        self._release(ticket)

    def drop(self) -> int | None:
        """The KV kept last is given back; how many tokens it were, None where nothing is kept.

        It lies on the host then, if that pays, save for its beginning where others hold that.
        """
        if not self._runs:
            return None
        ticket = next(reversed(self._runs))
        run = self._runs[ticket]
        shared = self._shared(run.slots)
        aside = self._host.set_aside(shared, run.slots[shared:])
        if aside is None:
            self._release(ticket)
        else:
            self._asides[ticket] = aside
            self._ledger.give_back(self._runs.pop(ticket).blocks)
        return run.computed

    def _shared(self, slots: Slots) -> int:
        """First tokens that other owners of their blocks hold too, the last such block left out.

        Another's tokens may end within that one.
        """
        blocks = slots // BLOCK_TOKENS
        others = [block for block in np.unique(blocks).tolist() if self._ledger.is_shared(block)]
        places = np.flatnonzero(np.isin(blocks, others))
        return int((blocks == blocks[places[-1]]).argmax()) if len(places) else 0

    def _release(self, ticket: int) -> None:
        self._tokens.pop(ticket, None)
        run, aside = self._runs.pop(ticket, None), self._asides.pop(ticket, None)
        if run is not None:
            self._ledger.give_back(run.blocks)
        if aside is not None:
            self._host.free(aside)


def common_tokens(some: TokenIds, others: TokenIds) -> int:
    """How many first tokens both have alike."""
    shorter = min(len(some), len(others))
    differs = some[:shorter] != others[:shorter]
    return int(differs.argmax()) if differs.any() else shorter
