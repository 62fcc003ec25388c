"""How likely a model found some tokens, as numbers on the host. Knows no tensor and no text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class Logprobs:
    """Of each token its log-probability and rank, and the likeliest in its place.

    All are of the model's raw distribution: the log-softmax of its scores in float32, before
    temperature, penalties and filters.
    """

    values: Floats  # [tokens]
    ranks: Integers  # 1 where no token is likelier  # [tokens]
    top_token_ids: Integers  # likeliest first  # [tokens, top]
    top_values: Floats  # [tokens, top]

    def __len__(self) -> int:
        return len(self.values)

    @classmethod
    def empty(cls, tokens: int, top: int) -> Logprobs:
        """Room for so many, yet without numbers: NaN."""
        return cls(
            np.full(tokens, np.nan, dtype=np.float32),
            np.zeros(tokens, dtype=np.int32),
            np.zeros((tokens, top), dtype=np.int32),
            np.full((tokens, top), np.nan, dtype=np.float32),
        )

    @classmethod
    def unpacked(cls, packed: Integers) -> Logprobs:  # [tokens, 2 + 2 * top]
        """From whole numbers, those that are none as their bits."""
        top = (packed.shape[1] - 2) // 2
        bits = [np.ascontiguousarray(packed[:, at]) for at in (slice(0, 1), slice(2 + top, None))]
        values, top_values = (each.view(np.float32) for each in bits)
        return cls(values[:, 0], packed[:, 1], packed[:, 2 : 2 + top], top_values)

    @classmethod
    def joined(cls, parts: Sequence[Logprobs]) -> Logprobs:
        """One behind the other; at least one."""
        return cls(
            np.concatenate([part.values for part in parts]),
            np.concatenate([part.ranks for part in parts]),
            np.concatenate([part.top_token_ids for part in parts]),
            np.concatenate([part.top_values for part in parts]),
        )

    def widened(self, top: int) -> Logprobs:
        """The same with room for so many of the likeliest; what is not known is NaN."""
        wide = Logprobs.empty(len(self), max(top, self.top_values.shape[1]))
        wide.values[:], wide.ranks[:] = self.values, self.ranks
        wide.top_token_ids[:, : self.top_values.shape[1]] = self.top_token_ids
        wide.top_values[:, : self.top_values.shape[1]] = self.top_values
        return wide

    def put(self, place: int, others: Logprobs) -> None:
        """The others stand at ``place`` and behind it."""
        end = place + len(others)
        self.values[place:end] = others.values
        self.ranks[place:end] = others.ranks
        self.top_token_ids[place:end] = others.top_token_ids
        self.top_values[place:end] = others.top_values

    def of(self, start: int, end: int, top: int | None = None) -> Logprobs:
        """A copy of those of tokens ``start:end``, with so many of the likeliest; None: all."""
        return Logprobs(
            self.values[start:end].copy(),
            self.ranks[start:end].copy(),
            self.top_token_ids[start:end, :top].copy(),
            self.top_values[start:end, :top].copy(),
        )

    @property
    def are_numbers(self) -> bool:
        """True where none is NaN, which it is where the model's scores were no numbers."""
        return not bool(np.isnan(self.values).any())
