"""What a run that was begun before has left to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True, eq=False)
class Remaining:
    """Which rows of a run that was begun before still need an answer, and how they are asked."""

    wanted: npt.NDArray[np.bool_]  # [rows]
    repair: npt.NDArray[np.int32]  # index into overrides  # [rows]
    overrides: tuple[Mapping[str, object], ...]  # sampling parameters, none of them first

    @classmethod
    def everything(cls, rows: int) -> Remaining:
        """Nothing was answered before."""
        return cls(np.ones(rows, dtype=np.bool_), np.zeros(rows, dtype=np.int32), ({},))
