"""`@task.batchpipe`: the function returns the rows, the task answers them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from airflow.providers.common.compat.sdk import (
    DecoratedOperator,
    context_merge,
    determine_kwargs,
    task_decorator_factory,
)

from batchpipe.integrations.airflow.operator import BatchPipeOperator
from batchpipe.integrations.airflow.rows_file import rows_file


class BatchPipeDecoratedOperator(DecoratedOperator, BatchPipeOperator):
    """A `BatchPipeOperator` whose input is what a function returns.

    A list of prompts or of dicts, a polars, pandas or Arrow table, or the path of a job file. The
    function runs in every try and must return the same rows in each. Nothing in them is rendered.
    """

    template_fields: Sequence[str] = (
        *DecoratedOperator.template_fields,
        *(field for field in BatchPipeOperator.template_fields if field != "input"),
    )
    custom_operator_name = "@task.batchpipe"

    def __init__(
        self,
        *,
        python_callable: Callable[..., Any],
        op_args: Collection[Any] | None = None,
        op_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            python_callable=python_callable,
            op_args=op_args,
            op_kwargs=op_kwargs,
            input="",  # what the function returns
            **kwargs,
        )

    def execute(self, context: Any) -> dict[str, Any]:
        """The function's rows are answered."""
        return BatchPipeOperator.execute(self, context)

    def find_input(self, context: Any) -> None:
        """``input`` is a job file with what the function returns."""
        context_merge(context, self.op_kwargs)
        arguments = determine_kwargs(self.python_callable, self.op_args, context)
        rows = self.python_callable(*self.op_args, **arguments)
        self.input = rows_file(rows, self._directory())


def batchpipe_task(python_callable: Callable[..., Any] | None = None, **kwargs: Any) -> Any:
    """The function is a task that answers the rows it returns; arguments as the operator's."""
    return task_decorator_factory(
        python_callable=python_callable,
        decorated_operator_class=BatchPipeDecoratedOperator,
        **kwargs,
    )
