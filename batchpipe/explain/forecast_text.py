"""What EXPLAIN found, as a person reads it and as plain values. Computes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from batchpipe.explain.against.change import Change
from batchpipe.explain.layout import (
    INDENT,
    as_html,
    columns,
    money_text,
    table,
    time_text,
    wrapped,
)
from batchpipe.explain.played import PlayedOrder, comparison, simulation_lines
from batchpipe.job.expected_time import ExpectedTime
from batchpipe.planner.advice import Advice
from batchpipe.planner.explain import DensityBin, explain_density
from batchpipe.planner.schedule.simulate import Simulation

FAULTS_SHOWN = 5
DRAWN = frozenset({"tree", "times", "expected"})  # drawings, and what is told field by field


@dataclass(frozen=True, slots=True)
class JobTimes:
    """Bounds of the job's time, by BlendServe's formulas on the machine's rates."""

    compute_seconds: float  # (1 - s) T_comp: every shared token once
    memory_seconds: float  # T_mem: every decode reads its whole context
    bound_seconds: float  # T_o: the larger of both
    saved_key_seconds: float  # of T_mem, by reading shared prefixes once; an upper bound


@dataclass(frozen=True, slots=True)
class Preview:
    """A plan, what it needs and how long it will take; prints as text or JSON.

    >>> import batchpipe as bp, json, pathlib, tempfile
    >>> from batchpipe.demo.prompt import MODEL_DIR
    >>> job = pathlib.Path(tempfile.mkdtemp()) / "job.jsonl"
    >>> _ = job.write_text(json.dumps({"prompt": "Where is my parcel?"}))
    >>> print(str(bp.plan(job, model=MODEL_DIR))[:21])
    rows                1
    """

    rows: int
    runnable: int
    faults: dict[int, str]
    duplicates: int
    prompt_tokens: int
    distinct_prompt_tokens: int
    shareable_prompt_tokens: int
    most_answer_tokens: int
    expected_answer_tokens: int
    order: str
    policy: str
    kv_tokens_needed: int  # everything at once, answers at their limits
    kv_tokens_available: int
    kv_tokens_of_longest: int  # the longest request alone, its answer at its limit
    kv_bytes_per_token: int
    dtype: str
    quantize: str | None  # how linear weights are kept; None: in the dtype
    weight_bytes: int
    step_tokens: int
    machine: str
    machine_measured: bool
    machine_error: float  # by how much of it a time may be wrong because the profile is
    machine_note: str
    price_per_hour: float | None
    times: JobTimes
    density_bins: Sequence[DensityBin]
    expected: ExpectedTime
    simulation: Simulation | None
    compared: Sequence[PlayedOrder]
    advice: Sequence[Advice]
    plan_file: str | None
    change: Change | None  # since a run, whose answers serve all other rows
    tree: str

    @property
    def device_hours(self) -> float:
        """Of the expected time, on the one device that a run uses."""
        return self.expected.expected_seconds / 3600

    @property
    def density(self) -> float | None:
        """Compute over memory time of the job, None where nothing is read."""
        memory = self.times.memory_seconds
        return self.times.compute_seconds / memory if memory else None

    def as_json(self) -> dict[str, Any]:
        """Plain values, without the drawing."""
        told = {field.name: getattr(self, field.name) for field in fields(self)}
        told |= asdict(self.times) | asdict(self.expected)
        told["density"] = self.density
        told["device_hours"] = self.device_hours
        told["cost"] = None
        if self.price_per_hour is not None:
            told["cost"] = self.device_hours * self.price_per_hour
        told["density_bins"] = [asdict(each) for each in self.density_bins]
        told["advice"] = [asdict(each) for each in self.advice]
        if self.simulation is not None:
            told["simulation"] = PlayedOrder("", self.policy, self.simulation).as_json()
        told["change"] = None if self.change is None else self.change.as_json()
        told["compared"] = {each.order: each.as_json() for each in self.compared}
        return {name: value for name, value in told.items() if name not in DRAWN}

    def __str__(self) -> str:
        parts = [] if self.change is None else [self._change()]
        parts += [table(self._contents()), self.tree]
        if self.runnable:
            parts += [table(self._time()), explain_density(self.density_bins)]
        if self.simulation is not None:
            parts.append("simulated\n" + table(simulation_lines(self.simulation)))
        if self.compared:
            parts.append(columns(comparison(self.compared), left=2))
        if self.advice:
            parts.append(self._advice())
        if self.plan_file is not None:
            parts.append(f"plan written to {self.plan_file}")
        return "\n\n".join(parts)

    def _repr_html_(self) -> str:
        return as_html(
            "" if self.change is None else self._change(),
            self._contents(),
            self.tree,
            self._time() if self.runnable else "",
            {} if self.simulation is None else simulation_lines(self.simulation),
            comparison(self.compared) if self.compared else "",
            self._advice() if self.advice else "",
        )

    def _change(self) -> str:
        """What the change leaves valid, and what the rest costs."""
        cost = (
            f"{self.distinct_prompt_tokens:,} prompt tokens to compute, "
            f"{self.expected_answer_tokens:,} answer tokens, "
            f"{time_text(self.expected.expected_seconds)}"
        )
        return f"{self.change}\n{table({'which costs': cost})}"

    def _advice(self) -> str:
        return "advice\n" + "\n".join(map(_advice, self.advice))

    def _contents(self) -> dict[str, str]:
        share = self.shareable_prompt_tokens / max(1, self.prompt_tokens)
        return {
            "rows": f"{self.rows:,}",
            "  to run": f"{self.runnable:,}, {self.duplicates:,} of them duplicates",
            "  will not run": "\n".join([f"{len(self.faults):,}", *self._fault_lines()]),
            "prompt tokens": f"{self.prompt_tokens:,}",
            "  distinct": f"{self.distinct_prompt_tokens:,}",
            "  shareable": f"{self.shareable_prompt_tokens:,} ({share:.1%})",
            "answer tokens": f"{self.most_answer_tokens:,} at most",
            "  expected": f"{self.expected_answer_tokens:,}",
            "KV for all at once": self._kv(self.kv_tokens_needed),
            "  longest request": self._kv(self.kv_tokens_of_longest),
            "KV available": self._kv(self.kv_tokens_available),
            "weights": self._weights(),
        }

    def _weights(self) -> str:
        kind = f"{self.quantize}, the rest {self.dtype}" if self.quantize else self.dtype
        return f"{self.weight_bytes / 1e9:.2f} GB ({kind})"

    def _kv(self, tokens: int) -> str:
        return f"{tokens:,} tokens ({tokens * self.kv_bytes_per_token / 1e9:.2f} GB)"

    def _fault_lines(self) -> list[str]:
        shown = [f"    row {row}: {why}" for row, why in list(self.faults.items())[:FAULTS_SHOWN]]
        more = len(self.faults) - len(shown)
        return [*shown, f"    and {more:,} more"] if more else shown

    def _time(self) -> dict[str, str]:
        times, expected = self.times, self.expected
        chose = f", which chose {self.policy}" if self.order == "planned" else ""
        kind = "measured" if self.machine_measured else "a guess"
        right = f"times by it are right within {self.machine_error:.0%}"
        saved = times.saved_key_seconds / max(times.memory_seconds, 1e-30)
        side = "computing" if times.compute_seconds >= times.memory_seconds else "reading keys"
        density = "" if self.density is None else f", density {self.density:.3g}"
        known = "known" if expected.lengths_known else "unknown"
        lengths = f"the profile may err, and answer lengths are {known}"
        lines = {
            "machine": f"{self.machine}: {kind}; {right}",
            "": wrapped(self.machine_note, INDENT),
            "order": f"{self.order}{chose}; steps of {self.step_tokens:,} tokens at most",
            "T_comp": f"{time_text(times.compute_seconds)} of computing, shared tokens once",
            "T_mem": f"{time_text(times.memory_seconds)} of reading keys, of which attention over "
            f"shared prefixes saves {saved:.0%} at most",
            "T_o": f"{time_text(times.bound_seconds)}, bound by {side}{density}",
            "expected time": time_text(expected.expected_seconds),
            "  between": f"{time_text(expected.earliest_seconds)} and "
            f"{time_text(expected.latest_seconds)}: {lengths}",
            "device-hours": self._device_hours(),
        }
        return {name: text for name, text in lines.items() if text}

    def _device_hours(self) -> str:
        hours = f"{self.device_hours:.3g}"
        if self.price_per_hour is None:
            return f"{hours}; --price-per-hour tells what they cost"
        cost = self.device_hours * self.price_per_hour
        most = self.expected.latest_seconds / 3600 * self.price_per_hour
        return (
            f"{hours} at {self.price_per_hour:g} an hour: costs {money_text(cost)}, "
            f"at most {money_text(most)}"
        )


def _advice(advice: Advice) -> str:
    gains = []
    if advice.gain_seconds:
        gains.append(time_text(advice.gain_seconds))
    if advice.gain_tokens:
        gains.append(f"{advice.gain_tokens:,} tokens")
    gain = f" [gain: {', '.join(gains)}]" if gains else ""
    return f"  - {wrapped(advice.text + gain, 4)}"
