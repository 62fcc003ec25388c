"""What a Parquet job has beside its prompts comes out as it went in, to the type and the byte."""

from __future__ import annotations

import datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from harness import call

ROWS = 25


def table() -> pa.Table:
    """Every kind of column, nulls among them, and rows that are equal."""
    numbers = [None if row % 5 == 4 else row // 2 for row in range(ROWS)]
    moment = datetime.datetime(2026, 1, 2, 3, 4, 5, 678901)
    columns: dict[str, pa.Array] = {
        "prompt": pa.array([f"Please tell them, {row // 2}" for row in range(ROWS)]),
        "day": pa.array([moment + datetime.timedelta(days=row) for row in range(ROWS)]),
        "zoned": pa.array([moment] * ROWS, pa.timestamp("ns", tz="Europe/Berlin")),
        "price": pa.array([Decimal(f"{row}.1234") for row in range(ROWS)], pa.decimal128(20, 4)),
        "kind": pa.array([f"k{row % 3}" for row in range(ROWS)]).dictionary_encode(),
        "bytes": pa.array([bytes([row, 0, 255]) for row in range(ROWS)]),
        "nothing": pa.nulls(ROWS, pa.string()),
        "number": pa.array(numbers, pa.uint16()),
        "nested": pa.array([{"a": [{"b": n}, None], "c": {"d": None}} for n in numbers]),
        "pairs": pa.array([[("x", n)] for n in numbers], pa.map_(pa.string(), pa.int32())),
        "half": pa.array([0.1 * row for row in range(ROWS)], pa.float32()),
        "vector": pa.array([[row, row] for row in range(ROWS)], pa.list_(pa.int8(), 2)),
    }
    fields = [pa.field(name, each.type, metadata={"of": name}) for name, each in columns.items()]
    schema = pa.schema(fields, metadata={"made": "by hand"})
    return pa.Table.from_arrays(list(columns.values()), schema=schema)


def test_columns_pass_through_to_the_byte(tmp_path: Path, model: Path) -> None:
    job, out = tmp_path / "job.parquet", tmp_path / "answers.parquet"
    pq.write_table(table(), job, row_group_size=7)
    ran = call("run", job, "-m", model, "-o", out, "--max-tokens", 2)
    assert ran.code == 0, ran.err
    before, after = pq.read_table(job), pq.read_table(out)
    assert after.select(before.column_names).equals(before, check_metadata=True)
    assert after["output"].null_count == 0
    for row in range(0, ROWS - 1, 2):  # equal rows stay two rows
        assert after["output"][row] == after["output"][row + 1]


def test_a_run_that_was_stopped_and_repaired_keeps_them_too(tmp_path: Path, model: Path) -> None:
    job, out = tmp_path / "job.parquet", tmp_path / "answers.parquet"
    pq.write_table(table(), job, row_group_size=7)
    call("run", job, "-m", model, "-o", out, "--max-tokens", 2)
    repair = ("--finish-reason", "length", "--set", "max_tokens=4")
    assert call("retry", f"{out}.run", *repair).code == 0
    before, after = pq.read_table(job), pq.read_table(out)
    assert after.select(before.column_names).equals(before, check_metadata=True)
