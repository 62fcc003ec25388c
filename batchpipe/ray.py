"""``bp.ray.annotate``: a column of answers for a Ray Dataset, by workers of its cluster.

Needs ``batchpipe[ray]``; Ray is loaded when it is called.
"""

from __future__ import annotations

from typing import Any

from batchpipe.running.engines import missing

WINDOW_ROWS = 4096


def annotate(
    dataset: Any,  # ray.data.Dataset
    *,
    model: str,
    workers: int = 1,
    cpus: int = 1,
    window_rows: int = WINDOW_ROWS,
    **options: Any,
) -> Any:  # ray.data.Dataset
    """The dataset with a column of answers, computed when it is read, as Ray's transforms are.

    Each worker is an actor that loads the model once. It answers windows of rows as they come, each
    planned as one batch: rows of a window that begin alike share what they have in common. So sort
    a dataset by what its prompts begin with, or give larger windows.

    >>> import batchpipe as bp  # doctest: +SKIP
    >>> import ray
    >>> tickets = ray.data.read_parquet("s3://bucket/tickets/")
    >>> labelled = bp.ray.annotate(
    ...     tickets,
    ...     model="Qwen/Qwen3-0.6B",
    ...     workers=4,
    ...     template="Urgency of: {{ text }}",
    ...     choices=["low", "high"],
    ...     output="urgency",
    ...     id_column="ticket",
    ... )
    >>> labelled.write_parquet("s3://bucket/labelled/")

    Args:
        dataset: its rows have what the template, or the prompt's column, asks for
        model: name or directory, which every node can read
        workers: actors; each has a GPU, or ``tensor_parallel`` of one node, where the cluster has
            any and ``device`` is not ``"cpu"``
        cpus: of each worker, where it has no GPU
        window_rows: rows that are planned together
        options: of `batchpipe.annotate` (without ``run_dir`` and ``progress``) and of
            `batchpipe.LLM`. Drawn answers follow ``id_column``; without it, the place in the window

    Raises:
        ConfigError: ray is not installed, or an option cannot be
        TypeError: an unknown keyword
    """
    try:
        from batchpipe.integrations.ray.dataset import annotated
    except ImportError as error:
        raise missing("bp.ray", "ray", error) from error
    return annotated(dataset, model, workers, cpus, window_rows, options)
