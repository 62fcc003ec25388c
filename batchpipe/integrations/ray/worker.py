"""A worker: one model in memory, which answers what it is given. Runs inside a Ray actor."""

from __future__ import annotations

import gc
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from batchpipe.engine.answer import Answer
from batchpipe.engine.model import choose_device
from batchpipe.errors import BatchpipeError
from batchpipe.integrations.ray.messages import Given, Loaded, Report, Setup
from batchpipe.job.language import load_config, load_language
from batchpipe.planner.request import TokenIds
from batchpipe.running.live import LiveEngine, Request, open_live
from batchpipe.running.own_engine import OwnBackend


class Worker:
    """Has a model once it is loaded, and prompts as they are given.

    What goes wrong as it may is returned, not raised: to Ray it would be a traceback.
    """

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._live: LiveEngine | None = None
        self._heads: dict[bytes, TokenIds] = {}  # with which prompts begin that are to come
        self._passed: dict[bytes, TokenIds] = {}  # with which none does any more

    def load(self) -> Loaded | BatchpipeError:
        """The model is in memory, and waits for prompts; else the reason why not."""
        setup = self._setup
        if setup.options.device == "cpu":
            torch.set_num_threads(setup.threads)
        try:
            language = load_language(setup.options, load_config(setup.options))
            device = choose_device(setup.options.device)
            self._live = open_live(
                OwnBackend(setup.options, device, setup.step_tokens),
                language,
                setup.dtype,
                constraints=setup.constraints,
                groups=setup.groups,
                memory_share=setup.memory_share,
                most_blocks=setup.most_blocks,
            )
        except BatchpipeError as error:
            return error
        gc.freeze()  # the model is not looked at again by any collection
        return Loaded(platform.node(), self._live.kv_tokens)

    def advance(self, given: Sequence[Given], seconds: float, few: int = -1) -> Report:
        """More prompts, and steps for so long or until all is answered; what they answered.

        Where at most a ``few`` of the prompts are left that do not run yet, one step is enough.
        """
        live = self._live
        assert live is not None, "the model is loaded"
        for each in given:
            live.submit(list(_requests(each)))
            self._expect(each.heads)
        began = time.perf_counter()
        answers: list[Answer] = []
        fault = None
        try:
            while live.unfinished and time.perf_counter() - began < seconds:
                answers += [replace(said, index=index) for index, said in live.step()]
                self._forget()
                if live.waiting <= few:
                    break
        except BatchpipeError as error:
            fault = error
        busy = time.perf_counter() - began
        return Report(tuple(answers), live.spent(), busy, live.waiting, fault)

    def _expect(self, heads: Sequence[TokenIds]) -> None:
        """What prompts to come begin with is kept when those that are here are answered."""
        assert self._live is not None, "the model is loaded"
        self._passed |= self._heads
        self._heads = {head.tobytes(): head for head in heads}
        for head in heads:
            self._live.expect(head, more=True)

    def _forget(self) -> None:
        """Heads that have passed are kept no more, once who begins with them has joined."""
        if self._live is None or self._live.joining:
            return
        for name, head in self._passed.items():
            if name not in self._heads:
                self._live.expect(head, more=False)
        self._passed.clear()


def _requests(given: Given) -> Iterator[Request]:
    for place, index in enumerate(given.indices):
        yield Request(
            index,
            given.prompts[place],
            replace(given.samplings[place], n=1),
            given.names[place],
            group=given.groups[place],
            sample=given.samples[place],
        )
