"""Where a run's time goes: every moment to one part, every product counted."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[2] / "jobs" / "bench"))

from breakdown import break_down
from contest import Case
from models import token_counts
from stopwatch import Stopwatch
from timed_run import ATTENTION, GEMM, SEAMS

STEM = "The parcel arrived late and the box was open. Answer with one word. "
MAX_TOKENS = 3


@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from(("a", "b", "c", "end")))))
def test_every_moment_belongs_to_the_part_that_began_last(moves: list[tuple[int, str]]) -> None:
    now = 0.0
    watch = Stopwatch("outside", clock=lambda: now)
    open_parts, expected = ["outside"], Counter[str]()
    for seconds, move in moves:
        now += seconds
        expected[open_parts[-1]] += seconds
        if move != "end":
            watch.begin(move)
            open_parts.append(move)
        elif len(open_parts) > 1:
            watch.end()
            open_parts.pop()
    watch.turn()
    told = {part: seconds for part, seconds in watch.seconds.items() if seconds}
    assert told == {part: seconds for part, seconds in expected.items() if seconds}


def test_parts_make_up_the_run_and_every_product_is_counted(
    tiny_model: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)  # scripts import what lies beside them
    model, job = tiny_model("llama"), tmp_path / "job.parquet"
    prompts = [f"{STEM}{own}" for own in ("kettle", "lamp", "a blue chair")]
    pq.write_table(pa.table({"prompt": prompts}), job)
    case = Case(job=job, model=model, dtype="float32", max_tokens=MAX_TOKENS, threads=1)
    found = break_down(case)

    assert sum(found.seconds.values()) == pytest.approx(found.wall_seconds)
    assert min(found.seconds.values()) > 0
    assert set(found.seconds) == {GEMM, ATTENTION, *(seam.part for seam in SEAMS)}
    assert found.alone_seconds > 0

    distinct = token_counts(model, prompts)["distinct_tokens"]
    drawn = len(prompts) * MAX_TOKENS
    fed = distinct + drawn - len(prompts)  # the last token of an answer is not read
    assert found.gemm_flops == 2 * products_of(model, fed, drawn)


def products_of(model: Path, fed: int, drawn: int) -> int:
    """Multiplications of so many tokens; the last layer has keys and values alone of the others."""
    config = json.loads((model / "config.json").read_text())
    hidden, layers = config["hidden_size"], config["num_hidden_layers"]
    head_dim = config.get("head_dim") or hidden // config["num_attention_heads"]
    stored = 2 * config["num_key_value_heads"] * head_dim
    others = 2 * config["num_attention_heads"] * head_dim + 3 * config["intermediate_size"]
    scores = drawn * config["vocab_size"]
    return int(hidden * (layers * fed * stored + ((layers - 1) * fed + drawn) * others + scores))
