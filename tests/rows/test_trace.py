"""Length traces: prompts share what their hash ids say and nothing else; bad rows are named."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchpipe.errors import ConfigError
from batchpipe.planner.tree.prefix_tree import build
from batchpipe.rows import trace
from batchpipe.rows.trace import is_trace, read_trace

Row = dict[str, object]
Requests = tuple[list[int], list[list[int] | None]]
BLOCK = 4
SHARING: list[Row] = [
    {"input_len": 10, "output_len": 3, "hash_ids": [7, 8, 9]},
    {"input_len": 11, "output_len": 1, "hash_ids": [7, 8, 12]},
    {"input_len": 5, "output_len": 2, "hash_ids": None},
    {"input_len": 4, "output_len": 9, "hash_ids": [7]},
    {"input_len": 6, "output_len": 9, "hash_ids": [-3, 40_000_000_000]},
]


def lines(path: Path, rows: Sequence[Row]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def parquet(path: Path, rows: Sequence[Row]) -> str:
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return str(path)


def in_common(one: np.ndarray, other: np.ndarray) -> int:
    """Equal leading tokens; behind them the prompts must differ everywhere."""
    both = min(len(one), len(other))
    equal = one[:both] == other[:both]
    leading = both if equal.all() else int(equal.argmin())
    assert not equal[leading:].any()
    return leading


@pytest.mark.parametrize("write", [lines, parquet])
def test_prompts_share_exactly_their_common_blocks(tmp_path: Path, write: object) -> None:
    path = write(tmp_path / f"t.{'jsonl' if write is lines else 'parquet'}", SHARING)  # type: ignore[operator]
    read = read_trace(path, block_tokens=BLOCK)
    assert len(read) == 5
    assert read.prompts.token_ids.dtype == np.int32
    assert read.prompts.token_ids.min() >= 0
    assert read.prompts.lengths.tolist() == [10, 11, 5, 4, 6]
    assert read.output_tokens.tolist() == [3, 1, 2, 9, 9]
    prompts = list(read.prompts)
    assert in_common(prompts[0], prompts[1]) == 8
    assert in_common(prompts[0], prompts[3]) == in_common(prompts[1], prompts[3]) == 4
    for stranger in (2, 4):
        for other in set(range(5)) - {stranger}:
            assert in_common(prompts[stranger], prompts[other]) == 0


def test_a_block_of_a_shorter_prompt_is_the_beginning_of_the_whole_block(tmp_path: Path) -> None:
    rows: list[Row] = [{"input_len": n, "output_len": 1, "hash_ids": [1, 2]} for n in (6, 8)]
    short, whole = read_trace(lines(tmp_path / "t.jsonl", rows), block_tokens=BLOCK).prompts
    assert in_common(short, whole) == 6


@st.composite
def requests(draw: st.DrawFn) -> Requests:
    """Lengths and hash ids of random requests whose ids form a tree, with some without ids."""
    ids: dict[tuple[int, ...], int] = {}
    paths = draw(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=4), max_size=12))
    lengths, hash_ids = [], list[list[int] | None]()
    for path in paths:
        lengths.append((len(path) - 1) * BLOCK + draw(st.integers(1, BLOCK)))
        beginnings = [tuple(path[: end + 1]) for end in range(len(path))]
        blocks = [ids.setdefault(beginning, 5 * len(ids)) for beginning in beginnings]
        hash_ids.append(blocks if draw(st.booleans()) else None)
    return lengths, hash_ids


@given(requests=requests(), slice_tokens=st.integers(1, 30))
def test_the_tree_of_the_prompts_is_the_tree_of_the_ids(
    requests: Requests, slice_tokens: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rows: list[Row] = [
        {"input_len": length, "output_len": 1, "hash_ids": blocks}
        for length, blocks in zip(*requests, strict=True)
    ]
    path = lines(tmp_path_factory.mktemp("trace") / "t.jsonl", rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trace, "_SLICE_TOKENS", slice_tokens)
        read = read_trace(path, block_tokens=BLOCK)
    held: dict[int, int] = {}  # most tokens of each block
    alone = 0
    for length, blocks in zip(*requests, strict=True):
        alone += 0 if blocks else length
        for position, block in enumerate(blocks or ()):
            held[block] = max(held.get(block, 0), min(BLOCK, length - position * BLOCK))
    assert read.prompts.tokens == sum(requests[0])
    if rows:
        assert build(read.prompts).distinct_tokens == sum(held.values()) + alone


def test_the_column_of_hash_ids_may_be_absent(tmp_path: Path) -> None:
    rows: list[Row] = [{"input_len": 700, "output_len": 1, "arrival_ms": n} for n in range(3)]
    read = read_trace(parquet(tmp_path / "t.parquet", rows))
    assert build(read.prompts).distinct_tokens == 2100


def test_limit_keeps_the_first_rows_and_their_tokens(tmp_path: Path) -> None:
    path = lines(tmp_path / "t.jsonl", SHARING)
    few, whole = (read_trace(path, limit, block_tokens=BLOCK) for limit in (2, None))
    assert len(few) == 2
    assert few.output_tokens.tolist() == [3, 1]
    assert [in_common(a, b) for a, b in zip(few.prompts, whole.prompts, strict=False)] == [10, 11]
    assert len(read_trace(path, 0)) == 0


def test_blocks_have_512_tokens_unless_told(tmp_path: Path) -> None:
    rows: list[Row] = [{"input_len": 513, "output_len": 1, "hash_ids": [1, n]} for n in (2, 3)]
    first, second = read_trace(lines(tmp_path / "t.jsonl", rows)).prompts
    assert in_common(first, second) == 512


def test_a_trace_is_known_by_its_columns() -> None:
    assert is_trace(["request_id", "input_len", "output_len", "hash_ids"])
    assert is_trace(("output_len", "input_len"))
    assert not is_trace(["input_len", "hash_ids"])
    assert not is_trace(["prompt", "input_len", "output_len"])  # a job that keeps its lengths


GOOD: Row = {"input_len": 9, "output_len": 1, "hash_ids": [1, 2, 3]}


@pytest.mark.parametrize("write", [lines, parquet])
@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        ({"input_len": 0}, "input_len is 0; it must be a whole number of tokens from 1 to"),
        ({"input_len": -5}, "input_len is -5; it must be a whole number"),
        ({"input_len": None}, "input_len is null, not a number of tokens"),
        ({"output_len": 0}, "output_len is 0; it must be a whole number"),
        ({"output_len": None}, "output_len is null, not a number of tokens"),
        ({"input_len": 2**31}, "input_len is 2147483648; it must be"),
        ({"hash_ids": [1, 2]}, "hash_ids has 2 ids, but input_len 9 is 3 blocks of 4 tokens"),
        ({"hash_ids": []}, "hash_ids has 0 ids, but input_len 9 is 3 blocks of 4 tokens"),
        ({"hash_ids": [1, 2, None]}, "hash_ids is [1, 2, None], not a list of whole numbers"),
        ({"hash_ids": [1, 3, 4]}, "hash id 3 stands at block 1, but at block 2 in {path} row 0"),
        ({"hash_ids": [2, 5, 6]}, "hash id 2 stands at block 0, but at block 1 in {path} row 0"),
        ({"hash_ids": [1, 1, 6]}, "hash id 1 stands at block 1, but at block 0 in {path} row 0"),
        ({"hash_ids": [1, 5, 3]}, "hash id 3 stands after id 5, but after id 2 in {path} row 0"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, write: object, bad: Row, sentence: str) -> None:
    ending = "jsonl" if write is lines else "parquet"
    path = write(tmp_path / f"t.{ending}", [GOOD, GOOD, GOOD | bad])  # type: ignore[operator]
    with pytest.raises(ConfigError) as raised:
        read_trace(path, block_tokens=BLOCK)
    assert str(raised.value).startswith(f"{path} row 2: {sentence.format(path=path)}")


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        ({"input_len": 9.5}, "input_len is 9.5; it must be a whole number"),
        ({"input_len": True}, "input_len is True; it must be a whole number"),
        ({"output_len": "4"}, "output_len is '4'; it must be a whole number"),
        ({"hash_ids": "1 2 3"}, "hash_ids is '1 2 3', not a list of whole numbers"),
        ({"hash_ids": [1, 2, True]}, "hash_ids is [1, 2, True], not a list of whole numbers"),
    ],
)
def test_a_json_value_of_another_kind_is_named(tmp_path: Path, bad: Row, sentence: str) -> None:
    path = lines(tmp_path / "t.jsonl", [GOOD, GOOD | bad])
    with pytest.raises(ConfigError) as raised:
        read_trace(path, block_tokens=BLOCK)
    assert str(raised.value).startswith(f"{path} row 1: {sentence}")


@pytest.mark.parametrize("column", ["input_len", "output_len"])
def test_a_missing_column_is_named(tmp_path: Path, column: str) -> None:
    path = parquet(tmp_path / "t.parquet", [{"other": 1} | GOOD])
    pq.write_table(pq.read_table(path).drop_columns([column]), path)
    with pytest.raises(ConfigError, match=f"has no column '{column}'; its columns are other, "):
        read_trace(path)


def test_a_row_is_counted_within_its_own_file(tmp_path: Path) -> None:
    lines(tmp_path / "a.jsonl", [GOOD, GOOD])
    second = lines(tmp_path / "b.jsonl", [GOOD, GOOD | {"output_len": 0}])
    with pytest.raises(ConfigError) as raised:
        read_trace(str(tmp_path), block_tokens=BLOCK)
    assert str(raised.value).startswith(f"{second} row 1: output_len is 0")


def test_a_line_that_is_no_object_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"input_len": 1, "output_len": 1}\n[1]\n')
    with pytest.raises(ConfigError, match=r"t\.jsonl line 2: an array, not an object"):
        read_trace(str(tmp_path / "t.jsonl"))


def test_a_block_without_tokens_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="block_tokens is 0; it must be 1 or more"):
        read_trace(lines(tmp_path / "t.jsonl", [GOOD]), block_tokens=0)
