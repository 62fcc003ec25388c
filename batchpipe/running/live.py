"""A model that prompts come to while it runs: they join its batch, and share what it has computed.

A plan that is known from the start is `own_engine`'s; here the answers to some prompts make others.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from batchpipe.engine.answer import Answer
from batchpipe.engine.device_memory import return_device_memory
from batchpipe.engine.engine import Engine
from batchpipe.engine.host_memory import return_freed_memory
from batchpipe.job.kv_memory import blocks_in
from batchpipe.job.language import Language
from batchpipe.planner.growing import GrowingPlan, Newcomer, empty_plan
from batchpipe.planner.kv_ledger import BLOCK_TOKENS, blocks_for
from batchpipe.planner.planning import Setting
from batchpipe.planner.request import Constraint, Sampling, TokenIds
from batchpipe.planner.schedule.pace import Full
from batchpipe.running.engines import Spent
from batchpipe.running.host_kv import beside
from batchpipe.running.own_engine import OwnBackend, bound, compiled, free_beside, loaded_model
from batchpipe.structured.masks import Masks

JOINING_SHARE = 0.1  # of the time at most goes into making the plan anew
SHARED_BLOCKS = 32  # a path of so many nodes, each of which may leave most of a block empty


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """A prompt to a live model."""

    ticket: int  # no other has it
    token_ids: TokenIds
    sampling: Sampling  # of one sample
    name: str  # with the run's seed and the sample it names the random numbers
    group: int = 0  # of prompts whose answers are alike in length
    follows: int | None = None  # ticket of the prompt as which, and its answer, this one begins
    feeds: int = 0  # prompts that will follow this one
    sample: int = 0  # which of the answers to its name


class LiveEngine:
    """One model in memory, whose plan grows. See `open_live`."""

    def __init__(self, engine: Engine, setting: Setting, language: Language) -> None:
        self.language = language
        self._engine = engine
        self._plan = GrowingPlan(engine.batcher, setting)
        self._kv_blocks = setting.kv_blocks
        self._names: dict[int, str] = {}  # by number in the plan, of those that join it next
        self._refused: list[tuple[int, Answer]] = []
        self._joined_at = self._joining_seconds = 0.0

    @property
    def unfinished(self) -> int:
        """Prompts that have no answer yet."""
        return len(self._plan.unanswered) + len(self._refused)

    @property
    def waiting(self) -> int:
        """Prompts that have not begun to run."""
        return self._plan.pending + len(self._engine.batcher.waiting) + len(self._refused)

    @property
    def joining(self) -> int:
        """Prompts that are not part of the plan yet."""
        return self._plan.pending

    @property
    def kv_tokens(self) -> int:
        """That its KV memory holds."""
        return self._kv_blocks * BLOCK_TOKENS

    def submit(self, requests: Sequence[Request]) -> None:
        """The prompts will be answered: each joins the running batch within some steps.

        Prompt and answer must be within the model's context.
        """
        for request in requests:
            assert request.sampling.n == 1, "each sample is a request of its own"
            why = self._too_large(request)
            if why is not None:
                self._refused.append((request.ticket, Answer.failed(-1, why)))
                if request.follows is not None:
                    self.forget(request.follows)
                continue
            newcomer = Newcomer(
                request.ticket,
                request.token_ids,
                request.sampling,
                request.group,
                request.follows,
                request.feeds,
                request.sample,
            )
            self._names[self._plan.submit(newcomer)] = request.name

    def expect(self, head: TokenIds, *, more: bool) -> None:
        """Prompts that begin so are still to come, or not any more: their KV is kept meanwhile."""
        self._plan.expect(head, more=more)

    def forget(self, ticket: int) -> None:
        """One prompt less than announced follows this one."""
        self._engine.batcher.kept.forget(ticket)

    def step(self) -> list[tuple[int, Answer]]:
        """The answers that one forward pass finished, with their tickets; often none.

        Raises:
            OutOfMemory: there is no room for a single token
            DeviceLost: the device fails for good
        """
        finished, self._refused = self._refused, []
        if self._plan.pending and self._may_join():
            self._join()
        answers = self._engine.step()
        if answers is None and self._plan.pending:
            self._join()
            answers = self._engine.step()
        for answer in answers or []:
            finished.append((self._plan.answered(answer.index), answer))
        return finished

    def spent(self) -> Spent:
        """Tokens and steps so far."""
        engine = self._engine
        held = engine.batcher.ledger.total - engine.batcher.ledger.free
        return Spent(
            engine.counts, engine.memory_shortages, engine.most_tokens, held * BLOCK_TOKENS
        )

    def close(self) -> None:
        """The model and its KV are gone from memory, where nobody else holds them."""
        self._engine.close()
        del self._engine, self._plan
        gc.collect()
        return_freed_memory()
        return_device_memory()

    def _may_join(self) -> bool:
        """Joining takes time by all that is unanswered: it must not eat up what it brings."""
        batcher = self._engine.batcher
        if not batcher.running:
            return True
        if len(batcher.waiting) and self._plan.pending * 4 < len(self._plan.unanswered):
            return False
        since = time.perf_counter() - self._joined_at
        return self._joining_seconds <= JOINING_SHARE * since

    def _join(self) -> None:
        began = time.perf_counter()
        self._plan.join()
        names, self._names = self._names, {}
        self._engine.grown(names)
        self._joined_at = time.perf_counter()
        self._joining_seconds = self._joined_at - began

    def _too_large(self, request: Request) -> str | None:
        tokens = len(request.token_ids) + request.sampling.max_tokens
        spare = min(SHARED_BLOCKS, self._kv_blocks // 4)
        if blocks_for(tokens) + spare <= self._kv_blocks:
            return None
        held = self._kv_blocks * BLOCK_TOKENS
        return (
            f"prompt and answer may have {tokens} tokens and the KV memory holds {held}; give "
            f"the model a larger kv_memory, or lower max_tokens"
        )


def open_live(
    backend: OwnBackend,
    language: Language,
    dtype: str | None,
    *,
    constraints: Collection[Constraint] = (),
    groups: int = 1,
    memory_share: float = 1.0,
    most_blocks: int | None = None,
) -> LiveEngine:
    """The model is loaded, has its KV memory and waits for prompts.

    Args:
        constraints: what answers will have to be, to be compiled while the weights load
        groups: of prompts whose answers are alike in length
        memory_share: of the free memory, where no size is given
        most_blocks: of KV that all prompts could use; None: they are not known

    Raises:
        ConfigError: the engine cannot run this model, or the device has no room for it
        DeviceLost: the device fails for good
    """
    options = backend.options
    target = backend.target(language, dtype)
    grammars = compiled(constraints, language)
    model: Any = backend.model
    if model is None:
        model = loaded_model(options, language.config, backend.device, target.cost)
    blocks = target.kv_blocks
    if blocks is None:
        free = free_beside(model, backend.device)
        blocks = blocks_in(free, target.cost.shape, target.cost.dtype)
    if options.kv_memory == "auto":
        blocks = max(1, int(blocks * memory_share))
    if most_blocks is not None:
        blocks = min(blocks, most_blocks)
    setting = Setting(target.cost, blocks, target.step_tokens, host_blocks=target.host_blocks)
    decoder, setting = bound(model, setting, options, needed=1)
    # Nobody knows what will come. Left to us, the host holds once more what the device does.
    most_aside = target.host_blocks if most_blocks is None else most_blocks - setting.kv_blocks
    if options.host_kv_memory == "auto":
        most_aside = min(most_aside, setting.kv_blocks, int(target.host_blocks * memory_share))
    host, setting = beside(decoder, setting, options, most_aside)
    engine = Engine(
        decoder,
        empty_plan(groups),
        kv_blocks=setting.kv_blocks,
        pace=Full(setting.step_tokens),
        eos_token_ids=language.eos_token_ids,
        request_ids=[],
        seed=options.seed,
        tokenizer=language.tokenizer,
        speculate_by=setting.cost if options.speculate == "auto" else None,
        host=host,
        swap_by=setting.cost,
        masks=None if grammars is None else Masks(grammars, ()),
    )
    return LiveEngine(engine, setting, language)
