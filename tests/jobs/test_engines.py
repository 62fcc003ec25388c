"""The benchmark of engines with a contender that needs no environment of its own."""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from batchpipe.demo.prompt import MODEL_DIR, load_tickets

sys.path.insert(0, str(Path(__file__).parents[2] / "jobs" / "bench"))

from comparison import Rounds, differing, figures
from contest import Case
from engines import run_once

ROWS = 3


def test_transformers_answers_are_batchpipes(tmp_path: Path) -> None:
    job = tmp_path / "job.parquet"
    texts = [ticket.text for ticket in load_tickets()[:ROWS]]
    pq.write_table(pa.table({"request_id": list("abc"), "prompt": texts}), job)
    case = Case(job, MODEL_DIR, "float32", max_tokens=4, threads=1)
    rounds = {name: Rounds() for name in ("batchpipe", "generate tuned")}
    for name, of_name in rounds.items():
        run_once(name, case, of_name)
    assert [len(answer) for answer in rounds["batchpipe"].answers] == [4] * ROWS
    assert differing(figures(rounds), "float32") == []
