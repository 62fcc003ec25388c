"""batchpipe in Apache Airflow 3: an operator, its trigger and `@task.batchpipe`.

Only this room's files import `airflow`, and none of them loads torch: the run is a process of its
own, of any interpreter where batchpipe is whole.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from batchpipe.errors import ConfigError

if TYPE_CHECKING:
    from batchpipe.integrations.airflow.decorator import batchpipe_task
    from batchpipe.integrations.airflow.operator import BatchPipeOperator
    from batchpipe.integrations.airflow.trigger import BatchPipeTrigger

__all__ = ["BatchPipeOperator", "BatchPipeTrigger", "batchpipe_task"]

_ROOM = "batchpipe.integrations.airflow"
_FILES = {
    "BatchPipeOperator": "operator",
    "BatchPipeTrigger": "trigger",
    "batchpipe_task": "decorator",
}


def __getattr__(name: str) -> Any:
    """Loaded with its first use: Airflow reads the provider's metadata in each of its commands."""
    if name not in _FILES:
        raise AttributeError(f"module {_ROOM!r} has no attribute {name!r}")
    if find_spec("airflow") is None:
        raise ConfigError(f"{name} needs Apache Airflow 3: pip install 'batchpipe[airflow]'")
    return getattr(import_module(f"{_ROOM}.{_FILES[name]}"), name)
