"""What a changed job leaves of a run's answers, as a person reads it and as plain values."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from batchpipe.explain.layout import table, time_text

REASONS_SHOWN = 10
RANGES_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Reason:
    """Why some rows are to be answered again."""

    why: str
    rows: int
    first: int  # of them


@dataclass(frozen=True, slots=True)
class Change:
    """What is left of a run's answers for a changed job."""

    run_dir: str
    run_rows: int
    run_answered: int
    run_seconds: float  # of answering
    rows: int  # of the job now
    settings: tuple[str, ...]  # what differs, a phrase each
    valid: int  # rows whose own answer is the one that they would get
    valid_elsewhere: int  # rows that ask what another row of the run asked
    redo: int
    redo_ranges: tuple[tuple[int, int], ...]  # half-open
    reasons: tuple[Reason, ...]  # of those to redo, the most rows first
    cannot_run: int
    gone: int  # rows of the run that the job has no more

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def __str__(self) -> str:
        share = f" ({self.valid / self.rows:.1%})" if self.rows else ""
        time = time_text(self.run_seconds)
        lines = {
            "against": f"{self.run_dir}: {self.run_answered:,} of its {self.run_rows:,} rows have "
            f"an answer, the work of {time}",
            "settings changed": "; ".join(self.settings) or "none",
            "still valid": f"{_rows(self.valid)}{share}: same model, prompt, parameters and draw",
            "  from other rows": f"{self.valid_elsewhere:,}",
            "to do again": f"{_rows(self.redo)}{self._ranges()}",
        }
        text = [table({name: said for name, said in lines.items() if said != "0"})]
        text += [
            f"  {_rows(each.rows)}, the first {each.first}: {each.why}"
            for each in self.reasons[:REASONS_SHOWN]
        ]
        if len(self.reasons) > REASONS_SHOWN:
            rest = sum(each.rows for each in self.reasons[REASONS_SHOWN:])
            text.append(f"  {_rows(rest)} for {len(self.reasons) - REASONS_SHOWN:,} more reasons")
        if self.cannot_run:
            text.append(table({"cannot run": _rows(self.cannot_run)}))
        if self.gone:
            text.append(table({"gone": f"{_rows(self.gone)} of the run, no more in the job"}))
        return "\n".join(text)

    def _ranges(self) -> str:
        if not self.redo_ranges:
            return ""
        ranges = [
            str(first) if end == first + 1 else f"{first}:{end}"
            for first, end in self.redo_ranges[:RANGES_SHOWN]
        ]
        more = len(self.redo_ranges) - len(ranges)
        return f": {', '.join(ranges)}" + (f" and {more:,} ranges more" if more else "")


def _rows(count: int) -> str:
    return f"{count:,} row" + ("" if count == 1 else "s")
