"""`batchpipe demo`: the main job on shipped tickets, with the accuracy at its end."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from batchpipe.config import JobOptions, RunOptions
from batchpipe.demo.prompt import MODEL_DIR, Label, Scores, Ticket, load_tickets, messages, score
from batchpipe.rows.source import read_rows
from batchpipe.running.job import run
from batchpipe.running.summary import Summary

SHOWN = 3
MAX_TOKENS = 48  # the longest right answer has 24
SHOWN_CHARACTERS = 72


@dataclass(frozen=True, slots=True)
class DemoReport:
    """What the demo did, and how well the tiny model labels."""

    tickets: int
    scores: Scores
    summary: Summary
    shown: tuple[tuple[str, str], ...]  # (ticket text, answer)

    def as_json(self) -> dict[str, Any]:
        """Scores beside the run's summary."""
        return {**self.summary.as_json(), "scores": asdict(self.scores)}

    def __str__(self) -> str:
        run, scores = self.summary, self.scores
        share = run.reused_prompt_tokens / run.prompt_tokens
        tokens = run.prompt_tokens + run.completion_tokens
        lines = [f"{self.tickets} support tickets, labelled by the tiny model that ships here:", ""]
        for text, answer in self.shown:
            text = " ".join(text.split())
            cut = text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…"
            lines += [f"  {cut}", f"  {answer}", ""]
        lines += [
            f"accuracy   category {scores.category:.1%}, urgency {scores.urgency:.1%}, "
            f"order number {scores.order_number:.1%}, all three {scores.overall:.1%}",
            f"prompts    {run.prompt_tokens:,} tokens, {run.computed_prompt_tokens:,} of them "
            f"computed: {share:.1%} were shared",
            f"speed      {run.run_seconds:.1f} s, {tokens / run.run_seconds:,.0f} tokens/s "
            f"({run.computed_in})",
            f"results    {run.output}",
        ]
        return "\n".join(lines)


def run_demo(
    out: str, limit: int | None = None, *, dtype: str = "auto", quantize: str | None = None
) -> DemoReport:
    """The shipped tickets are labelled, written to ``out`` and scored."""
    tickets = load_tickets()[:limit]
    with tempfile.TemporaryDirectory(prefix="batchpipe-demo-") as folder:
        job = Path(folder) / "tickets.jsonl"
        job.write_text("".join(json.dumps(_row(ticket)) + "\n" for ticket in tickets))
        options = JobOptions(
            input=str(job),
            model=str(MODEL_DIR),
            sampling={"max_tokens": MAX_TOKENS},
            dtype=dtype,
            quantize=quantize,
        )
        own = RunOptions(out=out, run_dir=str(Path(folder) / "run"), overwrite=True)
        summary = run(options, own)
    outputs = [str(output or "") for output in read_rows(out).values("output")]
    return DemoReport(
        tickets=len(tickets),
        scores=score(outputs, _labels(tickets)),
        summary=summary,
        shown=tuple((ticket.text, output) for ticket, output in zip(tickets, outputs, strict=True))[
            :SHOWN
        ],
    )


def _row(ticket: Ticket) -> dict[str, Any]:
    label = asdict(ticket.label)
    return {"request_id": ticket.request_id, **label, "messages": messages(ticket.text)}


def _labels(tickets: Sequence[Ticket]) -> list[Label]:
    return [ticket.label for ticket in tickets]
