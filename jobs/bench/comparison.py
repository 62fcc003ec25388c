"""What runs of contenders amount to: medians, ratios to batchpipe's, and equal answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from whole_process import Finished

MIN_SAME_SHARE = 0.99


@dataclass(slots=True)
class Rounds:
    """The runs of one contender, and its last answers; or why it has none."""

    finished: list[Finished] = field(default_factory=list)
    answers: list[Any] = field(default_factory=list)
    failure: str = ""


def figures(rounds: dict[str, Rounds]) -> list[dict[str, Any]]:
    """A row for each contender: medians of its runs, the largest peak, the same over batchpipe's.

    ``run_seconds`` leaves out starting and loading, in every contender.
    """
    table = []
    base = rounds.get("batchpipe", Rounds())
    for name, of_name in rounds.items():
        if of_name.failure:
            table.append({"contender": name, "failure": of_name.failure.strip().splitlines()[-1]})
            continue
        walls = [each.wall_seconds for each in of_name.finished]
        runs = [each.summary["run_seconds"] for each in of_name.finished]
        row = {
            "contender": name,
            "wall_seconds": round(median(walls), 3),
            "all_wall_seconds": [round(each, 3) for each in walls],
            "load_seconds": round(
                median(each.summary["load_seconds"] for each in of_name.finished), 3
            ),
            "run_seconds": round(median(runs), 3),
            "all_run_seconds": [round(each, 3) for each in runs],
            "cpu_seconds": round(median(each.cpu_seconds for each in of_name.finished), 3),
            "peak_bytes": max(each.peak_bytes for each in of_name.finished),
            "completion_tokens": of_name.finished[-1].summary["completion_tokens"],
        }
        if "version" in of_name.finished[-1].summary:
            row["version"] = of_name.finished[-1].summary["version"]
        if base.finished:
            ours = median(each.wall_seconds for each in base.finished)
            row["wall_over_batchpipe"] = round(median(walls) / ours, 3)
            ours = median(each.summary["run_seconds"] for each in base.finished)
            row["run_over_batchpipe"] = round(median(runs) / ours, 3)
            row["same_answers"] = round(same_share(of_name.answers, base.answers), 4)
        table.append(row)
    return table


def same_share(left: Sequence[Any], right: Sequence[Any]) -> float:
    """The share of rows with equal answers."""
    same: list[bool] = [a == b for a, b in zip(left, right, strict=True)]
    return sum(same) / len(same)


def readable(table: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """The figures as a person reads them."""
    lines = []
    for row in table:
        if "failure" in row:
            lines.append({"contender": row["contender"], "wall s": "failed"})
            continue
        line = {"contender": row["contender"], "wall s": f"{row['wall_seconds']:.1f}"}
        if "wall_over_batchpipe" in row:
            line["times ours"] = f"{row['wall_over_batchpipe']:.2f}"
        line |= {"load s": f"{row['load_seconds']:.1f}", "run s": f"{row['run_seconds']:.1f}"}
        if "run_over_batchpipe" in row:
            line["times ours, run"] = f"{row['run_over_batchpipe']:.2f}"
            line["same answers"] = f"{row['same_answers']:.1%}"
        line["CPU s"] = f"{row['cpu_seconds']:.1f}"
        line["peak MB"] = f"{row['peak_bytes'] / 1e6:,.0f}"
        lines.append(line)
    return lines


def best_of(table: Sequence[dict[str, Any]], form: str) -> str:
    """A sentence on the fastest peer of a form."""
    peers = [row for row in table if row["contender"].endswith(form) and "wall_seconds" in row]
    if not peers:
        return f"no {form} peer ran"
    row = min(peers, key=lambda row: row["wall_seconds"])
    over = row.get("wall_over_batchpipe")
    ratio = f", {over:.2f} times batchpipe's" if over else ""
    return f"fastest {form} peer: {row['contender']}, {row['wall_seconds']:.1f} s{ratio}"


def differing(table: Sequence[dict[str, Any]], dtype: str) -> list[str]:
    """Tuned float32 peers whose answers are not batchpipe's."""
    return [
        f"{row['contender']} has {row['same_answers']:.1%} of batchpipe's float32 answers"
        for row in table
        if dtype == "float32" and row.get("same_answers", 1.0) < MIN_SAME_SHARE
    ]
