"""Our own engine behind the plan: the model loaded here, its KV memory, and plans made anew."""

from __future__ import annotations

from collections.abc import Collection, Generator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from batchpipe.config import JobOptions, RunOptions, dtype_text
from batchpipe.engine.answer import Answer
from batchpipe.engine.engine import Engine
from batchpipe.engine.faults import first_line, is_device_lost, is_out_of_memory
from batchpipe.engine.model import Decoder, bind, choose_device, load_model, refuse_by_class
from batchpipe.engine.quantized import check_quantizable
from batchpipe.engine.ranks.shared_model import SharedModel, load_shared
from batchpipe.engine.self_check import check_attention
from batchpipe.errors import ConfigError, DeviceLost
from batchpipe.job.expected_time import expected_seconds
from batchpipe.job.forms import check_own_form, form_faults, grammars
from batchpipe.job.kv_memory import (
    CUDA_SHARE,
    blocks_for_all,
    blocks_in,
    free_bytes,
    host_blocks_for_all,
)
from batchpipe.job.language import Language
from batchpipe.job.plan_job import Target, alone_blocks, plan_job, setting_facts, target_of
from batchpipe.job.prepare import Job
from batchpipe.job.tensor_parallel import check_divisible, check_installed
from batchpipe.planner.kv_ledger import BLOCK_TOKENS
from batchpipe.planner.machine.step_cost import StepCost
from batchpipe.planner.plan import Plan
from batchpipe.planner.planning import Setting, pace_of
from batchpipe.planner.replan import Replanner
from batchpipe.planner.request import Constraint
from batchpipe.running.engines import Backend, Opened, Spent, computing
from batchpipe.running.host_kv import beside
from batchpipe.structured.judge import matches_by_re
from batchpipe.structured.masks import Masks

if TYPE_CHECKING:  # it needs a package that not everybody has
    from batchpipe.structured.grammars import Grammars


@dataclass(frozen=True, slots=True)
class OwnBackend:
    """The model in this process, on one device or several."""

    options: JobOptions
    device: torch.device
    step_tokens: int | None
    context: int | None = None
    model: Any = None  # that stays loaded between plans; None: each plan loads it

    def computing(self, config: Any) -> tuple[str, str | None]:
        """The device or server of the options, and the dtype where it is known."""
        return computing(self.options, config)

    def target(self, language: Language, dtype: str | None) -> Target:
        """This machine, whose KV memory may not be known before the weights are loaded.

        Raises:
            ConfigError: the engine cannot run this model, or not with its weights as asked
        """
        assert dtype is not None, "what is computed here has a dtype"
        options, config = self.options, language.config
        refuse_by_class(options.model, config)
        if options.quantize is not None:
            check_quantizable(
                options.model, config, options.quantize, device=self.device, dtype=dtype
            )
        target = target_of(
            options,
            config,
            device=self.device.type,
            dtype=dtype,
            step_tokens=self.step_tokens,
        )
        if options.tensor_parallel > 1:
            check_installed(options)
            check_divisible(options, config, target.cost.shape)
        return target

    def loaded(self, language: Language, dtype: str | None) -> OwnBackend:
        """The same with its model in memory, for as long as somebody holds it.

        Raises:
            ConfigError: as `target`, or the model cannot be loaded
            DeviceLost: the device fails for good
        """
        cost = self.target(language, dtype).cost
        model = loaded_model(self.options, language.config, self.device, cost)
        return replace(self, model=model)

    def open(self, job: Job, plan: Plan, language: Language, target: Target | None) -> Opened:
        """The model is loaded and has its KV memory.

        Raises:
            ConfigError: the device has no room for them
            DeviceLost: the device fails for good
        """
        assert target is not None, "this machine is known"
        options, cost = self.options, target.cost
        faults = form_faults(job, language)
        if faults:
            job, plan = plan_job(job.without(faults), options.order, target, history=plan.history)
        forms = compiled(_constraints(plan), language)  # in the background, while the weights load
        model = self.model
        if model is None:
            model = loaded_model(options, language.config, self.device, cost)
        if target.kv_blocks is None:
            free = blocks_in(free_beside(model, self.device), cost.shape, cost.dtype)
            target = replace(target, kv_blocks=free)
            job, plan = plan_job(job, options.order, target, history=plan.history)
        setting = target.setting
        assert setting is not None, "the KV memory is known"
        needed = int(alone_blocks(plan).max(initial=1))
        setting = replace(setting, kv_blocks=min(setting.kv_blocks, blocks_for_all(plan)))
        decoder, setting = bound(model, setting, options, needed)
        most_aside = host_blocks_for_all(plan, setting.kv_blocks)
        host, setting = beside(decoder, setting, options, most_aside)
        expected = expected_seconds(plan, setting)
        replanner = Replanner(plan, setting)
        plan = replanner.plan
        engine = Engine(
            decoder,
            plan,
            kv_blocks=setting.kv_blocks,
            pace=pace_of(plan, setting),
            eos_token_ids=language.eos_token_ids,
            request_ids=[job.request_ids[place] for place in plan.first_row.tolist()],
            seed=options.seed,
            tokenizer=language.tokenizer,
            speculate_by=setting.cost if options.speculate == "auto" else None,
            host=host,
            swap_by=setting.cost,
            masks=None if forms is None else Masks(forms, plan.samplings),
        )
        return Opened(
            _Replanned(engine, replanner),
            job,
            plan,
            facts=setting_facts(setting),
            kv_tokens=setting.kv_blocks * BLOCK_TOKENS,
            expected_seconds=expected,
            matches=matches_by_re if forms is None else grammars().matches,
        )


def connect(options: JobOptions, run_options: RunOptions) -> Backend:
    """The device is there, and what the answers must be can be compiled.

    Raises:
        ConfigError: it is not, or cannot
    """
    check_own_form(options.sampling)
    return OwnBackend(options, choose_device(options.device), run_options.step_tokens)


class _Replanned:
    """The engine, and what its answers teach about the order of those still to come."""

    def __init__(self, engine: Engine, replanner: Replanner) -> None:
        self._engine, self._replanner = engine, replanner

    def steps(self) -> Generator[list[Answer], None, None]:
        """Run the plan step by step; each gives the answers that it finished, often none."""
        for finished in self._engine.steps():
            for answer in finished:
                self._replanner.answered(answer.index)
            self._replanner.between_steps(self._engine.batcher)
            yield finished

    def spent(self) -> Spent:
        """Tokens and steps so far."""
        engine = self._engine
        ledger = engine.batcher.ledger
        return Spent(
            engine.counts,
            engine.memory_shortages,
            engine.most_tokens,
            (ledger.total - ledger.free) * BLOCK_TOKENS,
        )


def compiled(asked: Collection[Constraint], language: Language) -> Grammars | None:
    """What answers must be, being compiled in the order given; None where nothing is asked."""
    if not asked:
        return None
    ends = [token for token in language.eos_token_ids if token < language.vocab]
    made: Grammars = grammars().Grammars(language.tokenizer, language.vocab, ends, asked)
    return made


def _constraints(plan: Plan) -> list[Constraint]:
    """What the prompts' answers must be, in the order in which they run."""
    in_order = (plan.samplings[index] for index in plan.order.prompts.tolist())
    return [each.constraint for each in in_order if each.constraint is not None]


def loaded_model(options: JobOptions, config: Any, device: torch.device, cost: StepCost) -> Any:
    """The model on its device in the cost's dtype, checked against its own attention.

    Where several devices share it, it is a `SharedModel`.

    Raises:
        ConfigError: the device has no room for it
        DeviceLost: the device fails for good
    """
    name, revision, trusted = options.model, options.revision, options.trust_remote_code
    try:
        if options.tensor_parallel > 1:
            return load_shared(
                name,
                config,
                cost.shape,
                dtype=cost.dtype,
                device=device.type,
                ranks=options.tensor_parallel,
                revision=revision,
                trust_remote_code=trusted,
            )
        model = load_model(
            name,
            config,
            dtype=cost.dtype,
            device=device,
            revision=revision,
            trust_remote_code=trusted,
            quantize=options.quantize,
        )
        check_attention(model, cost.shape, options.model)
    except (RuntimeError, MemoryError) as error:
        if is_device_lost(error):
            raise DeviceLost(f"device {device} is lost ({first_line(error)})") from error
        if not is_out_of_memory(error):
            raise
        weights = cost.shape.weight_bytes(cost.dtype)
        raise ConfigError(
            f"{device.type} has no room for {options.model}, whose weights take "
            f"{weights / 1e9:.1f} GB in {dtype_text(cost.dtype, options.quantize)}; choose a "
            f"smaller model, --dtype or --quantize"
        ) from error
    return model


def free_beside(model: Any, device: torch.device) -> int:
    """Bytes that KV may take beside the loaded model, on all of its devices together."""
    if isinstance(model, SharedModel) and device.type == "cuda":
        return int(model.free_bytes() * CUDA_SHARE)
    return free_bytes(device.type)


def bound(
    model: Any, setting: Setting, options: JobOptions, needed: int
) -> tuple[Decoder, Setting]:
    """The model with the setting's KV memory or, left to us, as much of it as there is.

    Raises:
        ConfigError: the memory that --kv-memory names, or so many ``needed`` blocks, are not there
    """
    blocks = setting.kv_blocks
    while True:
        try:
            if isinstance(model, SharedModel):
                return model.bind(blocks), replace(setting, kv_blocks=blocks)
            return bind(model, setting.cost.shape, blocks), replace(setting, kv_blocks=blocks)
        except (RuntimeError, MemoryError) as error:
            fewer = blocks * 3 // 4
            if not is_out_of_memory(error):
                raise
            if options.kv_memory != "auto" or fewer < needed:
                raise ConfigError(
                    f"there is no room for the KV of {blocks * BLOCK_TOKENS:,} tokens beside the "
                    f"model; give a smaller --kv-memory, or lower max_tokens"
                ) from error
            blocks = fewer
