"""What the planner gains in simulation, on the traces of two papers and on length traces.

    python jobs/bench/planner.py --only blendserve
    python jobs/bench/planner.py --only traces --trace trace_mooncake_conversation.parquet

The scheduler that the engine runs plays every step on a modelled machine: Llama-3.1-8B on an A100,
rates below every table. No model runs, and all answers' lengths are known.

**blendserve**: the orders on BlendServe's four traces, with perfect overlap of computing and
reading (the paper's engine) and with none (ours today). Bars, with overlap, means over the traces:
`planned` 1.3 times as fast as the best of all baselines, depth-first and LRU with their best step
budgets among them; ``T_o`` over its makespan 90 %; and 97 % of the sharing kept in each trace.

**batchllm**: prompt tokens saved in BatchLLM's micro-benchmark by an online engine's LRU cache, on
shuffled and on sorted prompts, and by planned KV lifetimes. Bar: the tree's ceiling, all of it.

**traces**: real lengths at shares of the KV memory that would hold the whole job. Bar: eviction by
next use (Belady) computes no more again than LRU does.

**speed**: processor seconds that 100,000 requests take to simulate. Bar: 60 for each order.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from contenders import DTYPE
from planner_tables import (
    Table,
    batchllm_tables,
    blendserve_tables,
    length_trace_tables,
    speed_tables,
)
from record import append_results, as_table

from batchpipe.planner.planning import Setting

SECTIONS: dict[str, Callable[[int, Sequence[Path]], Iterator[Table]]] = {
    "blendserve": blendserve_tables,
    "batchllm": batchllm_tables,
    "traces": length_trace_tables,
    "speed": speed_tables,
}


SHARES = ("T_o", "bound", "sharing kept", "saving", "ceiling", "of need")


def shown(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """The rows as a table has them: shares as per cent, counts in groups of three."""
    return [{name: _shown(name, cell) for name, cell in row.items()} for row in rows]


def _shown(name: str, cell: str | float) -> str:
    if isinstance(cell, str):
        return cell
    return f"{cell:.2%}" if name in SHARES else f"{cell:,}"


def constants(setting: Setting) -> dict[str, str | float]:
    """What the figures rest on: model, dtype, KV memory and the machine's rates."""
    machine = asdict(setting.cost.machine)
    del machine["note"], machine["price_per_hour"]
    return {"model": "Llama-3.1-8B", "dtype": DTYPE, "kv_blocks": setting.kv_blocks, **machine}


@click.command()
@click.option("--only", type=click.Choice(list(SECTIONS)), multiple=True, help="Sections to run.")
@click.option(
    "--trace",
    "traces",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    help="A length trace (input_len, output_len, hash_ids) for the section `traces`.",
)
@click.option("--requests", type=int, default=40_000, show_default=True, help="Of each trace.")
@click.option("--results", type=click.Path(path_type=Path), help="A JSON file to append to.")
def main(
    only: tuple[str, ...], traces: tuple[Path, ...], requests: int, results: Path | None
) -> None:
    """Measure the planner in simulation; exit 1 with a sentence for each bar that is missed."""
    missed: list[str] = []
    for section in only or SECTIONS:
        if section == "traces" and not traces:
            print("traces: none given; name one with --trace FILE", end="\n\n")
        said: dict[str, str | float] = {}
        for table in SECTIONS[section](requests, traces):
            if (rests_on := constants(table.setting)) != said:
                said = rests_on
                listed = (f"{k} {v if isinstance(v, str) else f'{v:.4g}'}" for k, v in said.items())
                print(f"# {section}: {', '.join(listed)}", end="\n\n")
            print(
                f"## {table.title}", as_table(shown(table.rows)), sep="\n\n", end="\n\n", flush=True
            )
            missed += table.missed
            if results is not None:
                job = {"section": section, "title": table.title, "requests": requests}
                append_results(results, job | rests_on, table.rows)
    if missed:
        sys.exit("\n".join(missed))


if __name__ == "__main__":
    main()
