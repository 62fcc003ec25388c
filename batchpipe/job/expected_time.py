"""How long will the job take, and between which times, by dry runs of its plan?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from batchpipe.planner.advice import work_seconds
from batchpipe.planner.lengths import FEW_ANSWERS
from batchpipe.planner.machine.machine import Machine
from batchpipe.planner.machine.machines import MACHINES
from batchpipe.planner.plan import Plan
from batchpipe.planner.planning import Setting, dry_run, in_order, sampled
from batchpipe.planner.schedule.simulate import Simulation

PLAYED_PROMPTS = 20_000  # a larger job is played as a sample of so many
INTERVAL_PROMPTS = 2_000  # the ends of the interval need only be right to some percent
SHORT_SHARE = 4  # answers of unknown length may be so many times shorter than expected
MEASURED_ERROR = 0.15
DATASHEET_ERROR = 0.4


@dataclass(frozen=True, slots=True)
class ExpectedTime:
    """Seconds that the engine will compute, without loading the model and writing results."""

    expected_seconds: float
    earliest_seconds: float
    latest_seconds: float
    lengths_known: bool  # of all answers, by their limits or by earlier runs


def expected_time(plan: Plan, setting: Setting, played: Simulation | None = None) -> ExpectedTime:
    """The time of a dry run, and the interval that unknown lengths and the profile leave.

    Where lengths are unknown, the interval reaches from answers of a quarter of the expected length
    to answers that all end at their limit. Either end is moved by the profile's error. ``played``
    spares the dry run where there has been one of the whole job.
    """
    expected = expected_seconds(plan, setting) if played is None else played.makespan_seconds
    job = _sample(plan, setting, INTERVAL_PROMPTS)
    unknown = ~known_lengths(job)
    shorter = longer = 1.0
    if unknown.any():
        base = dry_run(job, setting).makespan_seconds
        outputs = job.output_tokens
        limits = np.array([each.max_tokens for each in job.samplings], dtype=np.int64)
        short = np.where(unknown, np.maximum(1, outputs // SHORT_SHARE), outputs)
        shorter = dry_run(job, setting, short).makespan_seconds / base
        longer = dry_run(job, setting, np.where(unknown, limits, outputs)).makespan_seconds / base
    error = profile_error(setting.cost.machine)
    return ExpectedTime(
        expected_seconds=expected,
        earliest_seconds=expected * min(1.0, shorter) * (1 - error),
        latest_seconds=expected * max(1.0, longer) * (1 + error),
        lengths_known=not unknown.any(),
    )


def known_lengths(plan: Plan) -> npt.NDArray[np.bool_]:  # [prompts]
    """Where an answer ends at its limit, or where earlier runs told how long its like are."""
    told = np.array([len(plan.history.get(key, ())) >= FEW_ANSWERS for key in plan.group_keys])
    exact = np.fromiter(map(plan.exact_length, range(len(plan.prompts))), np.bool_)
    known: npt.NDArray[np.bool_] = exact | told[plan.groups]
    return known


def is_measured(machine: Machine) -> bool:
    """True for a profile from a calibration or a file, False for what ships as a guess."""
    return machine not in MACHINES.values()


def profile_error(machine: Machine) -> float:
    """By how much of it a time may be wrong because the profile is."""
    return MEASURED_ERROR if is_measured(machine) else DATASHEET_ERROR


def _sample(plan: Plan, setting: Setting, prompts: int) -> Plan:
    if len(plan.prompts) <= prompts:
        return plan
    return in_order(sampled(plan, prompts), plan.policy, setting)


def expected_seconds(plan: Plan, setting: Setting) -> float:
    """The time of a dry run, of a sample where the job has more than `PLAYED_PROMPTS`."""
    job = _sample(plan, setting, PLAYED_PROMPTS)
    seconds = dry_run(job, setting).makespan_seconds
    if job is plan:
        return seconds
    return seconds * work_seconds(plan, setting) / work_seconds(job, setting)
