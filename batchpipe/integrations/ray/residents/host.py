"""A host: the models that it is told to have, which answer what they are given. A Ray actor."""

from __future__ import annotations

import gc
import platform
import time
from collections.abc import Sequence
from dataclasses import replace

import torch

from batchpipe.engine.answer import Answer
from batchpipe.engine.model import choose_device
from batchpipe.errors import BatchpipeError
from batchpipe.integrations.ray.messages import Loaded, Report
from batchpipe.integrations.ray.residents.messages import Asked, HostSetup
from batchpipe.job.language import Language, load_config, load_language
from batchpipe.running.live import LiveEngine, open_live
from batchpipe.running.own_engine import OwnBackend
from batchpipe.workflow.running.residents import OwnResidents

LEAST_SECONDS = 0.05  # between two reports where there is something to tell


class Host:
    """Has the models of the last `load`, and prompts to them as they are given.

    What goes wrong as it may is returned, not raised: to Ray it would be a traceback.
    """

    def __init__(self, setup: HostSetup) -> None:
        self._setup = setup
        self._languages: dict[str, Language] = {}
        self._residents = OwnResidents(self._opened)
        self._kv_tokens: dict[str, int] = {}

    def load(self, names: Sequence[str]) -> Loaded | BatchpipeError:
        """These models are in memory and no others; else the reason why not."""
        gc.unfreeze()  # what leaves memory is to be found
        try:
            self._residents.bring(names)
        except BatchpipeError as error:
            return error
        gc.collect()
        gc.freeze()  # the models are not looked at again by any collection
        return Loaded(platform.node(), sum(self._kv_tokens[name] for name in names))

    def advance(self, given: Sequence[Asked], seconds: float) -> Report:
        """More prompts, and steps until there is something to tell, for so long or until all is
        answered."""
        residents = self._residents
        for each in given:
            self._take(each)
        began = time.perf_counter()
        answers: list[Answer] = []
        fault = None
        try:
            while residents.unfinished:
                passed = time.perf_counter() - began
                if passed >= (LEAST_SECONDS if answers else seconds):
                    break
                answers += [replace(said, index=ticket) for ticket, said in residents.step()]
        except BatchpipeError as error:
            fault = error
        busy = time.perf_counter() - began
        return Report(tuple(answers), residents.spent(), busy, residents.waiting, fault)

    def _take(self, asked: Asked) -> None:
        if asked.model not in self._residents:  # it has left meanwhile, and others are asked
            return
        self._residents.submit(asked.model, asked.requests)
        for head, more in asked.heads:
            self._residents.expect(asked.model, head, more=more)
        for ticket in asked.forgotten:
            self._residents.forget(asked.model, ticket)

    def _opened(self, name: str, share: float) -> LiveEngine:
        setup, model = self._setup, self._setup.models[name]
        options = model.options
        if options.device == "cpu":
            torch.set_num_threads(setup.threads)
        if name not in self._languages:
            self._languages[name] = load_language(options, load_config(options))
        live = open_live(
            OwnBackend(options, choose_device(options.device), model.step_tokens),
            self._languages[name],
            model.dtype,
            constraints=setup.constraints,
            groups=setup.groups,
            memory_share=share * setup.memory_share,
        )
        self._kv_tokens[name] = live.kv_tokens
        return live
