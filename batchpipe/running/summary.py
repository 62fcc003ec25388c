"""What a run did, in the names that `--json` prints."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from batchpipe.config import dtype_text
from batchpipe.explain.layout import as_html
from batchpipe.running.worker_spent import crew_lines


@dataclass(frozen=True, slots=True)
class Summary:
    """One finished run. Tokens of a prompt count for every row as if it were alone.

    >>> import batchpipe as bp, json, pathlib, tempfile
    >>> from batchpipe.demo.prompt import MODEL_DIR
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> with open(folder / "job.jsonl", "w") as job:
    ...     print(json.dumps({"prompt": "Where is my parcel?"}), file=job)
    >>> done = bp.run(folder / "job.jsonl", model=MODEL_DIR, out=folder / "out.jsonl", max_tokens=2)
    >>> done.succeeded, done.completion_tokens, done.exit_code
    (1, 2, 0)
    """

    rows: int
    succeeded: int
    failed: int
    skipped: int
    duplicates: int
    prompt_tokens: int
    computed_prompt_tokens: int
    reused_prompt_tokens: int
    shareable_prompt_tokens: int
    completion_tokens: int
    steps: int
    peak_kv_tokens: int
    kv_tokens: int
    preemptions: int
    drafted_tokens: int  # guessed ahead and computed
    accepted_tokens: int  # of them, what the model then drew
    memory_shortages: int  # steps that were out of memory and ran in pieces
    most_tokens: int | None  # of a forward pass since the last of them
    plan_seconds: float  # reading, tokenizing and planning
    load_seconds: float
    run_seconds: float
    expected_seconds: float  # what the machine's profile promised for run_seconds
    order: str
    policy: str  # what `planned` chose
    dtype: str | None  # None: a server's own affair
    device: str  # or a server's URL
    output: str
    run_dir: str
    with_token_ids: bool
    repairs: int  # by `retry`
    exit_code: int
    quantize: str | None = None  # how the weights were rounded; None: not
    engine: str = "batchpipe"
    served_model: str | None = None
    invalid_output: int = 0  # of the failed, those with an answer that is not as was asked
    workers: list[dict[str, Any]] = field(default_factory=list)  # of the last session
    duplicated_prompt_tokens: int = 0  # that more than one worker computed, each time but one
    swapped_tokens: int = 0  # whose KV went to host memory
    restored_tokens: int = 0  # and came back

    @property
    def computed_in(self) -> str:
        """Dtype, kind of weights and device, or model and server, as a person reads them."""
        if self.dtype is None:
            return f"{self.served_model} at {self.device}"
        by = "" if self.engine == "batchpipe" else f"{self.engine}, "
        return f"{by}{dtype_text(self.dtype, self.quantize)} on {self.device}"

    def as_json(self) -> dict[str, Any]:
        """Plain values, in this order."""
        return asdict(self)

    def __str__(self) -> str:
        share = max(0.0, self.reused_prompt_tokens / max(1, self.prompt_tokens))
        tokens = self.prompt_tokens + self.completion_tokens
        return "\n".join(
            (
                f"{self.succeeded:,} of {self.rows:,} rows answered"
                + (f", {self.failed:,} failed" if self.failed else "")
                + (f" ({self.invalid_output:,} invalid)" if self.invalid_output else "")
                + (f", {self.skipped:,} skipped" if self.skipped else "")
                + (f", {self.duplicates:,} of them duplicates" if self.duplicates else ""),
                f"{self.prompt_tokens:,} prompt tokens, {self.computed_prompt_tokens:,} computed, "
                f"{share:.1%} reused; {self.completion_tokens:,} tokens written",
                f"planned in {self.plan_seconds:.1f} s, model loaded in {self.load_seconds:.1f} s, "
                f"answered in {self.run_seconds:.1f} s{self._expected()} "
                f"({tokens / max(1e-9, self.run_seconds):,.0f} tokens/s, {self.computed_in})",
                *self._crew(),
                *self._swapping(),
                *self._speculation(),
                *self._shortage(),
                f"results: {self.output}",
            )
        )

    def _repr_html_(self) -> str:
        share = max(0.0, self.reused_prompt_tokens / max(1, self.prompt_tokens))
        return as_html(
            {
                "rows": f"{self.rows:,}",
                "  answered": f"{self.succeeded:,}",
                "  failed": f"{self.failed:,}",
                "  skipped": f"{self.skipped:,}",
                "  duplicates": f"{self.duplicates:,}",
                "prompt tokens": f"{self.prompt_tokens:,}",
                "  computed": f"{self.computed_prompt_tokens:,}",
                "  reused": f"{self.reused_prompt_tokens:,} ({share:.1%})",
                "tokens written": f"{self.completion_tokens:,}",
                "planned in": f"{self.plan_seconds:.1f} s",
                "model loaded in": f"{self.load_seconds:.1f} s",
                "answered in": f"{self.run_seconds:.1f} s{self._expected()}",
                "computed in": self.computed_in,
                "results": self.output,
                "run directory": self.run_dir,
            },
            "\n".join([*self._crew(), *self._swapping(), *self._speculation(), *self._shortage()]),
        )

    def _expected(self) -> str:
        return f", expected {self.expected_seconds:.1f}" if self.expected_seconds else ""

    def _crew(self) -> list[str]:
        return crew_lines(self.workers, self.duplicated_prompt_tokens)

    def _swapping(self) -> list[str]:
        if not self.swapped_tokens:
            return []
        return [
            f"KV of {self.swapped_tokens:,} tokens moved to host memory, of "
            f"{self.restored_tokens:,} back"
        ]

    def _speculation(self) -> list[str]:
        if not self.drafted_tokens:
            return []
        return [
            f"{self.drafted_tokens:,} tokens guessed ahead, {self.accepted_tokens:,} of them right"
        ]

    def _shortage(self) -> list[str]:
        if not self.memory_shortages:
            return []
        return [
            f"out of memory {self.memory_shortages:,} times; steps had at most "
            f"{self.most_tokens:,} tokens after that: a smaller --kv-memory leaves more room"
        ]
