"""``import batchpipe.polars`` gives frames of polars `annotate` as a method, ``df.llm.annotate``.

>>> import polars as pl
>>> import batchpipe.polars
>>> from batchpipe.demo.prompt import MODEL_DIR, load_tickets, messages
>>> tickets = pl.DataFrame({"chat": [messages(ticket.text) for ticket in load_tickets()[:2]]})
>>> labelled = tickets.llm.annotate(model=MODEL_DIR, messages="chat", output="label", max_tokens=48)
>>> labelled["label"].str.json_path_match("$.category").to_list()
['return', 'cancellation']

Nothing else of batchpipe registers it, so that importing batchpipe changes no other library.
"""

from __future__ import annotations

from typing import Any

import polars

from batchpipe.api.annotate import annotate


@polars.api.register_dataframe_namespace("llm")
class FrameAnswers:
    """What ``df.llm`` has."""

    def __init__(self, frame: polars.DataFrame) -> None:
        self._frame = frame

    def annotate(self, **options: Any) -> polars.DataFrame:
        """The frame with a column of answers; see `batchpipe.annotate`."""
        return annotate(self._frame, **options)


@polars.api.register_lazyframe_namespace("llm")
class LazyFrameAnswers:
    """The same of a lazy frame, which is collected for it."""

    def __init__(self, frame: polars.LazyFrame) -> None:
        self._frame = frame

    def annotate(self, **options: Any) -> polars.LazyFrame:
        """The frame with a column of answers; see `batchpipe.annotate`."""
        return annotate(self._frame, **options)
