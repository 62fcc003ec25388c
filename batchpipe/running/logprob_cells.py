"""From an answer's numbers to the cells of the result columns: token ids get their texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batchpipe.engine.logprobs import Logprobs
from batchpipe.engine.token_texts import TokenTexts
from batchpipe.rows.logprob_columns import TOKEN, TOP

LEAST_LOGPROB = -9999.0  # stands for minus infinity, which JSON has no word for, as in vLLM

Integers = npt.NDArray[np.int32]


class LogprobCells:
    """Makes the cells, with one tokenizer's texts."""

    def __init__(self, tokenizer: Any) -> None:
        self._texts = TokenTexts(tokenizer)

    def cell(self, token_ids: Sequence[int] | Integers, found: Logprobs) -> pa.StructArray:
        """One struct a token; of the first ones, which ``found`` tells nothing of, nulls beside."""
        ids = np.asarray(token_ids, dtype=np.int32)
        untold = len(ids) - len(found)
        absent = np.arange(len(ids)) < untold
        values, ranks = np.zeros(len(ids), np.float32), np.zeros(len(ids), np.int32)
        values[untold:], ranks[untold:] = found.values, found.ranks
        told = pa.array(np.maximum(values, LEAST_LOGPROB), mask=absent)
        rank = pa.array(ranks, mask=absent)
        columns = [pa.array(ids), self._text_array(ids), told, rank, self._tops(found, absent)]
        return pa.StructArray.from_arrays(columns, fields=list(TOKEN))

    def _tops(self, found: Logprobs, absent: npt.NDArray[np.bool_]) -> pa.ListArray:
        top_ids = np.ascontiguousarray(found.top_token_ids).ravel()
        values = np.maximum(found.top_values.ravel(), LEAST_LOGPROB)
        columns = [pa.array(top_ids), self._text_array(top_ids), pa.array(values)]
        tops = pa.StructArray.from_arrays(columns, fields=list(TOP))
        counts = np.where(absent, 0, found.top_token_ids.shape[1])
        ends = np.append(0, np.cumsum(counts))
        offsets = pa.array(ends, pa.int32(), mask=np.append(absent, False))
        return pa.ListArray.from_arrays(offsets, tops, type=pa.list_(TOP))

    def _text_array(self, ids: Integers) -> pa.Array:
        distinct, places = np.unique(ids, return_inverse=True)
        texts = pa.array(map(self._texts.text, distinct.tolist()), pa.string())
        return texts.take(pa.array(places))
