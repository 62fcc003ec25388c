"""`--engine openai`: a server behind the plan, be it vLLM, SGLang, llama.cpp or another."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, replace
from typing import Any

from batchpipe.config import JobOptions, RunOptions
from batchpipe.engine.answer import Answer
from batchpipe.errors import ConfigError
from batchpipe.integrations.completion_fields import DIALECTS, UNKNOWN, Dialect, asked
from batchpipe.integrations.event_loop import EventLoop
from batchpipe.integrations.openai import Refused, Server
from batchpipe.integrations.prompt_text import prompt_text
from batchpipe.integrations.sampling_seed import seed_of
from batchpipe.job.language import Language
from batchpipe.job.plan_job import Target, plan_job
from batchpipe.job.prepare import Job
from batchpipe.planner.plan import Plan
from batchpipe.planner.schedule.counts import Counts
from batchpipe.planner.schedule.sending import Sending
from batchpipe.rows.parameters import check_sampling
from batchpipe.rows.words import listed
from batchpipe.running.engine_options import UNTOLD_BY_A_SERVER, api_key, untold
from batchpipe.running.engines import Backend, Opened, Spent, computing

CONCURRENCY = 64
STEP_SECONDS = 0.5  # a wish to stop is seen that soon
ENDED_BY = {"stop": "eos", "length": "length"}  # a server does not tell which stop it was


@dataclass(frozen=True, slots=True)
class ServerBackend:
    """A server that has answered, and the model that it serves."""

    options: JobOptions
    server: Server
    context: int | None
    dialect: Dialect
    with_token_ids: bool

    def computing(self, config: Any) -> tuple[str, str | None]:
        """The device or server of the options, and the dtype where it is known."""
        return computing(self.options, config)

    def target(self, language: Language, dtype: str | None) -> Target | None:
        """None: the server's machine is not known."""
        return None

    def open(self, job: Job, plan: Plan, language: Language, target: Target | None) -> Opened:
        """What the server cannot do is told, and how prompts must be sent is found out.

        Raises:
            ConfigError: it does not complete prompts
        """
        faults = {
            int(job.runnable[place]): f"{self.dialect.server} has no {listed(lacked)}; leave it out"
            for place, sampling in enumerate(job.samplings)
            if (lacked := self.dialect.lacks(sampling))
        }
        for place, sampling in enumerate(job.samplings):
            for name in UNTOLD_BY_A_SERVER:
                if getattr(sampling, name) is not None:
                    faults.setdefault(int(job.runnable[place]), untold(name))
        if faults:
            order, history = self.options.order, plan.history
            job, plan = plan_job(job.without(faults), order, None, history=history)
        if not self.dialect.known:
            self._tell_unsure(plan)
        as_text = len(plan.prompts) > 0 and self._wants_text(int(plan.prompts[0][0]))
        return Opened(ServerEngine(self, job, plan, language, as_text=as_text), job, plan)

    def _wants_text(self, token_id: int) -> bool:
        why = self.server.refuses_token_ids(str(self.options.served_model), token_id)
        if why is None:
            return False
        print(
            f"{self.server.url} takes no token ids ({why}): prompts go as text, and what they "
            f"share is shared as far as the server makes the same tokens of it",
            file=sys.stderr,
        )
        return True

    def _tell_unsure(self, plan: Plan) -> None:
        """What a server of unknown kind may pass over in silence is told before the run."""
        names = sorted({name for sampling in set(plan.samplings) for name in asked(sampling)})
        if names:
            print(
                f"{self.server.url} does not say what kind of server it is: {listed(names)} go by "
                f"vLLM's names, and a server that does not know them may pass them over",
                file=sys.stderr,
            )


class ServerEngine:
    """Sends the prompts in the plan's order, a bounded number at once, and collects the answers."""

    def __init__(
        self, backend: ServerBackend, job: Job, plan: Plan, language: Language, *, as_text: bool
    ) -> None:
        self._backend, self._server, self._options = backend, backend.server, backend.options
        self._job, self._plan, self._language = job, plan, language
        self._as_text = as_text
        self._counts = Counts()
        self._uncounted = False

    def steps(self) -> Generator[list[Answer], None, None]:
        """The answers that came, at the latest after `STEP_SECONDS`.

        Raises:
            StoppedEarly: the server answers no more
        """
        sending = Sending(self._plan)
        most = self._options.concurrency or CONCURRENCY
        under_way: set[Future[Answer]] = set()
        with EventLoop(self._server.close) as loop:
            while True:
                while len(under_way) < most and (index := sending.next()) is not None:
                    under_way.add(loop.start(self._answer(index)))
                if not under_way:
                    return
                done, under_way = wait(under_way, STEP_SECONDS, FIRST_COMPLETED)
                errors = [error for each in done if (error := each.exception()) is not None]
                answers = [each.result() for each in done if each.exception() is None]
                for answer in answers:
                    sending.answered(answer.index, computed=answer.fault is None)
                    self._count(answer)
                yield answers  # also where another request has failed: these came
                if errors:
                    raise errors[0]

    def spent(self) -> Spent:
        """Tokens so far, as the server counts them; how many steps it took is its own affair."""
        return Spent(self._counts)

    def _count(self, answer: Answer) -> None:
        if answer.fault is None:
            prompt_tokens = len(self._plan.prompts[answer.index])
            self._counts.computed_prompt_tokens += prompt_tokens - answer.cached_tokens
            self._counts.completion_tokens += answer.tokens

    async def _answer(self, index: int) -> Answer:
        """What the server says to the prompt, or why it refuses it."""
        started = time.perf_counter()
        try:
            answer = self._read(index, await self._server.complete(self._request(index)))
            return replace(answer, seconds=time.perf_counter() - started)
        except Refused as why:
            return Answer.failed(index, str(why))

    def _request(self, index: int) -> dict[str, Any]:
        plan, backend = self._plan, self._backend
        sampling, ids = plan.samplings[index], plan.prompts[index].tolist()
        seed = seed_of(
            sampling,
            run_seed=self._options.seed,
            request_id=self._job.request_ids[int(plan.first_row[index])],
            sample=int(plan.sample[index]),
        )
        fields = backend.dialect.fields(sampling, seed)
        if backend.with_token_ids:
            fields["extra_body"] = {**fields["extra_body"], "return_token_ids": True}
        prompt = prompt_text(self._language.tokenizer, ids) if self._as_text else ids
        return {"model": self._options.served_model, "prompt": prompt, **fields}

    def _read(self, index: int, made: Any) -> Answer:
        """The answer in what the server sent, of which it may leave out much.

        Raises:
            Refused: there is none in it
        """
        choices = getattr(made, "choices", None)
        if not choices or not isinstance(getattr(choices[0], "text", None), str):
            raise Refused("the server's answer has no text")
        choice, usage = choices[0], getattr(made, "usage", None)
        if choice.finish_reason not in ENDED_BY:
            raise Refused(f"the server ended the answer by {choice.finish_reason}")
        details = getattr(usage, "prompt_tokens_details", None)
        cached = getattr(details, "cached_tokens", None)
        if cached is None:
            self._tell_uncounted()
            # The prompt of a row counts once, also where it has several samples.
            cached = len(self._plan.prompts[index]) if self._plan.sample[index] else 0
        tokens = getattr(usage, "completion_tokens", None)
        if tokens is None:
            [ids] = self._language.tokenize([choice.text], special_tokens=False)
            tokens = len(ids)
        return Answer(
            index,
            tuple(getattr(choice, "token_ids", None) or ()),
            ENDED_BY[choice.finish_reason],
            min(cached, len(self._plan.prompts[index])),
            text=choice.text,
            text_tokens=tokens,
        )

    def _tell_uncounted(self) -> None:
        """Said once: what the server reuses is not seen from here."""
        if not self._uncounted:
            print(
                f"{self._server.url} does not tell which prompt tokens it had cached: all count as "
                f"computed (vLLM tells with --enable-prompt-tokens-details)",
                file=sys.stderr,
            )
        self._uncounted = True


def connect(options: JobOptions, run_options: RunOptions) -> Backend:
    """The server answers and serves the model.

    Raises:
        ConfigError: it does not, with what it does serve
    """
    assert options.base_url is not None, "checked before"
    server = Server(options.base_url, api_key(options))
    cards = server.cards()
    served = _served(options, list(cards))
    dialect = DIALECTS.get(getattr(cards.get(served), "owned_by", ""), UNKNOWN)
    _check_form(options, dialect)
    context = getattr(cards.get(served), "max_model_len", None)
    return ServerBackend(
        options=replace(options, served_model=served),
        server=server,
        context=context if isinstance(context, int) and context > 0 else None,
        dialect=dialect,
        with_token_ids=run_options.with_token_ids,
    )


def _check_form(options: JobOptions, dialect: Dialect) -> None:
    """What the run asks of all answers is something that the server can be asked for.

    Raises:
        ConfigError: it is not
    """
    constraint = check_sampling(**options.sampling).constraint
    if constraint is not None and dialect.form is None:
        raise ConfigError(
            f"--{constraint.kind} cannot be asked of {dialect.server}; vLLM's server takes it, and "
            f"so does --engine batchpipe"
        )


def _served(options: JobOptions, names: list[str]) -> str:
    """What the server calls the model: as asked, else the only one, else as we call it."""
    if options.served_model is None and len(names) == 1:
        return names[0]
    served = options.served_model or options.model
    if names and served not in names:
        raise ConfigError(
            f"{options.base_url} serves no {served}; give --served-model, one of {listed(names)}"
        )
    return served
