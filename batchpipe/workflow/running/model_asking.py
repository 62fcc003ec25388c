"""Rows' questions to models: worded and tokenized together, asked of the models in memory."""

from __future__ import annotations

import itertools
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from batchpipe.engine.answer import Answer
from batchpipe.rows.json_text import to_json
from batchpipe.workflow.journal.tallies import Tallies
from batchpipe.workflow.kinds.model_steps import Onward
from batchpipe.workflow.kinds.prepared import Prepared
from batchpipe.workflow.kinds.wording import Prompt, RowFault, Said, prompts_of
from batchpipe.workflow.outcome import Outcome
from batchpipe.workflow.running.asking import Desk, Rows, Task
from batchpipe.workflow.running.collapse import digest_of
from batchpipe.workflow.running.heads import Heads
from batchpipe.workflow.running.residents import Residents
from batchpipe.workflow.running.rows import Ticket, Tree

if TYPE_CHECKING:
    from batchpipe.running.live import Request  # torch


class ModelAsking:
    """The tasks of steps that ask models."""

    def __init__(
        self, prepared: Prepared, residents: Residents, tallies: Tallies, desk: Desk, rows: Rows
    ) -> None:
        self._prepared, self._residents, self._tallies = prepared, residents, tallies
        self._desk, self._rows = desk, rows
        self._tickets = itertools.count()
        self._asked: dict[int, tuple[Task, int]] = {}  # ticket -> task and its question
        self._unworded: dict[tuple[str, int], list[Task]] = defaultdict(list)  # by step and stage
        graph = prepared.graph
        self._followers = Counter(
            graph.by_name[each.extends].name
            for each in graph.operators
            if each.extends is not None and each.kind == "llm"
        )
        # Steps' answers are alike in length, whatever the row.
        self._groups = {step: group for group, step in enumerate(prepared.model_steps)}
        self._heads = Heads(prepared, residents)

    @property
    def unfinished(self) -> int:
        """Prompts that are asked and not answered."""
        return len(self._asked)

    def begin_phase(self, rows: int) -> None:
        """Other models are in memory, and so many rows of the input may ask them."""
        self._heads.begin(rows)

    def begin(self, task: Task) -> None:
        """The row is ready for the step; models that it has asked before are not asked again."""
        below, known = task.row.key[1:], task.row.tree.known
        while (record := known.pop((task.step, below, task.stage), None)) is not None:
            task.before.append(record.values()["said"])
            task.stage += 1
        self._desk.take(task)
        self._go_on(task)

    def word(self) -> bool:
        """What waits is asked, as far as it can be; false where nothing waited."""
        if not self._unworded:
            return False
        waiting, self._unworded = self._unworded, defaultdict(list)
        requests: dict[str, list[Request]] = defaultdict(list)
        for (step, stage), tasks in waiting.items():
            model = self._prepared.model_steps[step].models[stage]
            for task, prompt in self._prompts(step, stage, tasks):
                requests[model] += self._requests(task, prompt, model)
        for model, some in requests.items():
            self._residents.submit(model, some)
        self._heads.tell()
        return True

    def step(self) -> bool:
        """The models have taken a step; true where that answered a row."""
        answers = self._residents.step()
        for ticket, answer in answers:
            task, place = self._asked.pop(ticket)
            task.answers[place] = answer
            if None not in task.answers:
                self._conclude(task)
        return bool(answers)

    def forget(self, tree: Tree) -> None:
        """Nothing more is asked for the row in this phase."""
        for place, ticket in tree.tickets.items():
            if ticket.model in self._residents:
                for _ in range(self._followers[place[0]]):
                    self._residents.forget(ticket.model, ticket.number)
        tree.tickets.clear()
        self._heads.passed(tree)

    def _go_on(self, task: Task) -> None:
        model = self._prepared.model_steps[task.step].models[task.stage]
        if model in self._residents:
            self._unworded[task.step, task.stage].append(task)
        else:
            self._desk.leave(task, model)

    def _prompts(self, step: str, stage: int, tasks: list[Task]) -> Iterable[tuple[Task, Prompt]]:
        """Those tasks that must be asked, each with its prompt; the others have their outcome."""
        asked: list[Task] = []
        texts: list[Said] = []
        for task in tasks:
            self._heads.asked(task)
            try:
                texts.append(self._prepared.wordings[step].said(task.row.scope))
                asked.append(task)
            except RowFault as bad:
                self._desk.answered(task, Outcome(error=str(bad)))
        model_step = self._prepared.model_steps[step]
        operator = self._prepared.graph.by_name[step]
        model = model_step.models[stage]
        language = self._prepared.languages[model]
        # Equal texts are tokenized once: in a tree search that is three rows in five.
        keys = [text if isinstance(text, str) else to_json(text) for text in texts]
        distinct = dict(zip(keys, texts, strict=True))
        prompts = prompts_of(list(distinct.values()), model_step.sampling(stage), language)
        prompt_of = dict(zip(distinct, prompts, strict=True))
        for task, key in zip(asked, keys, strict=True):
            prompt = prompt_of[key]
            if isinstance(prompt, RowFault):
                self._desk.answered(task, Outcome(error=str(prompt)))
            elif (
                not operator.collapses
                or stage
                or self._desk.must_ask(
                    task,
                    digest_of("model", model, operator.arguments, prompt.token_ids.tobytes()),
                    len(prompt.token_ids),
                )
            ):
                yield task, prompt

    def _requests(self, task: Task, prompt: Prompt, model: str) -> list[Request]:
        """What the model is asked for the task."""
        from batchpipe.running.live import Request  # torch, which is there with the model

        step = self._prepared.model_steps[task.step]
        task.questions = step.questions(task.stage, prompt, task.name)
        task.answers = [None] * len(task.questions)
        self._tallies[task.step].calls += len(task.questions)
        followed = self._followed(task, model)
        feeds = self._followers[task.step]
        requests = []
        for place, question in enumerate(task.questions):
            ticket = next(self._tickets)
            self._asked[ticket] = (task, place)
            requests.append(
                Request(
                    ticket,
                    question.token_ids,
                    question.sampling,
                    question.name,
                    group=self._groups[task.step],
                    follows=followed,
                    feeds=feeds,
                )
            )
            if feeds:
                task.row.tree.tickets[task.step, task.row.key] = Ticket(model, ticket)
        return requests

    def _followed(self, task: Task, model: str) -> int | None:
        """The ticket of the answer as which the task's prompt begins."""
        extends = self._prepared.graph.by_name[task.step].extends
        if extends is None:
            return None
        operator = self._prepared.graph.by_name[extends]
        depth = len(self._prepared.levels.path(operator.level))
        tickets = task.row.tree.tickets
        found = tickets.get((operator.name, task.row.key[:depth]))
        return None if found is None or found.model != model else found.number

    def _conclude(self, task: Task) -> None:
        """All answers are there: the row has its outcome, or the next model is asked."""
        answers = [answer for answer in task.answers if answer is not None]
        task.spent = _with(task, answers)
        step = self._prepared.model_steps[task.step]
        concluded = step.concluded(task.stage, task.questions, answers, task.before)
        if isinstance(concluded, Outcome):
            self._desk.answered(
                task, replace(task.spent, values=concluded.values, error=concluded.error)
            )
            return
        self._onward(task, concluded)

    def _onward(self, task: Task, said: Onward) -> None:
        # Kept, so that a session that goes on here need not ask again.
        self._rows.keep(task.record(task.stage, {"said": said.content}))
        task.before.append(said.content)
        task.stage += 1
        self._go_on(task)


def _with(task: Task, answers: list[Answer]) -> Outcome:
    """The task's cost with that of these answers."""
    spent = task.spent
    prompt_tokens = sum(len(question.token_ids) for question in task.questions)
    seconds = max((answer.seconds or 0.0 for answer in answers), default=0.0)
    return Outcome(
        seconds=spent.seconds + (seconds or time.perf_counter() - task.began),
        prompt_tokens=spent.prompt_tokens + prompt_tokens,
        cached_tokens=spent.cached_tokens + sum(answer.cached_tokens for answer in answers),
        completion_tokens=spent.completion_tokens + sum(answer.tokens for answer in answers),
    )
