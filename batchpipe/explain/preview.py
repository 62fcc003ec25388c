"""EXPLAIN: what a run would compute, share, need and cost, from tokenizer and configuration alone.

Nothing is run and no weights are looked at: times come from the machine's profile and dry runs.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from batchpipe.config import JobOptions, PlanOptions, check_price
from batchpipe.errors import ConfigError
from batchpipe.explain.advise import advise
from batchpipe.explain.against.change import Change
from batchpipe.explain.against.comparison import compare
from batchpipe.explain.forecast_text import JobTimes, Preview
from batchpipe.explain.played import PlayedOrder
from batchpipe.job.asked_rows import Asking
from batchpipe.job.excerpt import excerpt
from batchpipe.job.expected_time import expected_time, is_measured, profile_error
from batchpipe.job.fingerprint import settings_fingerprint
from batchpipe.job.history import load_history
from batchpipe.job.kv_memory import blocks_for_all, blocks_on
from batchpipe.job.language import Language, load_config, load_language
from batchpipe.job.plan_job import (
    Target,
    alone_blocks,
    plan_facts,
    plan_job,
    setting_facts,
    target_of,
)
from batchpipe.job.prepare import Job, open_job, prepare
from batchpipe.job.tensor_parallel import (
    check_devices,
    check_divisible,
    check_sharing,
    cuda_devices_here,
)
from batchpipe.job.trace_job import bare_language, prepare_trace, reads_as_trace
from batchpipe.journal.folder import open_folder
from batchpipe.journal.status import read_run
from batchpipe.planner.explain import density_bins, explain_tree
from batchpipe.planner.kv_ledger import BLOCK_TOKENS
from batchpipe.planner.machine.model_shape import DTYPE_BYTES
from batchpipe.planner.order import CANDIDATES, ORDERS
from batchpipe.planner.plan import Plan
from batchpipe.planner.plan_file import packed_plan, read_plan_facts
from batchpipe.planner.planning import Setting, dry_runs, fastest, in_order
from batchpipe.rows.atomic import written_whole
from batchpipe.rows.location import local_path
from batchpipe.rows.output_path import check_output
from batchpipe.rows.template import Template


def preview(options: JobOptions, asked: PlanOptions) -> Preview:
    """The plan of these rows, without weights and without running anything.

    Raises:
        ConfigError: for anything wrong with the request, before any of its rows is tokenized
    """
    check_price(options)
    if asked.out is not None:
        _check_plan_file(asked.out, options.input)
    asking = None if asked.against is None else Asking()
    job, language, target = _prepared(options, asked, asking)
    change = None
    if asked.against is not None and asking is not None:
        change, redo = _compared(options, asked.against, language, asking)
        job = job.among(redo[job.runnable])
    whole = asked.simulate or asked.compare
    history = load_history(options.model, options.template)
    job, plan = plan_job(job, "input" if whole else options.order, target, history=history)
    setting = target.setting
    assert setting is not None, "the KV memory is known"
    played: tuple[PlayedOrder, ...] = ()
    if whole:
        played = _played(plan, setting, ORDERS if asked.compare else (options.order,))
        [asked_for] = (each for each in played if each.order == options.order)
        plan = in_order(replace(plan, order_name=options.order), asked_for.policy, setting)
    simulation = asked_for.simulation if whole else None
    cost, machine = plan.cost(setting.cost), setting.cost.machine
    shape, dtype = setting.cost.shape, setting.cost.dtype
    if asked.out is not None:
        packed = packed_plan(plan, plan_facts(plan, options, setting_facts(setting)))
        with written_whole(asked.out) as stream:
            stream.write(packed)
    return Preview(
        rows=len(job.source),
        runnable=plan.rows,
        faults=dict(sorted(job.faults.items())),
        duplicates=plan.duplicates,
        prompt_tokens=plan.row_prompt_tokens,
        distinct_prompt_tokens=plan.tree.distinct_tokens,
        shareable_prompt_tokens=plan.shareable_prompt_tokens,
        most_answer_tokens=sum(sampling.max_tokens for sampling in plan.samplings),
        expected_answer_tokens=int(plan.output_tokens.sum()),
        order=plan.order_name,
        policy=plan.policy,
        kv_tokens_needed=blocks_for_all(plan) * BLOCK_TOKENS if plan.rows else 0,
        kv_tokens_available=setting.kv_blocks * BLOCK_TOKENS,
        kv_tokens_of_longest=int(alone_blocks(plan).max(initial=0)) * BLOCK_TOKENS,
        kv_bytes_per_token=shape.kv_bytes_per_token(dtype),
        dtype=dtype,
        quantize=options.quantize,
        weight_bytes=shape.weight_bytes(dtype),
        step_tokens=setting.step_tokens,
        machine=machine.name,
        machine_measured=is_measured(machine),
        machine_error=profile_error(machine),
        machine_note=machine.note,
        price_per_hour=options.price_per_hour or machine.price_per_hour or None,
        times=JobTimes(
            cost.compute_seconds, cost.memory_seconds, cost.bound_seconds, cost.saved_seconds
        ),
        density_bins=density_bins(plan.tree, cost),
        expected=expected_time(plan, setting, simulation),
        simulation=simulation,
        compared=played if asked.compare else (),
        advice=advise(options, job, plan, language, setting, thorough=whole),
        plan_file=asked.out,
        change=change,
        tree=explain_tree(plan, lambda *place: excerpt(job, plan, language, *place)),
    )


def _compared(
    options: JobOptions, run_dir: str, language: Language, asking: Asking
) -> tuple[Change, npt.NDArray[np.bool_]]:
    """What the run's answers are to these rows, and which rows are to be answered again.

    What `plan` has no option for, or leaves to the device, is as the run had it.
    """
    folder = open_folder(run_dir)
    known = read_run(folder).fingerprint
    as_before = {
        name: known.get(name, getattr(options, name)) for name in ("engine", "served_model")
    }
    dtype = known.get("dtype") if options.dtype == "auto" else options.dtype
    template = None if options.template is None else Template.from_option(options.template)
    options = replace(options, **as_before)
    settings = settings_fingerprint(options, template, language.config, dtype)
    return compare(folder, settings, asking.asked())


def _prepared(
    options: JobOptions, asked: PlanOptions, asking: Asking | None
) -> tuple[Job, Language, Target]:
    """The job, the model's language, and what the job will run on, its KV memory included.

    ``asking``, where it is given, has then seen all rows.
    """
    if asked.against is not None:
        read_run(open_folder(asked.against))
    source, template = open_job(options)
    traced = reads_as_trace(options, source, template)
    if traced and asked.against is not None:
        raise ConfigError(f"{options.input} is a length trace; --against compares jobs that run")
    config = load_config(options)
    language = bare_language(options, config) if traced else load_language(options, config)
    target = target_of(
        options,
        config,
        device=planned_device(options),
        dtype=planned_dtype(options.dtype, language),
        step_tokens=asked.step_tokens,
        elsewhere=True,
    )
    if options.tensor_parallel > 1:
        check_divisible(options, config, target.cost.shape)
    if options.quantize == "float8" and target.cost.machine.device == "cpu":
        raise ConfigError(
            "--quantize float8 needs a Hopper GPU (H100, H200) or newer; choose int8 or int4, or "
            "plan for such a GPU with --machine h100"
        )
    if target.kv_blocks is None:  # on a GPU; without torch only its profile tells the memory
        cost = target.cost
        target = replace(target, kv_blocks=blocks_on(cost.machine, cost.shape, cost.dtype))
    if traced:
        return prepare_trace(options, source, language), language, target
    return prepare(options, source, template, language, asking=asking), language, target


def planned_device(options: JobOptions) -> str:
    """The kind of device that a plan is for where no machine is named: a GPU if one is asked for.

    Raises:
        ConfigError: several are to share the model, and cannot
    """
    check_sharing(options)
    if options.tensor_parallel > 1 and options.device == "auto" and options.machine is None:
        check_devices(options, cuda_devices_here())
        return "cuda"
    return "cuda" if options.device == "cuda" else "cpu"


def planned_dtype(wanted: str, language: Language) -> str:
    """As a run would choose on a device that computes bfloat16 natively."""
    stored = str(getattr(language.config, "dtype", None) or "float32").removeprefix("torch.")
    dtype = stored if wanted == "auto" else wanted
    if dtype not in DTYPE_BYTES:
        raise ConfigError(f"dtype {dtype} of {language.name} is not supported; give --dtype")
    return dtype


def _played(plan: Plan, setting: Setting, orders: Sequence[str]) -> tuple[PlayedOrder, ...]:
    """These orders played to their ends; `planned` is the fastest candidate, so never behind."""
    policies = CANDIDATES if "planned" in orders else orders
    simulations = dry_runs(plan, setting, policies)
    best = fastest(simulations)
    chosen = {name: best if name == "planned" else name for name in orders}
    return tuple(PlayedOrder(name, policy, simulations[policy]) for name, policy in chosen.items())


def _check_plan_file(out: str, source: str) -> None:
    """A plan can be written there; what is there already is an older plan."""
    if not out.endswith(".parquet"):
        raise ConfigError(f"cannot write the plan to {out}: its name must end in .parquet")
    if local_path(out) is None:
        raise ConfigError(f"cannot write the plan to {out}: give a local file; copy it from there")
    check_output(out, overwrite=True, source=source)
    if os.path.exists(out) and not _is_plan(out):
        raise ConfigError(f"{out} exists and is no plan; choose another name")


def _is_plan(path: str) -> bool:
    try:
        read_plan_facts(Path(path))
    except (KeyError, TypeError, OSError, ValueError):  # of another schema, or no Parquet
        return False
    return True
