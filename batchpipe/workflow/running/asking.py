"""One row's question on its way: to whom it is put, and who else waits for the same answer."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from batchpipe.engine.answer import Answer
from batchpipe.rows.json_text import to_json
from batchpipe.workflow.journal.records import Record
from batchpipe.workflow.journal.tallies import Tallies
from batchpipe.workflow.kinds.model_steps import Question
from batchpipe.workflow.outcome import Outcome
from batchpipe.workflow.running.collapse import Collapse
from batchpipe.workflow.running.rows import Row, Tree


@dataclass(slots=True, eq=False)
class Task:
    """A step that is asked for a row."""

    row: Row
    step: str
    stage: int = 0  # which of the step's models is asked
    before: list[Any] = field(default_factory=list)  # what those before it said
    digest: bytes | None = None  # of the question, where equal ones are asked once
    questions: list[Question] = field(default_factory=list)
    answers: list[Answer | None] = field(default_factory=list)
    spent: Outcome = field(default_factory=Outcome)  # tokens and seconds of all stages so far
    began: float = field(default_factory=time.perf_counter)

    @property
    def name(self) -> str:
        """By which its random numbers are told from all others of the run."""
        return f"{self.step} {'.'.join(map(str, self.row.key))}"

    def record(self, stage: int, content: Any, **given: Any) -> Record:
        """What the journal keeps of it."""
        tree = self.row.tree
        return Record(
            tree.row.level,
            tree.ordinal,
            self.step,
            self.row.key[1:],
            stage,
            None if content is None else to_json(content),
            digest=self.digest,
            **given,
        )


class Rows(Protocol):
    """Who knows the rows that the tasks are of."""

    def settle(self, task: Task, outcome: Outcome) -> None:
        """The step has this outcome for the row."""

    def keep(self, record: Record) -> None:
        """The record is in the journal."""

    def leave(self, task: Task, model: str) -> None:
        """The row waits for a model that is not in memory."""

    def touch(self, tree: Tree) -> None:
        """The row may have nothing more to do."""


class Desk:
    """Where questions are compared before they are asked, and answers handed out."""

    def __init__(self, collapse: Collapse[Task], tallies: Tallies, rows: Rows) -> None:
        self._collapse, self._tallies, self._rows = collapse, tallies, rows

    def take(self, task: Task) -> None:
        """The row waits for an answer from now on."""
        task.row.tree.busy += 1

    def must_ask(self, task: Task, digest: bytes, prompt_tokens: int = 0) -> bool:
        """False where the answer is known or somebody is asking; the row gets it then."""
        task.digest = digest
        task.spent = replace(task.spent, prompt_tokens=prompt_tokens)
        values = self._collapse.known(digest)
        if values is not None:
            self._hand_over(task, Outcome(values))
            return False
        if self._collapse.joins(digest, task):
            return False
        task.spent = replace(task.spent, prompt_tokens=0)
        return True

    def answered(self, task: Task, outcome: Outcome) -> None:
        """The row has its outcome, and so have all that asked the same."""
        task.row.tree.busy -= 1
        self._tallies[task.step].took(outcome.seconds)
        self._rows.settle(task, outcome)
        self._rows.touch(task.row.tree)
        if task.digest is None:
            return
        if outcome.error is None:
            size_bytes = len(to_json(outcome.values))
            self._collapse.keep(task.digest, outcome.values, size_bytes)
        for other in self._collapse.ended(task.digest):
            self._hand_over(other, outcome)

    def leave(self, task: Task, model: str) -> None:
        """The row, and all that asked the same, wait for a model that is not in memory."""
        others = [] if task.digest is None else self._collapse.ended(task.digest)
        for each in (task, *others):
            each.row.tree.busy -= 1
            self._rows.leave(each, model)

    def _hand_over(self, task: Task, outcome: Outcome) -> None:
        """Somebody else's answer is the row's; nothing was computed for it."""
        tokens = task.spent.prompt_tokens
        task.row.tree.busy -= 1
        self._tallies[task.step].collapsed += 1
        self._rows.touch(task.row.tree)
        self._rows.settle(
            task,
            Outcome(outcome.values, outcome.error, prompt_tokens=tokens, cached_tokens=tokens),
        )
