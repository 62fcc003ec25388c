"""A prompt to answer and how to answer it: frozen, torch-free."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

TokenIds = npt.NDArray[np.int32]


ConstraintKind = Literal["choices", "schema", "regex", "grammar"]


@dataclass(frozen=True, slots=True)
class Constraint:
    """What an answer must be: one of some texts, JSON of a schema, or what a pattern matches.

    Equal demands have equal texts, so that each is compiled once.
    """

    kind: ConstraintKind
    text: str  # a JSON list of texts, a JSON Schema, a regular expression or a grammar in GBNF


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one request draws its answer. Names and meaning follow vLLM's ``SamplingParams``.

    ``temperature == 0`` is greedy. ``top_k == 0`` and ``top_p == 1`` and ``min_p == 0`` are off.
    ``seed`` is the row's own seed; without one a row draws from (run seed, request id).

    ``logprobs`` asks how likely the model found each drawn token, and the so many likeliest beside
    it; ``prompt_logprobs`` the same of the prompt's tokens from ``prompt_logprobs_from`` on. None
    is off. ``max_tokens == 0`` draws nothing: such a prompt is only scored.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    n: int = 1
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    constraint: Constraint | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    prompt_logprobs_from: int = 1  # the first token that they tell of; nothing precedes token 0

    @property
    def deterministic(self) -> bool:
        """True where equal prompts must get equal answers: greedy, or drawn from an own seed."""
        return self.temperature == 0 or self.seed is not None


@dataclass(frozen=True, slots=True, eq=False)
class Prompts:
    """The token ids of many prompts in one flat array, which several `Prompts` may look at.

    Prompt ``i`` is ``token_ids[starts[i]:ends[i]]``.
    """

    token_ids: TokenIds  # [tokens]
    starts: npt.NDArray[np.int64]  # [prompts]
    ends: npt.NDArray[np.int64]  # [prompts]

    @classmethod
    def pack(cls, rows: Sequence[Sequence[int] | TokenIds]) -> Prompts:
        """Lay the rows end to end."""
        lengths = np.fromiter((len(row) for row in rows), dtype=np.int64, count=len(rows))
        ends = np.cumsum(lengths)
        token_ids = np.empty(int(lengths.sum()), dtype=np.int32)
        for row, start, end in zip(rows, ends - lengths, ends, strict=True):
            token_ids[start:end] = row
        return cls(token_ids, ends - lengths, ends)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> TokenIds:
        return self.token_ids[self.starts[index] : self.ends[index]]

    def __iter__(self) -> Iterator[TokenIds]:
        return (self[index] for index in range(len(self)))

    def take(self, indices: npt.NDArray[np.integer]) -> Prompts:
        """The prompts at ``indices``, in that order, over the same token ids: nothing is copied."""
        return Prompts(self.token_ids, self.starts[indices], self.ends[indices])

    @property
    def lengths(self) -> npt.NDArray[np.int64]:  # [prompts]
        """Tokens of each prompt."""
        return self.ends - self.starts

    @property
    def tokens(self) -> int:
        """Tokens of all prompts, each counted as if alone."""
        return int(self.lengths.sum())

    def end_to_end(self, dtype: str) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
        """A copy as this dtype, one prompt behind the other, and the places between them.

        Returns:
            token ids  # [tokens]
            offsets  # [prompts + 1]
        """
        offsets = np.append(0, np.cumsum(self.lengths))
        copied = np.empty(int(offsets[-1]), dtype=dtype)
        # Neighbours that lie behind one another already are copied in one piece.
        cuts = np.flatnonzero(self.starts[1:] != self.ends[:-1]) + 1
        firsts, lasts = np.append(0, cuts), np.append(cuts, len(self)) - 1
        for first, last in zip(firsts[: len(self)].tolist(), lasts.tolist(), strict=False):
            piece = self.token_ids[self.starts[first] : self.ends[last]]
            copied[offsets[first] : offsets[last + 1]] = piece
        return copied, offsets
