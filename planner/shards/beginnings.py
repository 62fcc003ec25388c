"""With what the prompts at a worker begin, block by block: how much of another one it has.

A block's name stands for all tokens up to its end, so equal names are equal beginnings. Knows what
is asked and not yet answered, as the KV of that is what the worker is sure to have.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from hashlib import blake2b

from batchpipe.planner.kv_ledger import BLOCK_TOKENS
from batchpipe.planner.request import TokenIds

Names = tuple[int, ...]  # of a prompt's whole blocks, in order


def names_of(model: str, token_ids: TokenIds) -> Names:
    """A name for each whole block of the prompt, not equal to any of another model."""
    found: list[int] = []
    so_far = blake2b(model.encode(), digest_size=8)
    packed = token_ids.astype("<i4").tobytes()
    width = 4 * BLOCK_TOKENS
    for start in range(0, len(packed) - width + 1, width):
        so_far.update(packed[start : start + width])
        found.append(int.from_bytes(so_far.digest(), "little"))
    return tuple(found)


class Beginnings:
    """The blocks of the prompts at one worker, and of the heads with which more will begin."""

    def __init__(self) -> None:
        self._prompts: Counter[int] = Counter()  # that have each block; 0: a head alone

    def known_tokens(self, names: Sequence[int]) -> int:
        """How many first tokens of a prompt with these blocks are here already."""
        known = 0
        for name in names:
            if name not in self._prompts:
                break
            known += 1
        return known * BLOCK_TOKENS

    def add(self, names: Iterable[int]) -> None:
        """A prompt with these blocks is here."""
        for name in names:
            self._prompts[name] += 1

    def leave(self, names: Iterable[int], heads: Counter[int]) -> None:
        """It is not any more; blocks of heads stay, for prompts with them are to come."""
        for name in names:
            self._prompts[name] -= 1
            if not self._prompts[name] and not heads[name]:
                del self._prompts[name]

    def forget_unused(self, names: Iterable[int]) -> None:
        """These blocks are of no head any more."""
        for name in names:
            if self._prompts.get(name) == 0:
                del self._prompts[name]
