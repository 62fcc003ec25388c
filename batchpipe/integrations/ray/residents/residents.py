"""A workflow's models on a crew of workers: brought there, asked there, and brought anew."""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from batchpipe.engine.answer import Answer
from batchpipe.errors import GOES_ON, StoppedEarly
from batchpipe.integrations.ray.cluster import Cluster
from batchpipe.integrations.ray.crew import ALONE_SECONDS, Crew, Heard
from batchpipe.integrations.ray.messages import Report
from batchpipe.integrations.ray.residents.host import Host
from batchpipe.integrations.ray.residents.letters import Letters
from batchpipe.integrations.ray.residents.messages import Asked, HostSetup
from batchpipe.integrations.ray.residents.parts import Parts
from batchpipe.integrations.ray.residents.work_of_prompts import WorkOfPrompts
from batchpipe.integrations.ray.slots import Slot
from batchpipe.integrations.ray.tally import CrewTally
from batchpipe.planner.query.planning import Hardware
from batchpipe.planner.query.spread import Models
from batchpipe.planner.request import TokenIds
from batchpipe.planner.shards.board import MOST_FAILURES
from batchpipe.planner.shards.line import RoutedPrompt
from batchpipe.planner.shards.routing import Router
from batchpipe.running.engines import Spent
from batchpipe.running.live import Request

TURN_SECONDS = 0.02  # that the driver listens before it looks at databases, hosts and functions
MISSED_SECONDS = 15.0  # without any worker that has a model, before others make room for it


@dataclass(slots=True)
class _Desk:
    """What is known of one worker."""

    calls: list[bool] = field(default_factory=list)  # of each under way, whether it had prompts
    waiting: int = 0  # prompts that it did not run yet, by its last report


class RayResidents:
    """Models in the memory of workers. See `Residents`.

    Args:
        setup: what every worker is told
        slot: what it has to itself
        hardware: so many workers, each such a machine
        work: modelled seconds of each model
        cluster: left when the models are
    """

    def __init__(
        self,
        setup: HostSetup,
        slot: Slot,
        hardware: Hardware,
        work: Mapping[str, float],
        cluster: Cluster,
    ) -> None:
        self._setup, self._slot, self._cluster = setup, slot, cluster
        self._hardware, self._parts = hardware, Parts(hardware, work)
        workers = hardware.workers
        self._crew: Crew | None = None
        self._wanted: Models = ()
        self._router, self._letters = Router(workers), Letters(workers)
        self._costs = WorkOfPrompts(hardware.hosts)
        self._requests: dict[int, tuple[str, Request]] = {}  # unanswered, by ticket
        self._desks = [_Desk() for _ in range(workers)]
        self._tally = CrewTally(workers)
        self._missed_since: float | None = None
        self.load_seconds = 0.0

    @property
    def loads(self) -> int:
        """Models that workers have loaded, one as often as that happened."""
        return self._parts.loads

    def __contains__(self, name: str) -> bool:
        return name in self._wanted

    def bring(self, names: Iterable[str]) -> None:
        """Each of these models is on a worker at least, and no others are on any.

        Raises:
            ConfigError: a worker has no room for them
            StoppedEarly: no worker starts
        """
        self._wanted = tuple(names)
        if not self._wanted:
            return
        began = time.perf_counter()
        workers = range(self._hardware.workers)
        has_room = self._parts.divide(self._wanted, workers)
        assert has_room, f"{self._wanted} were planned for {len(workers)} workers"
        if self._crew is None:
            self._tally.begin()
            self._crew = Crew(Host, self._setup, self._slot, len(workers), self._parts.load)
        else:
            for worker in workers:
                if worker not in self._crew.ready or not self._parts.is_current(worker):
                    self._reload(self._crew, worker)
        self._crew.gather(self._told)
        self.load_seconds += time.perf_counter() - began

    def submit(self, name: str, requests: Sequence[Request]) -> None:
        """Each is in the line of a worker."""
        for request in requests:
            self._requests[request.ticket] = name, request
            self._router.add(self._costs.routed(name, request))

    def expect(self, name: str, head: TokenIds, *, more: bool) -> None:
        """Further prompts to the model will begin with these tokens, or no more."""
        self._router.expect(name, head, more=more)
        self._letters.expect(name, head, more=more)

    def forget(self, name: str, ticket: int) -> None:
        """One prompt less than announced follows this one."""
        if ticket in self._requests:  # it has no answer yet
            _, request = self._requests[ticket]
            self._requests[ticket] = name, replace(request, feeds=max(0, request.feeds - 1))
        worker = self._router.forget(ticket)
        if worker is not None:
            self._letters.forget(worker, name, ticket)

    def step(self) -> list[tuple[int, Answer]]:
        """What workers have answered, after `TURN_SECONDS` at the latest.

        Raises:
            StoppedEarly: a worker's memory is too small, or nobody has a model any more
        """
        crew = self._crew
        if crew is None or not self._requests:
            return []
        self._mind_missing(crew)
        for worker in crew.ready:
            self._employ(crew, worker)
        answers: list[tuple[int, Answer]] = []
        for heard in crew.hear(TURN_SECONDS):
            answers += self._told(heard)
        for worker in range(self._hardware.workers):
            self._tally.where[worker] = crew.where(worker)
        return answers

    def spent(self) -> Spent:
        """Tokens and steps of all workers so far."""
        return replace(self._tally.spent(), duplicated_prompt_tokens=self._router.duplicated_tokens)

    def close(self) -> None:
        """No worker is left."""
        self._wanted = ()
        self._tally.end()
        if self._crew is not None:
            self._crew.close()
            self._crew = None
        self._cluster.close()

    # ---- who has which model ---------------------------------------------------------------

    def _reload(self, crew: Crew, worker: int) -> None:
        """The worker goes over to what it is to have now; who is starting does so afterwards."""
        if worker in crew.ready:
            self._router.settle(worker, self._parts.staying(worker))
        crew.reload(worker)

    def _mind_missing(self, crew: Crew) -> None:
        """Workers make room for a model whose own workers do not come back."""
        missing, now = self._router.missing, time.monotonic()
        if not missing:
            self._missed_since = None
            return
        if self._missed_since is None:
            self._missed_since = now
        missed_seconds, ready = now - self._missed_since, crew.ready
        if missed_seconds < MISSED_SECONDS or not ready:
            return
        if self._parts.divide(self._wanted, ready):
            self._missed_since = None
            for worker in ready:
                if not self._parts.is_current(worker):
                    self._reload(crew, worker)
        elif missed_seconds > ALONE_SECONDS:
            raise StoppedEarly(
                f"no worker that is left has room for model {min(missing)}; {GOES_ON}"
            )

    # ---- giving work -----------------------------------------------------------------------

    def _employ(self, crew: Crew, worker: int) -> None:
        """The worker has something to do, if there is anything for it."""
        desk = self._desks[worker]
        prompts: tuple[RoutedPrompt, ...] = ()
        runs_all = not desk.waiting and not any(desk.calls)
        if runs_all or not self._router.has_begun(worker):
            portion = self._router.take(worker)
            prompts = portion.prompts
            if prompts:
                self._tally.began(worker, len(prompts), is_stolen=portion.is_stolen)
        while prompts or (self._router.has_begun(worker) and not crew.has_call(worker)):
            crew.advance(worker, self._asked(worker, prompts))
            desk.calls.append(bool(prompts))
            prompts = ()

    def _asked(self, worker: int, prompts: Sequence[RoutedPrompt]) -> list[Asked]:
        letters = self._letters.take(worker, lambda name: self._router.waiting(worker, name))
        requests: dict[str, list[Request]] = defaultdict(list)
        for prompt in prompts:
            name, request = self._requests[prompt.ticket]
            requests[name].append(request)
        return [*letters, *(Asked(name, tuple(some)) for name, some in requests.items())]

    # ---- hearing of it ---------------------------------------------------------------------

    def _told(self, heard: Heard) -> list[tuple[int, Answer]]:
        """The answers that came, and those that nobody will give any more."""
        worker, answers = heard.worker, []
        if heard.report is not None:
            answers = self._reported(worker, heard.report)
        if heard.death is not None:
            answers += self._died(worker, heard.death)
        elif heard.report is None:
            self._settled(worker)
        return answers

    def _settled(self, worker: int) -> None:
        """The worker has loaded what it was told to."""
        models = self._parts.loaded(worker)
        self._letters.begin(worker, models)
        self._router.settle(worker, models)
        if self._crew is not None and not self._parts.is_current(worker):
            self._reload(self._crew, worker)  # it is to have others meanwhile

    def _reported(self, worker: int, report: Report) -> list[tuple[int, Answer]]:
        desk = self._desks[worker]
        desk.calls.pop(0)
        desk.waiting = report.waiting
        answers: list[tuple[int, Answer]] = []
        prompt_tokens = 0
        for answer in report.answers:
            if self._router.answered(answer.index) is None:  # another was faster
                continue
            _, request = self._requests.pop(answer.index)
            if not request.feeds:
                self._router.forget(answer.index)
            self._costs.answered(request.group, answer.tokens)
            prompt_tokens += len(request.token_ids)
            answers.append((answer.index, answer))
        self._tally.reported(worker, report, len(answers), prompt_tokens)
        return answers

    def _died(self, worker: int, why: str) -> list[tuple[int, Answer]]:
        """Its prompts go to others, another takes its place, and what kills three is given up."""
        assert self._crew is not None, "workers of a crew die"
        self._tally.died(worker)
        self._letters.died(worker)
        self._desks[worker] = _Desk()
        given_up = self._router.died(worker)
        replaced = self._crew.replace(worker)
        goes_on = "another takes its place" if replaced else "nobody takes its place"
        print(f"worker {worker} died ({why}); {goes_on}", file=sys.stderr)
        sentence = f"{MOST_FAILURES} workers died one after the other on this prompt: {why}"
        for prompt in given_up:
            del self._requests[prompt.ticket]
        return [(each.ticket, Answer.failed(each.ticket, sentence)) for each in given_up]
