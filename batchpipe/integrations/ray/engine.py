"""A divided plan on a crew of workers: what each does next, and whose answers are still to come."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field, replace

import numpy as np

from batchpipe.engine.answer import Answer
from batchpipe.integrations.ray.cluster import Cluster
from batchpipe.integrations.ray.crew import Crew, Heard
from batchpipe.integrations.ray.messages import Given, Report
from batchpipe.integrations.ray.tally import CrewTally
from batchpipe.job.prepare import Job
from batchpipe.planner.plan import Plan
from batchpipe.planner.request import TokenIds
from batchpipe.planner.shards.assign import Division
from batchpipe.planner.shards.board import (
    MOST_FAILURES,
    Assignment,
    Board,
    begin,
    died,
    finished,
    joined,
)
from batchpipe.planner.shards.cut import Shard
from batchpipe.planner.shards.steal import next_shard
from batchpipe.running.engines import Spent

STEP_SECONDS = 0.5
MOST_HEADS = 16  # that a worker keeps for prompts to come
LEAST_HEAD_TOKENS = 16  # a shorter beginning is not worth a place of its own


@dataclass(slots=True)
class _Begun:
    """A shard that a worker has begun."""

    left: set[int]  # prompts without an answer
    goes_well: bool = False  # this worker has answered some of it


@dataclass(slots=True)
class _Desk:
    """What one worker has on it."""

    shards: dict[Shard, _Begun] = field(default_factory=dict)
    has: list[tuple[int, int]] = field(default_factory=list)  # ranks of all that it has begun
    calls: list[bool] = field(default_factory=list)  # of each under way, whether it had prompts
    waiting: int = 0  # prompts that it did not run yet, by its last report
    given: int = 0  # prompts of the shard that it was given last

    @property
    def has_begun_all(self) -> bool:
        """True where it runs prompts of the last shard that it was given."""
        return not any(self.calls) and self.waiting < max(1, self.given)

    @property
    def running(self) -> int:
        """Prompts that it runs, by its last report."""
        return sum(len(begun.left) for begun in self.shards.values()) - self.waiting


class RayEngine:
    """Answers the plan's prompts through workers; each answer counts once, whoever dies."""

    def __init__(
        self,
        job: Job,
        plan: Plan,
        division: Division,
        crew: Crew,
        cluster: Cluster,
        plenty: int,  # prompts that run at once on one worker, with which its steps are full
    ) -> None:
        self._job, self._plan, self._work, self._plenty = job, plan, division.work, plenty
        self._crew, self._cluster = crew, cluster
        self._unanswered = set(range(len(plan.prompts)))
        self._tally = CrewTally(len(division.queues))
        self._desks = [_Desk() for _ in division.queues]
        self._board = Board.of(division)
        for worker in set(range(len(division.queues))) - set(crew.ready):
            self._board = died(self._board, worker)

    def steps(self) -> Generator[list[Answer], None, None]:
        """What workers have answered, at the latest after `STEP_SECONDS`.

        Raises:
            StoppedEarly: a worker's memory is too small, or there is no worker any more
        """
        self._tally.begin()
        try:
            while not self._board.is_over:
                self._employ()
                answers: list[Answer] = []
                for heard in self._crew.hear(STEP_SECONDS):
                    answers += self._told(heard)
                self._tally.where = [self._crew.where(n) for n in range(len(self._desks))]
                yield answers
        finally:
            self._tally.end()
            self._crew.close()
            self._cluster.close()

    def spent(self) -> Spent:
        """Tokens and steps of all workers so far."""
        spent = self._tally.spent()
        computed = spent.counts.computed_prompt_tokens - spent.counts.recomputed_tokens
        duplicated = max(0, computed - self._plan.tree.computed_tokens)
        return replace(spent, duplicated_prompt_tokens=duplicated)

    # ---- giving work ----------------------------------------------------------------------

    def _employ(self) -> None:
        """Every worker that is there has something to do, if there is anything for it."""
        self._board = self._board.at(self._tally.seconds)
        for worker in self._crew.ready:
            given = list(self._next(worker))
            desk = self._desks[worker]
            while given or (desk.shards and not self._crew.has_call(worker)):
                # It tells at once when it begins its last shard, where it should have another then.
                more = self._board.workers[worker].waiting and desk.running < self._plenty
                self._crew.advance(worker, given, desk.given - 1 if more else -1)
                desk.calls.append(bool(given))
                given = []

    def _next(self, worker: int) -> Generator[Given, None, None]:
        """The prompts that the worker is given now: its next shard when it begins the one before.

        With one shard ahead its batches never run dry. What would not fill them more waits, for
        others to take it if they are done sooner.
        """
        desk = self._desks[worker]
        while not desk.shards or (desk.has_begun_all and desk.running < self._plenty):
            taken = next_shard(self._board, worker)
            if taken is None or (desk.shards and not self._may_join(taken, desk)):
                return
            self._board = begin(self._board, taken)
            prompts = self._work.prompts(*taken.shard.ranks).tolist()
            left = [index for index in prompts if index in self._unanswered]
            if not left:  # it was returned by a worker that had answered all but its end
                self._board = finished(self._board, worker, taken.shard)
                continue
            desk.shards[taken.shard] = _Begun(set(left))
            desk.given = len(left)
            self._tally.began(worker, len(left), is_stolen=taken.is_stolen)
            desk.has.append(taken.shard.ranks)
            yield self._given(left, self._heads(worker))
            return

    def _may_join(self, taken: Assignment, desk: _Desk) -> bool:
        """Beside others runs only what is the worker's own, and nothing that may have killed one.

        A worker that dies is then known to have died of one shard.
        """
        suspects = (taken.shard, *desk.shards)
        return taken.owner == taken.worker and not any(each.failures for each in suspects)

    def _given(self, prompts: list[int], heads: tuple[TokenIds, ...]) -> Given:
        plan, places = self._plan, np.array(prompts)
        token_ids, offsets = plan.prompts.take(places).end_to_end("i4")
        packed = type(plan.prompts)(token_ids, offsets[:-1], offsets[1:])
        return Given(
            indices=tuple(prompts),
            prompts=packed,
            samplings=tuple(plan.samplings[index] for index in prompts),
            names=tuple(self._job.request_ids[row] for row in plan.first_row[places].tolist()),
            samples=tuple(plan.sample[places].tolist()),
            groups=tuple(plan.groups[places].tolist()),
            heads=heads,
        )

    def _heads(self, worker: int) -> tuple[TokenIds, ...]:
        """What the worker's next shards have in common with what it has begun so far."""
        desk, tree = self._desks[worker], self._work.tree
        heads: dict[bytes, TokenIds] = {}
        for shard in self._board.workers[worker].waiting[:MOST_HEADS]:
            common = max(self._work.common_tokens(each, shard.ranks) for each in desk.has)
            if common >= LEAST_HEAD_TOKENS:
                head = self._plan.prompts[int(tree.order[shard.first])][:common]
                heads[head.tobytes()] = head.copy()
        return tuple(heads.values())

    # ---- hearing of it --------------------------------------------------------------------

    def _told(self, heard: Heard) -> list[Answer]:
        """The answers that came, and those that nobody will give any more."""
        worker, answers = heard.worker, []
        self._board = self._board.at(self._tally.seconds)
        if heard.report is not None:
            answers = self._reported(worker, heard.report)
        if heard.death is not None:
            answers += self._died(worker, heard.death)
        elif heard.report is None:
            self._board = joined(self._board, worker)
        return answers

    def _reported(self, worker: int, report: Report) -> list[Answer]:
        desk = self._desks[worker]
        desk.calls.pop(0)
        desk.waiting = report.waiting
        answers = [each for each in report.answers if each.index in self._unanswered]
        lengths = self._plan.prompts.lengths
        tokens = sum(int(lengths[answer.index]) for answer in answers)
        self._tally.reported(worker, report, len(answers), tokens)
        answered = {answer.index for answer in answers}
        self._unanswered -= answered
        for shard, begun in list(desk.shards.items()):
            begun.goes_well |= not begun.left.isdisjoint(answered)
            begun.left -= answered
            if not begun.left:
                del desk.shards[shard]
                self._board = finished(self._board, worker, shard)
        return answers

    def _died(self, worker: int, why: str) -> list[Answer]:
        """Its work is anybody's, another takes its place, and what kills all who try is given up.

        A shard of which it has answered something is not to blame: it is smaller by that.
        """
        self._tally.died(worker)
        desk, self._desks[worker] = self._desks[worker], _Desk()
        well = [shard for shard, begun in desk.shards.items() if begun.goes_well]
        given_up_before = len(self._board.given_up)
        self._board = died(self._board, worker, blameless=well)
        replaced = self._crew.replace(worker)
        goes_on = "another takes its place" if replaced else "nobody takes its place"
        print(f"worker {worker} died ({why}); {goes_on}", file=sys.stderr)
        return list(self._given_up(self._board.given_up[given_up_before:], why))

    def _given_up(self, shards: Iterable[Shard], why: str) -> Generator[Answer, None, None]:
        for shard in shards:
            prompts = self._work.prompts(*shard.ranks).tolist()
            left = [index for index in prompts if index in self._unanswered]
            self._unanswered -= set(left)
            beside = f" or the {len(left) - 1} beside it" if len(left) > 1 else ""
            for index in left:
                yield Answer.failed(
                    index,
                    f"{MOST_FAILURES} workers died one after the other on this prompt{beside}: "
                    f"{why}",
                )
