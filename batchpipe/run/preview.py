"""EXPLAIN: what a run would compute, share and need, from the tokenizer and configuration alone."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict, dataclass
from typing import Any

from batchpipe.config import JobOptions
from batchpipe.errors import ConfigError
from batchpipe.planner.explain import explain_tree
from batchpipe.planner.kv_ledger import BLOCK_TOKENS
from batchpipe.planner.model_shape import DTYPE_BYTES
from batchpipe.planner.plan import Plan
from batchpipe.run.history import load_history
from batchpipe.run.kv_memory import blocks_for_all
from batchpipe.run.language import Language, load_config, load_language
from batchpipe.run.plan_job import plan_job, target_of
from batchpipe.run.prepare import prepare, read_job_rows

EXCERPT_CHARACTERS = 48
FAULTS_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Preview:
    """A plan and what it needs; prints as text or JSON."""

    rows: int
    runnable: int
    faults: dict[int, str]
    duplicates: int
    prompt_tokens: int
    distinct_prompt_tokens: int
    shareable_prompt_tokens: int
    most_answer_tokens: int
    order: str
    kv_tokens_needed: int  # everything at once, answers at their limits
    kv_tokens_available: int | None
    kv_bytes_per_token: int
    tree: str

    def as_json(self) -> dict[str, Any]:
        """Plain values, without the drawing."""
        return {name: value for name, value in asdict(self).items() if name != "tree"}

    def __str__(self) -> str:
        share = self.shareable_prompt_tokens / max(1, self.prompt_tokens)
        gigabytes = self.kv_bytes_per_token / 1e9
        needed = f"{self.kv_tokens_needed:,} tokens ({self.kv_tokens_needed * gigabytes:.2f} GB)"
        available = "unknown: give --kv-memory"
        if self.kv_tokens_available is not None:
            available = (
                f"{self.kv_tokens_available:,} tokens "
                f"({self.kv_tokens_available * gigabytes:.2f} GB)"
            )
        lines = [
            f"rows                {self.rows:,}",
            f"  to run            {self.runnable:,}, {self.duplicates:,} of them duplicates",
            f"  will not run      {len(self.faults):,}",
            *self._fault_lines(),
            f"prompt tokens       {self.prompt_tokens:,}",
            f"  distinct          {self.distinct_prompt_tokens:,}",
            f"  shareable         {self.shareable_prompt_tokens:,} ({share:.1%})",
            f"answer tokens       {self.most_answer_tokens:,} at most",
            f"order               {self.order}",
            f"KV for all at once  {needed}",
            f"KV available        {available}",
            "",
            self.tree,
        ]
        return "\n".join(lines)

    def _fault_lines(self) -> list[str]:
        shown = [f"    row {row}: {why}" for row, why in list(self.faults.items())[:FAULTS_SHOWN]]
        more = len(self.faults) - len(shown)
        return [*shown, f"    and {more:,} more"] if more else shown


def hide_torch() -> None:
    """transformers, imported after this, works without torch for the rest of the process.

    It imports torch wherever that is installed, which costs seconds and hundreds of megabytes, and
    a tokenizer needs none of it. Does nothing where torch is loaded already.
    """
    if "torch" not in sys.modules:
        sys.modules["torch"] = None  # type: ignore[assignment]
        os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # that torch is missing


def preview(options: JobOptions) -> Preview:
    """The plan of these rows, without weights and without running anything."""
    rows, template = read_job_rows(options)
    language = load_language(options, load_config(options))
    dtype = _dtype(options.dtype, language)
    device = "cuda" if options.device == "cuda" else "cpu"
    target = target_of(options, language, device=device, dtype=dtype, elsewhere=True)
    history = load_history(options.model, options.template)
    job = prepare(options, rows, template, language)
    job, plan = plan_job(job, options.order, target, history=history)
    kv_blocks = target.kv_blocks
    return Preview(
        rows=len(rows),
        runnable=plan.rows,
        faults=dict(sorted(job.faults.items())),
        duplicates=plan.duplicates,
        prompt_tokens=plan.row_prompt_tokens,
        distinct_prompt_tokens=plan.tree.distinct_tokens,
        shareable_prompt_tokens=plan.shareable_prompt_tokens,
        most_answer_tokens=sum(sampling.max_tokens for sampling in plan.samplings),
        order=plan.order_name,
        kv_tokens_needed=blocks_for_all(plan) * BLOCK_TOKENS if plan.rows else 0,
        kv_tokens_available=None if kv_blocks is None else kv_blocks * BLOCK_TOKENS,
        kv_bytes_per_token=language.shape.kv_bytes_per_token(dtype),
        tree=explain_tree(plan, lambda *place: _excerpt(plan, language, *place)),
    )


def _dtype(wanted: str, language: Language) -> str:
    """As a run would choose on a device that computes bfloat16 natively."""
    stored = str(getattr(language.config, "dtype", None) or "float32").removeprefix("torch.")
    dtype = stored if wanted == "auto" else wanted
    if dtype not in DTYPE_BYTES:
        raise ConfigError(f"dtype {dtype} of {language.name} is not supported; give --dtype")
    return dtype


def _excerpt(plan: Plan, language: Language, prompt: int, start: int, end: int) -> str:
    """How the node's text begins, on one line."""
    text = language.tokenizer.decode(plan.prompts[prompt][start : min(end, start + 32)].tolist())
    line = " ".join(text.split())
    return line if len(line) <= EXCERPT_CHARACTERS else line[: EXCERPT_CHARACTERS - 1] + "…"
