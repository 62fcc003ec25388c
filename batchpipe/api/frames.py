"""Dataframes of three libraries as one: columns out as Arrow, new columns in, the same kind back.

No library is imported here: whoever has a dataframe has loaded its library.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol

import pyarrow as pa

from batchpipe.errors import ConfigError
from batchpipe.rows.words import listed, one_line


class Frame(Protocol):
    """A dataframe of any library."""

    @property
    def names(self) -> tuple[object, ...]:
        """Its columns, in order."""

    def __len__(self) -> int: ...

    def column(self, name: str) -> pa.Array | pa.ChunkedArray:
        """One column; what stands for a missing value there is null."""

    def with_columns(self, added: pa.Table) -> Any:
        """The same kind of dataframe with these columns behind its own, which are as they were."""


def frame_of(given: object) -> Frame:
    """The dataframe, whichever library's it is.

    Raises:
        TypeError: it is none
    """
    if isinstance(given, pa.Table):
        return ArrowFrame(given)
    polars, pandas = sys.modules.get("polars"), sys.modules.get("pandas")
    if polars is not None and isinstance(given, polars.LazyFrame):
        return PolarsFrame(polars, given.collect(), lazy=True)
    if polars is not None and isinstance(given, polars.DataFrame):
        return PolarsFrame(polars, given, lazy=False)
    if pandas is not None and isinstance(given, pandas.DataFrame):
        return PandasFrame(given)
    raise TypeError(
        f"{type(given).__name__} is no dataframe that batchpipe knows; give one of polars or "
        f"pandas, or a pyarrow.Table"
    )


def columns_of(frame: Frame, names: Sequence[str]) -> pa.Table:
    """These columns as a table.

    Raises:
        ConfigError: one is not there, is there twice, or holds what no column of a file can
    """
    arrays = []
    for name in names:
        times = sum(1 for each in frame.names if isinstance(each, str) and each == name)
        if times != 1:
            raise ConfigError(
                f"the dataframe has {times or 'no'} column{'s' * (times > 1)} {name!r}; its "
                f"columns are {listed(map(str, frame.names))}"
            )
        try:
            arrays.append(frame.column(name))
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            raise ConfigError(
                f"column {name!r} cannot be read, for its values are of several kinds or of an "
                f"unknown one ({one_line(str(error))}); make them text, numbers, lists or dicts"
            ) from error
    if not names:  # a table knows its rows by its columns
        return pa.table({"row": pa.nulls(len(frame))})
    return pa.table(arrays, names=list(names))


@dataclass(frozen=True, slots=True, eq=False)
class ArrowFrame:
    """A table of Arrow's."""

    table: pa.Table

    @property
    def names(self) -> tuple[object, ...]:
        """Its columns, in order."""
        return tuple(self.table.column_names)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def column(self, name: str) -> pa.ChunkedArray:
        """One column."""
        return self.table.column(name)

    def with_columns(self, added: pa.Table) -> pa.Table:
        """A table with these columns behind its own."""
        table = self.table
        for name in added.column_names:
            table = table.append_column(name, added.column(name))
        return table


@dataclass(frozen=True, slots=True, eq=False)
class PolarsFrame:
    """A frame of polars'; a lazy one was collected, and is lazy again when it goes back."""

    polars: ModuleType
    frame: Any  # polars.DataFrame
    lazy: bool

    @property
    def names(self) -> tuple[object, ...]:
        """Its columns, in order."""
        return tuple(self.frame.columns)

    def __len__(self) -> int:
        return int(self.frame.height)

    def column(self, name: str) -> pa.Array:
        """One column, in a form of strings that all of Arrow knows."""
        return self.frame.get_column(name).to_arrow(compat_level=self.polars.CompatLevel.oldest())

    def with_columns(self, added: pa.Table) -> Any:
        """A frame with these columns behind its own."""
        whole = self.frame.hstack(self.polars.from_arrow(added))
        return whole.lazy() if self.lazy else whole


@dataclass(frozen=True, slots=True, eq=False)
class PandasFrame:
    """A frame of pandas', with whatever index."""

    frame: Any  # pandas.DataFrame

    @property
    def names(self) -> tuple[object, ...]:
        """Its columns, in order."""
        return tuple(self.frame.columns)

    def __len__(self) -> int:
        return len(self.frame)

    def column(self, name: str) -> pa.Array | pa.ChunkedArray:
        """One column; NaN, NaT, NA and None are null."""
        return pa.array(self.frame[name], from_pandas=True)

    def with_columns(self, added: pa.Table) -> Any:
        """A frame with these columns behind its own, and the same index."""
        whole = self.frame.assign()  # a copy, which shares what does not change
        levels = self.frame.columns.nlevels
        for name in added.column_names:
            key = name if levels == 1 else (name, *[""] * (levels - 1))
            # A plain array: a series would be aligned by an index of its own.
            whole[key] = added.column(name).to_pandas().array
        return whole
