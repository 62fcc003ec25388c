"""What every peer is given and must give: token ids in, token ids out, and the time it took.

A peer script calls `serve` with a function that loads its engine and returns the function that
answers. Runs in the peer's own environment: the standard library, pyarrow and tokenizers alone.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import Tokenizer

FORMS = ("plain", "tuned")

Answers = list[list[int]]


@dataclass(frozen=True, slots=True)
class Task:
    """How the job is to be answered; the prompts themselves come when the engine stands."""

    model: Path
    engine_model: Path  # converted for the engine, or the model itself
    form: str  # "plain": the order of the job, defaults of the engine; "tuned": its best
    dtype: str
    max_tokens: int  # exactly so many: eos is ignored
    longest_tokens: int  # of a prompt and its answer together
    kv_tokens: int  # that KV memory holds; 0 for the engine's own default
    batch_tokens: int  # 0 for what the script knows to be best
    batch_rows: int
    threads: int

    @property
    def tuned(self) -> bool:
        """Whether the engine may be told what helps it."""
        return self.form == "tuned"


Load = Callable[[Task], Callable[[list[list[int]]], Answers]]


def serve(load: Load, package: str) -> None:
    """The job of the command line is answered in its output file; figures end stdout."""
    arguments = _arguments()
    task = Task(**{name: getattr(arguments, name) for name in Task.__dataclass_fields__})
    started = time.perf_counter()
    tokenizer = Tokenizer.from_file(str(task.model / "tokenizer.json"))
    answer = load(task)
    loaded = time.perf_counter()
    table = pq.read_table(arguments.job, columns=["request_id", "prompt"])
    prompts = [each.ids for each in tokenizer.encode_batch_fast(table["prompt"].to_pylist())]
    answers = answer(prompts)
    _write(arguments.out, table["request_id"], tokenizer.decode_batch(answers), answers)
    finished = time.perf_counter()
    figures = {
        "version": f"{package} {version(package)}",
        "rows": len(answers),
        "prompt_tokens": sum(map(len, prompts)),
        "completion_tokens": sum(map(len, answers)),
        "load_seconds": loaded - started,
        "run_seconds": finished - loaded,
    }
    print(json.dumps(figures), flush=True)


def _write(out: Path, ids: pa.ChunkedArray, texts: Sequence[str], answers: Answers) -> None:
    tokens = pa.array(answers, pa.list_(pa.int32()))
    columns = {"request_id": ids, "output": pa.array(texts), "output_token_ids": tokens}
    pq.write_table(pa.table(columns), out)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    for name in ("--job", "--model", "--engine-model", "--out"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--form", choices=FORMS, required=True)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], required=True)
    for name in ("--max-tokens", "--longest-tokens"):
        parser.add_argument(name, type=int, required=True)
    for name in ("--kv-tokens", "--batch-tokens", "--batch-rows"):
        parser.add_argument(name, type=int, default=0)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    return parser.parse_args()
