"""What a workflow's run did, in the names that `--json` prints."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from batchpipe.running.worker_spent import crew_lines


@dataclass(frozen=True, slots=True)
class WorkflowSummary:
    """One finished run of a workflow. Tokens of a prompt count for every row as if it were alone.

    ``rows`` are the results' rows; ``filtered`` were dropped by filters, at whatever level.
    """

    rows: int
    succeeded: int
    failed: int
    filtered: int
    input_rows: int
    calls: int  # of models, databases, hosts and functions' rows
    collapsed: int  # rows of steps that another row's call answered
    prompt_tokens: int
    computed_prompt_tokens: int
    reused_prompt_tokens: int
    completion_tokens: int  # drawn: rows that share an answer count it once
    steps: int  # forward passes
    preemptions: int
    loads: int  # of models
    plan_seconds: float
    load_seconds: float
    run_seconds: float
    by_step: dict[str, dict[str, Any]]
    models: dict[str, str]
    device: str
    output: str
    run_dir: str
    exit_code: int
    workers: list[dict[str, Any]] = field(default_factory=list)  # of the last session
    duplicated_prompt_tokens: int = 0  # that came to more than one worker, each time but one
    swapped_tokens: int = 0  # whose KV went to host memory
    restored_tokens: int = 0  # and came back

    def as_json(self) -> dict[str, Any]:
        """Plain values, in this order."""
        return asdict(self)

    def __str__(self) -> str:
        width = max((len(name) for name in self.by_step), default=0)
        return "\n".join(
            (
                f"{self.succeeded:,} of {self.rows:,} rows succeeded"
                + (f", {self.failed:,} failed" if self.failed else "")
                + (f", {self.filtered:,} filtered" if self.filtered else ""),
                *(_line(name.ljust(width), step) for name, step in self.by_step.items()),
                *self._of_models(),
                *crew_lines(self.workers, self.duplicated_prompt_tokens),
                f"results: {self.output}",
            )
        )

    def _of_models(self) -> list[str]:
        """Tokens and times; of a workflow without a model the time alone."""
        if not self.models:
            return [f"planned in {self.plan_seconds:.1f} s, run in {self.run_seconds:.1f} s"]
        share = max(0.0, self.reused_prompt_tokens / max(1, self.prompt_tokens))
        tokens = self.prompt_tokens + self.completion_tokens
        return [
            f"{self.prompt_tokens:,} prompt tokens, {self.computed_prompt_tokens:,} computed, "
            f"{share:.1%} reused; {self.completion_tokens:,} tokens written",
            f"planned in {self.plan_seconds:.1f} s, models loaded in {self.load_seconds:.1f} s "
            f"({self.loads} loads), answered in {self.run_seconds:.1f} s "
            f"({tokens / max(1e-9, self.run_seconds):,.0f} tokens/s, {self.device})",
        ]


def _line(name: str, step: dict[str, Any]) -> str:
    told = f"  {name}  {step['rows']:,} rows"
    if step["calls"]:
        told += f", {step['calls']:,} calls"
    if step["collapsed"]:
        told += f", {step['collapsed']:,} collapsed"
    if step["failed"]:
        told += f", {step['failed']:,} failed"
    return told
