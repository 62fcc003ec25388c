"""With what the prompts still to come begin, so that models keep that in memory."""

from __future__ import annotations

from collections import Counter

from batchpipe.planner.query.graph import INPUT
from batchpipe.workflow.kinds.prepared import Prepared
from batchpipe.workflow.running.asking import Task
from batchpipe.workflow.running.residents import Residents
from batchpipe.workflow.running.rows import Tree


class Heads:
    """Each step's beginning, and whether prompts with it are still to come.

    How many rows the input has is known; below it, there may be more as long as the phase lasts.
    """

    def __init__(self, prepared: Prepared, residents: Residents) -> None:
        self._residents = residents
        asking = [each for each in prepared.graph.operators if each.name in prepared.model_steps]
        self._models = {each.name: each.models[0] for each in asking}
        self._counted = {each.name for each in asking if each.level == INPUT}
        self._heads = {
            name: prepared.wordings[name].head(prepared.languages[model])
            for name, model in self._models.items()
        }
        self._left: Counter[str] = Counter()
        self._told: set[str] = set()  # steps whose model expects more

    def begin(self, rows: int) -> None:
        """So many rows of the input are still to be looked at, by the models now in memory."""
        self._left = Counter({n: rows if n in self._counted else 1 for n in self._models})
        self._told.clear()
        self.tell()

    def asked(self, task: Task) -> None:
        """The row's prompt comes now."""
        if task.step in self._counted and task.step not in task.row.tree.asked:
            task.row.tree.asked.add(task.step)
            self._left[task.step] -= 1

    def passed(self, tree: Tree) -> None:
        """No other prompt comes of the row."""
        if tree.row.level == INPUT:
            for step in self._counted - tree.asked:
                self._left[step] -= 1

    def tell(self) -> None:
        """Each model knows which beginnings are still to come."""
        for step, model in self._models.items():
            more = self._left[step] > 0
            if model in self._residents and len(self._heads[step]) and more != (step in self._told):
                self._residents.expect(model, self._heads[step], more=more)
                self._told ^= {step}
