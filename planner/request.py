"""A prompt to answer and how to answer it: frozen, torch-free."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

TokenIds = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one request draws its answer. Names and meaning follow vLLM's ``SamplingParams``.

    ``temperature == 0`` is greedy. ``top_k == 0`` and ``top_p == 1`` and ``min_p == 0`` are off.
    ``seed`` is the row's own seed; without one a row draws from (run seed, request id).
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

    @property
    def deterministic(self) -> bool:
        """True where equal prompts must get equal answers: greedy, or drawn from an own seed."""
        return self.temperature == 0 or self.seed is not None


@dataclass(frozen=True, slots=True, eq=False)
class Prompts:
    """The token ids of many prompts, end to end in one flat array.

    Prompt ``i`` is ``token_ids[offsets[i]:offsets[i + 1]]``.
    """

    token_ids: TokenIds  # [tokens]
    offsets: npt.NDArray[np.int64]  # [prompts + 1]

    @classmethod
    def pack(cls, rows: Sequence[Sequence[int] | TokenIds]) -> Prompts:
        """Lay the rows end to end."""
        lengths = np.fromiter((len(row) for row in rows), dtype=np.int64, count=len(rows))
        offsets = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum(lengths, out=offsets[1:])
        token_ids = np.empty(int(offsets[-1]), dtype=np.int32)
        for row, start, end in zip(rows, offsets[:-1], offsets[1:], strict=True):
            token_ids[start:end] = row
        return cls(token_ids, offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> TokenIds:
        return self.token_ids[self.offsets[index] : self.offsets[index + 1]]

    def __iter__(self) -> Iterator[TokenIds]:
        return (self[index] for index in range(len(self)))

    def take(self, indices: npt.NDArray[np.integer]) -> Prompts:
        """The prompts at ``indices``, in that order; the same object where that changes nothing."""
        if np.array_equal(indices, np.arange(len(self))):
            return self
        offsets = np.zeros(len(indices) + 1, dtype=np.int64)
        np.cumsum(self.lengths[indices], out=offsets[1:])
        token_ids = np.empty(int(offsets[-1]), dtype=np.int32)
        # Neighbours that stay neighbours are copied in one piece.
        cuts = np.flatnonzero(np.diff(indices) != 1) + 1
        begins, ends = np.append(0, cuts), np.append(cuts, len(indices))
        for begin, end in zip(begins[begins < ends], ends[begins < ends], strict=True):
            first, last = indices[begin], indices[end - 1]
            token_ids[offsets[begin] : offsets[end]] = self.token_ids[
                self.offsets[first] : self.offsets[last + 1]
            ]
        return Prompts(token_ids, offsets)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:  # [prompts]
        """Tokens of each prompt."""
        return np.diff(self.offsets)


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """One distinct question to the model; ``index`` is its place in the plan's `Prompts`."""

    request_id: str
    index: int
    token_ids: TokenIds  # [prompt_tokens]
    sampling: Sampling
