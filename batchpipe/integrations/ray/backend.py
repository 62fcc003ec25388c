"""`--workers N`: our own engine in each of N Ray actors, behind one plan."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
import torch

from batchpipe.config import JobOptions, RunOptions
from batchpipe.integrations.ray.cluster import Cluster, join
from batchpipe.integrations.ray.crew import Crew
from batchpipe.integrations.ray.engine import RayEngine
from batchpipe.integrations.ray.messages import Setup
from batchpipe.integrations.ray.slots import Slot, slot_for
from batchpipe.integrations.ray.worker import Worker
from batchpipe.job.expected_time import expected_seconds
from batchpipe.job.forms import check_own_form, constraints_of, form_faults, grammars
from batchpipe.job.kv_memory import blocks_for_all
from batchpipe.job.language import Language
from batchpipe.job.plan_job import Target, plan_job, setting_facts
from batchpipe.job.prepare import Job
from batchpipe.planner.plan import Plan
from batchpipe.planner.planning import Setting
from batchpipe.planner.request import Constraint
from batchpipe.planner.shards.assign import Division, divide
from batchpipe.planner.shards.work import work_of
from batchpipe.running.engines import Backend, Opened, computing
from batchpipe.running.own_engine import OwnBackend
from batchpipe.structured.judge import matches_by_re

SHARDS_PER_WORKER = 8
SPARE_BLOCKS = 64  # beside those of all prompts: what is kept for prompts to come


@dataclass(frozen=True, slots=True, eq=False)
class RayBackend:
    """A cluster with room for so many workers; none of them is there yet."""

    options: JobOptions  # their device is the workers'
    workers: int
    slot: Slot
    cluster: Cluster
    step_tokens: int | None
    context: int | None = None

    @property
    def worker_options(self) -> JobOptions:
        """The options as a process in another folder can use them."""
        model = Path(self.options.model)
        absolute = str(model.absolute()) if model.is_dir() else self.options.model
        return replace(self.options, model=absolute)

    def computing(self, config: Any) -> tuple[str, str | None]:
        """The workers' device, and the dtype that they choose there."""
        if self.slot.device == "cpu" or torch.cuda.is_available():
            return computing(self.options, config)
        ask = ray.remote(computing).options(num_gpus=1)  # no such device is here
        answered: tuple[str, str | None] = ray.get(ask.remote(self.options, config))
        return answered

    def target(self, language: Language, dtype: str | None) -> Target:
        """One worker's machine.

        Raises:
            ConfigError: our engine cannot run this model, or not with its weights as asked
        """
        device = torch.device(self.slot.device)
        target = OwnBackend(self.options, device, self.step_tokens).target(language, dtype)
        if self.options.kv_memory != "auto" or target.kv_blocks is None:
            return target
        return replace(target, kv_blocks=max(1, target.kv_blocks // self.slot.neighbours))

    def open(self, job: Job, plan: Plan, language: Language, target: Target | None) -> Opened:
        """The plan is divided, and workers have loaded the model.

        Raises:
            ConfigError: they cannot
            StoppedEarly: no worker starts
        """
        assert target is not None, "the workers' machine is known"
        faults = form_faults(job, language)
        if faults:
            job, plan = plan_job(
                job.without(faults), self.options.order, target, history=plan.history
            )
        setting = target.setting or Setting(target.cost, blocks_for_all(plan), target.step_tokens)
        division = divide(work_of(plan, setting), self.workers, SHARDS_PER_WORKER)
        constraints = tuple(constraints_of(plan.samplings))
        crew = Crew(Worker, self._setup(plan, target, constraints), self.slot, self.workers)
        with ExitStack() as closing:
            closing.callback(crew.close)
            crew.gather()
            closing.pop_all()  # from here on it is the engine that closes
        return Opened(
            RayEngine(job, plan, division, crew, self.cluster, target.cost.plenty_tokens),
            job,
            plan,
            facts=self._facts(target, division),
            kv_tokens=crew.kv_tokens,
            expected_seconds=_expected_seconds(plan, setting, division),
            matches=grammars().matches if constraints else matches_by_re,
        )

    def _setup(self, plan: Plan, target: Target, constraints: tuple[Constraint, ...]) -> Setup:
        return Setup(
            options=self.worker_options,
            dtype=target.cost.dtype,
            step_tokens=self.step_tokens,
            threads=self.slot.cpus,
            memory_share=1 / self.slot.neighbours,
            most_blocks=blocks_for_all(plan) + SPARE_BLOCKS,
            constraints=constraints,
            groups=max(1, len(plan.group_keys)),
        )

    def _facts(self, target: Target, division: Division) -> Mapping[str, object]:
        setting = target.setting
        return {
            **({} if setting is None else setting_facts(setting)),
            "workers": self.workers,
            "shards": sum(map(len, division.queues)),
            "duplicated_tokens": division.duplicated_tokens,
        }


def _expected_seconds(plan: Plan, setting: Setting, division: Division) -> float:
    """Of the worker that has most to do, by a dry run of the whole on one."""
    total = division.work.total_seconds
    return expected_seconds(plan, setting) * division.makespan_seconds / total if total else 0.0


def connect(options: JobOptions, run_options: RunOptions) -> Backend:
    """The cluster answers and has room for the workers; their model is not loaded.

    Raises:
        ModuleNotFoundError: ray is not installed
        ConfigError: the cluster does not answer or has less, or what answers must be cannot be
            compiled
    """
    assert run_options.workers is not None, "this is a run on workers"
    check_own_form(options.sampling)
    cluster = join(run_options.ray_address)
    slot = slot_for(cluster.nodes, run_options.workers, options.device, options.tensor_parallel)
    return RayBackend(
        replace(options, device=slot.device),
        run_options.workers,
        slot,
        cluster,
        run_options.step_tokens or slot.step_tokens,
    )
