"""Orders that were played to their ends, as a person reads them and as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from batchpipe.explain.layout import figure, time_text
from batchpipe.planner.schedule.simulate import Simulation

COMPARED = (
    "order", "policy", "makespan s", "tokens/s", "steps", "tokens/step", "compute", "memory",
    "peak KV", "preempted", "recomputed", "T_o share",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class PlayedOrder:
    """An order that was played to its end, and the policy that made it."""

    order: str
    policy: str
    simulation: Simulation

    def as_json(self) -> dict[str, Any]:
        """Plain values, the simulation's among them."""
        played = self.simulation
        return {
            "policy": self.policy,
            **asdict(played),
            "share_of_bound": played.share_of_bound,
        }


def simulation_lines(played: Simulation) -> dict[str, str]:
    """What there is to tell of one of them, by its name."""
    return {
        "  makespan": f"{time_text(played.makespan_seconds)}",
        "  tokens/s": f"{played.tokens_per_second:,.0f}",
        "  steps": f"{played.steps:,} of {played.mean_step_tokens:,.0f} tokens on average",
        "  computing": f"{played.compute_utilisation:.1%} of the time",
        "  reading keys": f"{played.memory_utilisation:.1%} of the time",
        "  peak KV": f"{played.peak_kv_tokens:,} tokens",
        "  preemptions": f"{played.preemptions:,}, "
        f"{played.recomputed_tokens:,} tokens computed again",
        "  T_o": f"{time_text(played.bound_seconds)}, {played.share_of_bound:.1%} of the makespan",
    }


def comparison(compared: Sequence[PlayedOrder]) -> list[list[str]]:
    """One row an order, below the names of the columns."""
    rows = [list(COMPARED)]
    for each in compared:
        played = each.simulation
        rows.append(
            [
                each.order,
                each.policy,
                figure(played.makespan_seconds, 4),
                f"{played.tokens_per_second:,.0f}",
                f"{played.steps:,}",
                f"{played.mean_step_tokens:,.0f}",
                f"{played.compute_utilisation:.1%}",
                f"{played.memory_utilisation:.1%}",
                f"{played.peak_kv_tokens:,}",
                f"{played.preemptions:,}",
                f"{played.recomputed_tokens:,}",
                f"{played.share_of_bound:.1%}",
            ]
        )
    return rows
