"""What one of several workers has done for a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class WorkerSpent:
    """One worker, with all who took its place when it died."""

    worker: int
    where: str | None  # name of the machine that it is on; None: it is not there any more
    prompts: int  # that it answered
    prompt_tokens: int  # of them, each as if alone
    computed_prompt_tokens: int
    completion_tokens: int
    busy_seconds: float
    seconds: float  # that the run took
    shards: int  # that it began
    stolen_shards: int  # of them, those that it took from another worker
    stolen_prompts: int
    deaths: int

    @property
    def tokens_per_second(self) -> float:
        """Tokens of prompts and answers that were through in a second of the run."""
        return (self.prompt_tokens + self.completion_tokens) / max(1e-9, self.seconds)

    @property
    def idle_share(self) -> float:
        """Of the run's time, where it had nothing to do or was not there."""
        return max(0.0, 1 - self.busy_seconds / max(1e-9, self.seconds))

    def as_json(self) -> dict[str, Any]:
        """As the summary has it."""
        return {
            **asdict(self),
            "busy_seconds": round(self.busy_seconds, 3),
            "seconds": round(self.seconds, 3),
            "tokens_per_second": round(self.tokens_per_second, 1),
            "idle_share": round(self.idle_share, 4),
        }


def crew_lines(workers: Sequence[Mapping[str, Any]], duplicated_prompt_tokens: int) -> list[str]:
    """The summary's workers, as a person reads them; nothing where there are none."""
    if not workers:
        return []
    stolen = sum(worker["stolen_prompts"] for worker in workers)
    return [
        f"{len(workers):,} workers: {duplicated_prompt_tokens:,} prompt tokens computed by more "
        f"than one, {stolen:,} prompts stolen",
        *(
            f"  worker {worker['worker']}: {worker['prompts']:,} prompts, "
            f"{worker['tokens_per_second']:,.0f} tokens/s, idle {worker['idle_share']:.1%}"
            + (f", died {worker['deaths']:,} times" if worker["deaths"] else "")
            for worker in workers
        ),
    ]
