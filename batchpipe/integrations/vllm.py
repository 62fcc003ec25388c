"""`--engine vllm`: vLLM in this process, behind the plan. Alone imports `vllm`.

vLLM schedules and caches by itself: it gets the prompts as token ids in the planned order, a few
more than it runs at once, so that what it computes next is always what the plan has next.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

from batchpipe.config import JobOptions, RunOptions, parse_bytes
from batchpipe.engine.answer import Answer
from batchpipe.errors import GOES_ON, ConfigError, StoppedEarly
from batchpipe.integrations.completion_fields import vllm_form
from batchpipe.integrations.sampling_seed import seed_of
from batchpipe.integrations.vllm_logprobs import answer_logprobs, prompt_logprobs
from batchpipe.job.language import Language
from batchpipe.job.plan_job import Target
from batchpipe.job.prepare import Job
from batchpipe.planner.plan import Plan
from batchpipe.planner.request import Constraint, Sampling
from batchpipe.planner.schedule.counts import Counts
from batchpipe.rows.words import one_line
from batchpipe.running.engines import Backend, Opened, Spent, computing

WAITING = 64  # prompts that vLLM has beside those that it runs

# Its smallest blocks: its own 128 tokens leave up to 127 of a prefix unshared. To compile a model
# takes a CPU minutes, and gives less back.
ON_CPU = {"block_size": 32, "enforce_eager": True}


@dataclass(frozen=True, slots=True)
class VllmBackend:
    """vLLM is installed; the model is not loaded yet."""

    options: JobOptions
    vllm: Any  # the package
    step_tokens: int | None
    context: int | None = None

    def computing(self, config: Any) -> tuple[str, str | None]:
        """The device or server of the options, and the dtype where it is known."""
        return computing(self.options, config)

    def target(self, language: Language, dtype: str | None) -> Target | None:
        """None: vLLM's speed and memory on this machine are its own."""
        return None

    def open(self, job: Job, plan: Plan, language: Language, target: Target | None) -> Opened:
        """vLLM has loaded the model.

        Raises:
            ConfigError: vLLM does not take the model or the memory
        """
        options = self.options
        device, dtype = computing(options, language.config)
        limits: dict[str, Any] = dict(ON_CPU) if device == "cpu" else {}
        if options.kv_memory != "auto":
            limits["kv_cache_memory_bytes"] = parse_bytes(options.kv_memory)
        if self.step_tokens is not None:
            limits["max_num_batched_tokens"] = self.step_tokens
        arguments = self.vllm.EngineArgs(
            model=options.model,
            revision=options.revision,
            trust_remote_code=options.trust_remote_code,
            dtype=dtype,
            seed=options.seed,
            max_model_len=min(language.context, _longest(plan)),
            enable_prefix_caching=True,
            disable_log_stats=True,
            # Its own defaults for what a row leaves open: ours are complete.
            generation_config="vllm",
            **limits,
        )
        try:
            engine = self.vllm.LLMEngine.from_engine_args(arguments)
        except (ValueError, RuntimeError, OSError, MemoryError) as error:
            raise ConfigError(
                f"vLLM cannot load {options.model} ({one_line(str(error))}); --engine batchpipe may"
            ) from error
        cache = engine.vllm_config.cache_config
        return Opened(
            VllmEngine(self, engine, job, plan, language),
            job,
            plan,
            kv_tokens=(cache.num_gpu_blocks or 0) * cache.block_size,
        )


class VllmEngine:
    """Feeds vLLM in the plan's order and steps it."""

    def __init__(
        self, backend: VllmBackend, engine: Any, job: Job, plan: Plan, language: Language
    ) -> None:
        self._backend, self._engine = backend, engine
        self._job, self._plan, self._language = job, plan, language
        self._counts = Counts()
        self._most = engine.vllm_config.scheduler_config.max_num_seqs + WAITING

    def steps(self) -> Generator[list[Answer], None, None]:
        """One step of vLLM each, with the answers that it finished.

        Raises:
            StoppedEarly: vLLM failed
        """
        coming = iter(self._plan.order.prompts.tolist())
        try:
            while True:
                refused = list(self._fill(coming))
                if not refused and not self._engine.has_unfinished_requests():
                    return
                self._counts.steps += 1
                yield refused + [self._read(each) for each in self._step() if each.finished]
        finally:
            self._engine.engine_core.shutdown()

    def spent(self) -> Spent:
        """Tokens and steps so far."""
        return Spent(self._counts)

    def _fill(self, coming: Iterator[int]) -> Iterator[Answer]:
        """vLLM has as many prompts as it should; answers for those that it refuses."""
        while self._engine.get_num_unfinished_requests() < self._most:
            index = next(coming, None)
            if index is None:
                return
            prompt = {"prompt_token_ids": self._plan.prompts[index].tolist()}
            try:
                self._engine.add_request(str(index), prompt, self._parameters(index))
            except ValueError as error:
                yield Answer.failed(index, f"vLLM refuses this prompt: {one_line(str(error))}")

    def _step(self) -> list[Any]:
        try:
            outputs: list[Any] = self._engine.step()
        except RuntimeError as error:
            raise StoppedEarly(f"vLLM failed ({one_line(str(error))}); {GOES_ON}") from error
        return outputs

    def _parameters(self, index: int) -> Any:
        """vLLM's `SamplingParams` of the prompt."""
        plan, vllm = self._plan, self._backend.vllm
        sampling: Sampling = plan.samplings[index]
        ends = () if sampling.ignore_eos else sorted(self._language.eos_token_ids)
        return vllm.SamplingParams(
            max_tokens=max(1, sampling.max_tokens),  # the least that it draws
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            min_p=sampling.min_p,
            repetition_penalty=sampling.repetition_penalty,
            seed=seed_of(
                sampling,
                run_seed=self._backend.options.seed,
                request_id=self._job.request_ids[int(plan.first_row[index])],
                sample=int(plan.sample[index]),
            ),
            structured_outputs=self._form(sampling.constraint),
            stop=list(sampling.stop),
            stop_token_ids=[*sampling.stop_token_ids, *ends],
            ignore_eos=True,  # the model's own ends are among the stop tokens
            logprobs=sampling.logprobs,
            prompt_logprobs=sampling.prompt_logprobs,
            detokenize=bool(sampling.stop),
            output_kind=vllm.sampling_params.RequestOutputKind.FINAL_ONLY,
        )

    def _form(self, constraint: Constraint | None) -> Any:
        """vLLM's own word for what the answer must be."""
        if constraint is None:
            return None
        return self._backend.vllm.sampling_params.StructuredOutputsParams(**vllm_form(constraint))

    def _read(self, made: Any) -> Answer:
        [output] = made.outputs
        index = int(made.request_id)
        sampling = self._plan.samplings[index]
        tokens = tuple(output.token_ids)[: sampling.max_tokens]
        if output.finish_reason not in ("stop", "length"):
            return Answer.failed(index, f"vLLM ended the answer by {output.finish_reason}")
        prompt_tokens = len(self._plan.prompts[index])
        cached = min(made.num_cached_tokens or 0, prompt_tokens)
        self._counts.computed_prompt_tokens += prompt_tokens - cached
        self._counts.completion_tokens += len(tokens)
        told = answer_logprobs(output.logprobs, tokens, sampling.logprobs)
        prompt = self._plan.prompts[index].tolist()
        of_prompt = prompt_logprobs(made.prompt_logprobs, prompt, sampling.prompt_logprobs)
        if isinstance(output.stop_reason, str):
            ended_by, text = "stop_string", output.text
        else:
            ended_by, text = "eos" if tokens and output.finish_reason == "stop" else "length", None
        return Answer(
            index,
            tokens,
            ended_by,
            cached,
            text=text,
            logprobs=told,
            prompt_logprobs=of_prompt,
        )


def connect(options: JobOptions, run_options: RunOptions) -> Backend:
    """vLLM is loaded, with no model yet.

    Raises:
        ModuleNotFoundError: it is not installed
    """
    for name, value in environment().items():
        os.environ.setdefault(name, value)  # what the user has set stays
    import vllm

    return VllmBackend(options, vllm, run_options.step_tokens)


def environment() -> dict[str, str]:
    """What is set before vllm is loaded, since it reads some of it only then.

    stdout is the summary's, nothing is reported to anybody, the engine steps in this process, and
    no core of a CPU stays idle.
    """
    variables = {
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_LOGGING_STREAM": "ext://sys.stderr",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    }
    if hasattr(os, "sched_getaffinity"):  # macOS has none, and binds no threads to cores
        cores = sorted(os.sched_getaffinity(0))
        variables["VLLM_CPU_OMP_THREADS_BIND"] = ",".join(map(str, cores))
    return variables


def _longest(plan: Plan) -> int:
    """Tokens of the longest prompt with its answer."""
    lengths: list[int] = plan.prompts.lengths.tolist()
    return max(
        tokens + sampling.max_tokens
        for tokens, sampling in zip(lengths, plan.samplings, strict=True)
    )
