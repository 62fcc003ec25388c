"""The result columns that tell how likely the model found each token, as Arrow has them.

A token with what stood in its place is one struct.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

TOP = pa.struct([("token_id", pa.int32()), ("token", pa.string()), ("logprob", pa.float32())])

# The log-probability, the rank and the likeliest tokens are null of a token that nothing precedes.
TOKEN = pa.struct([*TOP, ("rank", pa.int32()), ("top", pa.list_(TOP))])

LOGPROB_COLUMNS: dict[str, pa.DataType] = {
    "logprobs": pa.list_(TOKEN),
    "outputs_logprobs": pa.list_(pa.list_(TOKEN)),
    "prompt_logprobs": pa.list_(TOKEN),
}

# What a row gives for such a column: the tokens as one array, or a tuple of arrays.
Cell = Any


def asked_columns(*names: Collection[str]) -> frozenset[str]:
    """Which of the columns a run has whose options or job columns, say, have these names."""
    asked = {name for each in names for name in each} & LOGPROB_COLUMNS.keys()
    return frozenset(asked | ({"outputs_logprobs"} if "logprobs" in asked else set()))


def column_of(cells: Sequence[Cell | None], kind: pa.DataType) -> pa.Array:
    """The cells of some rows as a column of this type; nothing is copied but whole arrays."""
    lengths = [0 if cell is None else len(cell) for cell in cells]
    ends = np.cumsum([0, *lengths])
    absent = [*(cell is None for cell in cells), False]
    offsets = pa.array(ends, pa.int32(), mask=np.array(absent))
    inner = kind.value_type
    if pa.types.is_list(inner):
        items = column_of([each for cell in cells if cell is not None for each in cell], inner)
    else:
        arrays = [cell for cell in cells if cell is not None]
        items = pa.concat_arrays(arrays) if arrays else pa.array([], inner)
    return pa.ListArray.from_arrays(offsets, items, type=kind)
