"""A plan on disk: one Parquet row a prompt, in order of admission.

For whoever runs the plan elsewhere or looks at it with other tools: the order, what each prompt
shares, and how long its answer is taken to be. The token ids stay in the job file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from batchpipe.planner.plan import Plan

FACTS = b"batchpipe.plan"  # key of the schema's metadata whose value is a JSON object
ROWS_TOGETHER = 131_072  # in a row group

SCHEMA = pa.schema(
    [
        pa.field("place", pa.int64(), nullable=False),  # of admission, from 0
        pa.field("prompt", pa.int32(), nullable=False),  # index in the plan
        pa.field("first_row", pa.int32(), nullable=False),  # the row that it is named after
        pa.field("sample", pa.int32(), nullable=False),  # which of its row's n samples
        pa.field("rank", pa.int32(), nullable=False),  # in the order of token ids
        pa.field("prompt_tokens", pa.int32(), nullable=False),
        pa.field("shared_tokens", pa.int32(), nullable=False),  # leading ones, in shared nodes
        pa.field("node", pa.int32(), nullable=False),  # the deepest shared one, -1 for none
        pa.field("expected_output_tokens", pa.int32(), nullable=False),
        pa.field("max_tokens", pa.int32(), nullable=False),
    ]
)


def packed_plan(plan: Plan, facts: Mapping[str, object]) -> bytes:
    """The plan as the bytes of a Parquet file; equal plans give equal bytes.

    The metadata key `FACTS` has a JSON object with the order's name, prompts, prompt tokens and
    distinct tokens, and with ``facts``, which must be JSON values.
    """
    told = {
        "order": plan.order_name,
        "prompts": len(plan.prompts),
        "prompt_tokens": plan.prompts.tokens,
        "distinct_tokens": plan.tree.distinct_tokens,
        **facts,
    }
    schema = SCHEMA.with_metadata({FACTS: json.dumps(told, sort_keys=True).encode()})
    table = pa.Table.from_arrays(_columns(plan), schema=schema)
    stream = pa.BufferOutputStream()
    pq.write_table(table, stream, compression="zstd", row_group_size=ROWS_TOGETHER)
    return stream.getvalue().to_pybytes()  # type: ignore[no-any-return]


def read_plan_order(path: Path) -> npt.NDArray[np.int32]:  # [prompts]
    """Prompt indices in order of admission."""
    column = pq.read_table(path, columns=["prompt"]).column("prompt")
    return np.asarray(column, dtype=np.int32)


def read_plan_facts(path: Path) -> dict[str, object]:
    """What the file says of the plan as a whole."""
    facts: dict[str, object] = json.loads(pq.read_schema(path).metadata[FACTS])
    return facts


def _columns(plan: Plan) -> list[pa.Array]:
    order = plan.order.prompts
    ranks = plan.rank_of[order]
    limits = np.fromiter((each.max_tokens for each in plan.samplings), np.int64, len(order))
    columns = {
        "place": np.arange(len(order)),
        "prompt": order,
        "first_row": plan.first_row[order],
        "sample": plan.sample[order],
        "rank": ranks,
        "prompt_tokens": plan.prompts.lengths[order],
        "shared_tokens": plan.tree.tail_start[ranks],
        "node": plan.tree.tail_node[ranks],
        "expected_output_tokens": plan.output_tokens[order],
        "max_tokens": limits[order],
    }
    return [pa.array(columns[field.name], field.type) for field in SCHEMA]
