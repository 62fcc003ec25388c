"""The loop of a workflow: what may be asked is asked, what is answered lets more be asked.

One thread owns all of it. Models take a step in each turn, databases, hosts and functions are asked
on threads beside it, and no row waits for another's.
"""

from __future__ import annotations

import json
from collections import Counter, deque
from itertools import islice

from batchpipe.planner.query.graph import INPUT
from batchpipe.workflow.journal.journal import StepJournal
from batchpipe.workflow.journal.records import FINAL, Record
from batchpipe.workflow.journal.result_rows import ResultRows
from batchpipe.workflow.journal.tallies import Tallies
from batchpipe.workflow.kinds.prepared import Prepared
from batchpipe.workflow.outcome import Outcome
from batchpipe.workflow.running.admission import Admission, Entry, Tables
from batchpipe.workflow.running.asking import Desk, Task
from batchpipe.workflow.running.collapse import Collapse
from batchpipe.workflow.running.model_asking import ModelAsking
from batchpipe.workflow.running.residents import Residents
from batchpipe.workflow.running.rows import Row, Tree
from batchpipe.workflow.running.tool_asking import ToolAsking
from batchpipe.workflow.running.wavefront import Wavefront

MOST_TREES = 4096  # rows of a table in memory, with all below them
MOST_QUESTIONS = 4096  # prompts and calls that wait or are under way
ADMITTED_AT_ONCE = 64
WAIT_SECONDS = 0.02  # for a tool where no model has anything to do


class Runtime:
    """The rows in memory and everything that is asked for them.

    Args:
        prepared: the workflow
        tables: its rows
        journal: where every outcome goes
        residents: the models that are in memory
        tallies: what each step has done
    """

    def __init__(
        self,
        prepared: Prepared,
        tables: Tables,
        journal: StepJournal,
        residents: Residents,
        tallies: Tallies,
    ) -> None:
        self._prepared, self._tables, self._journal = prepared, tables, journal
        self._tallies = tallies
        self._levels = prepared.levels
        self._front = Wavefront(prepared.levels)
        self._results = ResultRows(prepared)
        collapse: Collapse[Task] = Collapse()
        for digest, content in journal.answered():  # what was asked before is not asked again
            collapse.keep(digest, json.loads(content), len(content))
        desk = Desk(collapse, tallies, self)
        self._models = ModelAsking(prepared, residents, tallies, desk, self)
        self._tools = ToolAsking(prepared, tallies, desk)
        self._trees: set[Tree] = set()
        self._touched: set[Tree] = set()  # that may be done or may have nothing to do here
        self._admission = Admission(prepared.levels, tables)
        self._is_exhausted = False  # no row could be admitted, and none was in memory
        self.wanted: Counter[str] = Counter()  # models not in memory that rows were left for

    @property
    def is_idle(self) -> bool:
        """True where the models in memory can do no more for any row."""
        return not self._trees and self._is_exhausted

    def begin_phase(self) -> None:
        """Other models are in memory: every row that is not finished is looked at again."""
        assert not self._trees, f"{len(self._trees)} rows are in memory"
        self._is_exhausted = False
        self._admission = Admission(self._levels, self._tables)
        self.wanted.clear()
        rows = self._tables.rows(INPUT) or 0
        self._models.begin_phase(rows - self._journal.finished(INPUT))

    def turn(self) -> None:
        """Rows are admitted as there is room, all that may be asked is, and answers are taken."""
        self._admit()
        answered = self._models.step()
        answered |= self._tools.take()
        self._ask()
        self._retire()
        if not answered and not self._models.unfinished and self._tools.unfinished:
            self._tools.wait(WAIT_SECONDS)

    # ---- what those who ask call -----------------------------------------------------------

    def settle(self, task: Task, outcome: Outcome, *, is_new: bool = True) -> None:
        """The step has this outcome for the row; a new one goes to the journal."""
        row, step, tally = task.row, task.step, self._tallies[task.step]
        if row.is_dropped or step in row.settled:
            return
        self._touched.add(row.tree)
        if is_new:
            tally.rows += 1
            tally.failed += outcome.error is not None
            tally.prompt_tokens += outcome.prompt_tokens
            tally.cached_tokens += outcome.cached_tokens
            tally.completion_tokens += outcome.completion_tokens
            self._journal.add(_record(task, outcome))
        if outcome.error is not None:
            self._front.fail(row, step, f"step {step} failed: {outcome.error}")
        else:
            self._front.settle(row, step, outcome.values)

    def keep(self, record: Record) -> None:
        """What a model said on the way to an outcome is in the journal."""
        self._journal.add(record)

    def leave(self, task: Task, model: str) -> None:
        """The row waits for a model that is not in memory."""
        self.wanted[model] += 1
        self._touched.add(task.row.tree)

    def touch(self, tree: Tree) -> None:
        """The tree's row may have nothing more to do here."""
        self._touched.add(tree)

    # ---- rows ------------------------------------------------------------------------------

    def _admit(self) -> None:
        """Rows come into memory until there is enough to do, first those of lists."""
        was_empty = not self._trees
        while self._models.unfinished + self._tools.unfinished < MOST_QUESTIONS:
            widened = self._front.widen(ADMITTED_AT_ONCE)
            if widened is not None:
                self._touched.add(widened)
            elif len(self._trees) >= MOST_TREES:
                return
            else:
                entries = list(islice(iter(self._admission.next, None), ADMITTED_AT_ONCE))
                if not entries:
                    self._is_exhausted = was_empty and not self._trees
                    return
                was_empty = False
                for entry in entries:
                    self._begin(entry)
            self._ask()
            self._retire()

    def _begin(self, entry: Entry) -> None:
        if entry.fault is not None:
            self._finish_unreadable(entry)
            return
        tree = self._front.admit(entry.table, entry.ordinal, entry.values, entry.causes)
        tree.known = dict(entry.known)
        self._trees.add(tree)
        self._touched.add(tree)

    def _ask(self) -> None:
        """Everything that may be asked is asked, or has its outcome without asking."""
        while True:
            self._ask_ready()
            if not self._models.word() and not self._front.ready:
                break
        self._tools.go_on()

    def _ask_ready(self) -> None:
        ready: deque[tuple[Row, str]] = self._front.ready
        while ready:
            row, step = ready.popleft()
            if row.is_dropped:
                continue
            self._touched.add(row.tree)
            task = Task(row, step)
            if step in self._prepared.inline:
                self._settle_inline(task)
                continue
            record = row.tree.known.pop((step, row.key[1:], FINAL), None)
            if record is not None:
                self.settle(task, _outcome(record), is_new=False)
            elif step in self._prepared.model_steps:
                self._models.begin(task)
            else:
                self._tools.begin(task)

    def _settle_inline(self, task: Task) -> None:
        row, step = task.row, task.step
        outcome = self._prepared.inline[step](row, self._front)
        self.settle(task, outcome, is_new=False)  # it is computed again from what is kept
        if step in row.tree.gathered:
            self._tables.brought(step, row.tree.ordinal, row.tree.gathered[step])

    def _retire(self) -> None:
        """Rows that are done, or that no model in memory can do anything for, leave memory."""
        for tree in self._front.finished:
            self._finish(tree)
        self._front.finished.clear()
        for tree in self._touched:
            if tree in self._trees and tree.open and not tree.busy and not tree.coming:
                self._trees.remove(tree)
                self._models.forget(tree)
        self._touched.clear()

    def _finish(self, tree: Tree) -> None:
        self._trees.discard(tree)
        self._models.forget(tree)
        table, ordinal = tree.row.level, tree.ordinal
        self._journal.add(self._results.record(tree))
        self._count_inline(tree.row)
        for group_by in self._tables.gathered_from(table):
            self._tables.ended(group_by, ordinal)

    def _finish_unreadable(self, entry: Entry) -> None:
        assert entry.fault is not None
        gathered = {
            name: [] if self._levels.gathers[name].skips_failed else [[None, None, entry.fault]]
            for name in self._tables.gathered_from(entry.table)
        }
        self._journal.add(
            self._results.unreadable(entry.table, entry.ordinal, entry.fault, gathered)
        )
        for name, members in gathered.items():
            self._tables.brought(name, entry.ordinal, members)

    def _count_inline(self, row: Row) -> None:
        """What the row and those below it had computed at once is counted, now that it stays so."""
        for node in self._levels.nodes[row.level]:
            if node.is_asked and node.operator in self._prepared.inline:
                tally = self._tallies[node.operator]
                tally.rows += node.operator in row.settled or row.is_dropped
                cause = row.causes.get(node.operator, "")
                tally.failed += cause.startswith(f"step {node.operator} failed")
        for rows in row.below.values():
            for each in rows:
                self._count_inline(each)


def _record(task: Task, outcome: Outcome) -> Record:
    return task.record(
        FINAL,
        content=None if outcome.error is not None else outcome.values,
        error=outcome.error,
        seconds=outcome.seconds,
        prompt_tokens=outcome.prompt_tokens,
        cached_tokens=outcome.cached_tokens,
        completion_tokens=outcome.completion_tokens,
    )


def _outcome(record: Record) -> Outcome:
    if record.error is not None:
        return Outcome(error=record.error)
    return Outcome(record.values())
