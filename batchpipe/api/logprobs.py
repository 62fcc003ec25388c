"""How likely the model found each token, in the form that vLLM's users know."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar, cast, overload

import pyarrow as pa

Tokens = TypeVar("Tokens")  # a dict, or None too where a token may have nothing before it


@dataclass(frozen=True, slots=True)
class Logprob:
    """One token in one place: its log-probability, its rank there and its text.

    >>> import batchpipe as bp
    >>> bp.Logprob(logprob=-0.25, rank=1, decoded_token=" yes").rank
    1
    """

    logprob: float  # of the model's raw distribution; -9999 stands for impossible
    rank: int  # 1: no token is likelier
    decoded_token: str


class TokenLogprobs(Sequence[Tokens], Generic[Tokens]):
    """For each token a dict from token ids to `Logprob`: the token itself, then the likeliest.

    A prompt's first token, which nothing precedes, has None. The dicts are made when they are
    looked at, for the numbers alone take a twentieth of the memory.

    >>> import batchpipe as bp
    >>> from batchpipe.demo.prompt import MODEL_DIR
    >>> with bp.LLM(MODEL_DIR, dtype="float32") as llm:
    ...     [answer] = llm.generate("Ticket:", bp.SamplingParams(max_tokens=4, logprobs=2))
    >>> [first, *_] = answer.outputs[0].logprobs
    >>> [each.rank for each in first.values()]
    [1, 2]
    >>> len(answer.logprobs) == answer.completion_tokens
    True
    """

    __slots__ = ("_cell",)

    def __init__(self, cell: pa.StructArray) -> None:  # of `logprob_columns.TOKEN`
        self._cell = cell

    def __len__(self) -> int:
        return len(self._cell)

    @overload
    def __getitem__(self, place: int) -> Tokens: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[Tokens]: ...

    def __getitem__(self, place: int | slice) -> Tokens | Sequence[Tokens]:
        if isinstance(place, slice):
            return [self[each] for each in range(*place.indices(len(self)))]
        token = self._cell[place].as_py()
        if token["logprob"] is None:
            return cast(Tokens, None)
        found = {token["token_id"]: Logprob(token["logprob"], token["rank"], token["token"])}
        for rank, each in enumerate(token["top"], start=1):
            found.setdefault(
                each["token_id"], Logprob(each["logprob"], rank, decoded_token=each["token"])
            )
        return cast(Tokens, found)

    def __iter__(self) -> Iterator[Tokens]:
        return (self[place] for place in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, TokenLogprobs):
            return bool(self._cell.equals(other._cell))
        return isinstance(other, list) and list(self) == other

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(list(self))

    @property
    def total(self) -> float:
        """The log-probability of all tokens together, as far as they have one."""
        values = self._cell.field("logprob")
        return float(values.drop_null().to_numpy().sum(dtype="float64"))


OutputLogprobs = TokenLogprobs[dict[int, Logprob]]
PromptLogprobs = TokenLogprobs[dict[int, Logprob] | None]
