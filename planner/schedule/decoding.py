"""The sequences past their prompts. All advance by one token a step, so nobody touches them.

Only where guessed tokens came true does a sequence jump ahead of that.

A tail that joined with ``n`` tokens at step ``t`` has ``n + (now - t)``. Sums over all are kept as
they come and go, and a tail needs a block every 16 steps: a step costs what changes in it.
"""

from __future__ import annotations

from batchpipe.planner.kv_ledger import BLOCK_TOKENS
from batchpipe.planner.schedule.segment import Chunk, Draft, Sequence


class Decoding:
    """Who decodes, how long they are by now, and what they read together."""

    def __init__(self) -> None:
        self.clock = 0  # steps so far
        self.sequences: dict[int, Sequence] = {}  # by prompt, in order of joining
        self.own_keys = 0  # tokens of all tails
        self.shared_keys = 0  # distinct tokens of the shared segments above them
        self.shared_pairs = 0  # tokens above each, summed
        self._by_phase: list[dict[int, Sequence]] = [{} for _ in range(BLOCK_TOKENS)]

    def __len__(self) -> int:
        return len(self.sequences)

    def __contains__(self, sequence: Sequence) -> bool:
        return sequence.joined >= 0

    def join(self, sequence: Sequence) -> None:
        """The sequence has drawn a token, which its tail's ``length`` counts, and decodes on."""
        tail = sequence.tail
        sequence.joined = self.clock
        self.sequences[sequence.index] = sequence
        self._by_phase[self._phase(sequence)][sequence.index] = sequence
        self.own_keys += tail.length
        self.shared_pairs += tail.position
        for segment in sequence.path:
            if not segment.decoders:
                self.shared_keys += segment.length
            segment.decoders += 1

    def leave(self, sequence: Sequence) -> None:
        """The sequence decodes no more; its tail's ``length`` and ``computed`` are true again."""
        tail = sequence.tail
        del self.sequences[sequence.index]
        del self._by_phase[self._phase(sequence)][sequence.index]
        tail.length = self.length(sequence)
        tail.computed = tail.length - 1  # the last token drawn
        sequence.joined = -1
        self.own_keys -= tail.length
        self.shared_pairs -= tail.position
        for segment in sequence.path:
            segment.decoders -= 1
            if not segment.decoders:
                self.shared_keys -= segment.length

    def jump(self, sequence: Sequence, tokens: int) -> None:
        """The sequence has so many tokens more than one a step."""
        del self._by_phase[self._phase(sequence)][sequence.index]
        sequence.tail.length += tokens
        self._by_phase[self._phase(sequence)][sequence.index] = sequence
        self.own_keys += tokens

    def length(self, sequence: Sequence) -> int:
        """Tokens of its tail by now, the last of which is not computed."""
        if sequence.joined < 0:
            return sequence.tail.length
        return sequence.tail.length + self.clock - sequence.joined

    def produced(self, sequence: Sequence) -> int:
        """Tokens of its answer by now."""
        return self.length(sequence) - len(sequence.tail.prompt)

    def chunk(self, sequence: Sequence, draft: Draft | None = None) -> Chunk:
        """What it computes in this step: its last token, and those guessed behind it."""
        length = self.length(sequence)
        end = length if draft is None else draft.end
        return Chunk(sequence.tail, length - 1, end, sequence, draft)

    def needing_block(self) -> list[Sequence]:
        """Those whose last token opens a new block in this step."""
        return list(self._by_phase[self.clock % BLOCK_TOKENS].values())

    def advance(self) -> None:
        """One step has passed: everybody has one token more."""
        self.clock += 1
        self.own_keys += len(self.sequences)

    @staticmethod
    def _phase(sequence: Sequence) -> int:
        """The steps, modulo a block, at which its length is one more than its blocks hold."""
        tail = sequence.tail
        return (sequence.joined - tail.length + 1 + tail.skew) % BLOCK_TOKENS
