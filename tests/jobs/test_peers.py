"""What is worked out by hand for other engines: their best must be a real best."""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[2] / "jobs" / "bench"))
sys.path.insert(0, str(Path(__file__).parents[2] / "jobs" / "bench" / "peers"))

from comparison import Rounds, differing, figures
from prefixes import WORTH_SHARING_TOKENS, common_tokens, families, leaders, longest_first
from whole_process import Finished, measure
from workloads import write_cut

prompts = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 120), st.lists(st.integers(0, 2), min_size=1)),
    min_size=1,
    max_size=20,
).map(lambda rows: [[stem] * length + own for stem, length, own in rows])


@given(prompts, prompts)
def test_common_tokens_counts_what_both_begin_with(
    left: list[list[int]], right: list[list[int]]
) -> None:
    one, other = left[0], right[0]
    common = common_tokens(one, other)
    assert one[:common] == other[:common]
    assert one[common : common + 1] != other[common : common + 1] or not (
        one[common:] and other[common:]
    )


@given(prompts)
def test_follower_waits_for_an_earlier_prompt_that_shares_nearly_the_most(
    tokens: list[list[int]],
) -> None:
    order = longest_first(tokens)
    for place, leader in enumerate(leaders(tokens, order)):
        shared = [common_tokens(tokens[order[place]], tokens[row]) for row in order[:place]]
        most = max(shared, default=0)
        if leader is None:
            assert most < 2 * WORTH_SHARING_TOKENS
        else:
            assert leader < place
            assert shared[leader] >= WORTH_SHARING_TOKENS


@given(prompts, st.integers(1, 8))
def test_family_holds_each_prompt_once_and_begins_alike(
    tokens: list[list[int]], most_rows: int
) -> None:
    order = longest_first(tokens)
    runs = families(tokens, order, most_rows)
    assert [row for rows, _ in runs for row in rows] == order
    for rows, common in runs:
        assert len(rows) <= most_rows
        assert all(tokens[a][:common] == tokens[b][:common] for a, b in pairwise(rows))


def test_cut_keeps_neighbours_together_and_mixes_them(tmp_path: Path) -> None:
    source, job = tmp_path / "source.parquet", tmp_path / "job.parquet"
    texts = [f"document {place // 5:03d}, question {place % 5}" for place in range(1000)]
    pq.write_table(pa.table({"prompt": texts}), source)
    write_cut(source, rows=50, neighbours=5, seed=7, job=job)
    chosen = pq.read_table(job)["prompt"].to_pylist()
    assert len(set(chosen)) == 50
    assert len({text.split(",")[0] for text in chosen}) == 10
    assert chosen != sorted(chosen)


def test_peak_memory_counts_an_engines_own_children(tmp_path: Path) -> None:
    hold = "held = bytearray(b'x') * 200_000_000; import time; time.sleep(2)"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {hold!r}])"
    both = f"held = bytearray(b'x') * 200_000_000; {child}; print('{{}}')"
    finished = measure([sys.executable, "-c", both], tmp_path)
    assert finished.peak_bytes > 400_000_000


def test_peer_with_other_answers_is_told() -> None:
    summary = {"load_seconds": 1.0, "run_seconds": 2.0, "completion_tokens": 4}
    finished = [Finished(4.0, 8.0, 1, summary)]
    rounds = {
        "batchpipe": Rounds(finished, [[1, 2], [3, 4]]),
        "other tuned": Rounds([Finished(6.0, 8.0, 1, summary)], [[1, 2], [3, 5]]),
        "absent tuned": Rounds(failure="exit 1"),
    }
    table = figures(rounds)
    assert table[1]["wall_over_batchpipe"] == 1.5
    assert differing(table, "float32") == ["other tuned has 50.0% of batchpipe's float32 answers"]
    assert differing(table, "bfloat16") == []
    assert json.dumps(table)
