"""What the fused kernels are tuned to, for each architecture and head size.

An entry whose ``measured`` is `GUESS` has never been timed. It was chosen by the compiler's own
report (Triton 3.9, bfloat16, no GPU needed): at most a few registers spill, and shared memory
suffices by half.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

GUESS = "unmeasured guess"


@dataclass(frozen=True, slots=True)
class Tile:
    """One shape of a kernel's inner loop."""

    rows: int  # queries times the heads of a group
    keys: int  # loaded at a time
    warps: int
    stages: int  # blocks of keys on their way at once

    def taller(self, group: int) -> Tile:
        """The same with room for at least one query of so many heads."""
        return replace(self, rows=max(self.rows, 1 << (group - 1).bit_length()))


@dataclass(frozen=True, slots=True)
class Tuning:
    """What is chosen for one architecture and head size."""

    prefill: Tile  # chunks
    single: Tile  # decode without sharing, one query a tile
    low: Tile  # shared decode: reads of one query or few; runs with the warps of `tall`
    tall: Tile  # shared decode: reads of many
    programs_per_processor: int  # contexts are split until there are so many
    least_chunk: int = 8  # tokens from which on a chunk is prefilled in tiles of its own
    least_sharing: float = 1.5  # queries per key, on average, from which on shared decode pays
    least_split_keys: int = 256  # a part is at least so long
    measured: str = GUESS  # or where and how


# The largest head that an entry serves, for 2-byte elements.
# 64 x 64 split tiles for heads of 128 spill on Hopper, 64 x 32 do not; 128 rows for heads of 256
# spill 700 times in prefill, 64 rows 6 times.
TUNED: dict[str, dict[int, Tuning]] = {
    "sm_90": {
        64: Tuning(
            prefill=Tile(128, 64, warps=8, stages=3),
            single=Tile(16, 64, warps=4, stages=4),
            low=Tile(16, 64, warps=4, stages=3),
            tall=Tile(64, 64, warps=4, stages=3),
            programs_per_processor=4,
        ),
        128: Tuning(
            prefill=Tile(128, 64, warps=8, stages=3),
            single=Tile(16, 64, warps=4, stages=3),
            low=Tile(16, 32, warps=4, stages=3),
            tall=Tile(64, 32, warps=4, stages=3),
            programs_per_processor=4,
        ),
        256: Tuning(
            prefill=Tile(64, 32, warps=8, stages=2),
            single=Tile(16, 32, warps=4, stages=3),
            low=Tile(16, 32, warps=8, stages=2),
            tall=Tile(64, 32, warps=8, stages=2),
            programs_per_processor=2,
        ),
    },
    "sm_80": {
        64: Tuning(
            prefill=Tile(128, 64, warps=8, stages=3),
            single=Tile(16, 64, warps=4, stages=3),
            low=Tile(16, 64, warps=4, stages=3),
            tall=Tile(64, 64, warps=4, stages=3),
            programs_per_processor=4,
        ),
        128: Tuning(
            prefill=Tile(128, 32, warps=8, stages=3),
            single=Tile(16, 32, warps=4, stages=3),
            low=Tile(16, 32, warps=4, stages=2),
            tall=Tile(64, 32, warps=4, stages=2),
            programs_per_processor=4,
        ),
        256: Tuning(
            prefill=Tile(32, 32, warps=4, stages=2),
            single=Tile(16, 32, warps=4, stages=2),
            low=Tile(16, 16, warps=4, stages=2),
            tall=Tile(32, 16, warps=4, stages=2),
            programs_per_processor=2,
        ),
    },
}
LARGEST_HEAD = 256


def tuning_for(capability: tuple[int, int], head_dim: int, dtype: torch.dtype) -> Tuning:
    """The entry of the newest architecture that is not newer than the device.

    Four-byte elements take half as many keys at a time, at most 32 rows and two stages: without
    matrix units in float32, sums are kept in registers and spill first.
    """
    assert head_dim <= LARGEST_HEAD, f"heads of {head_dim} are above {LARGEST_HEAD}"
    architecture = "sm_90" if capability >= (9, 0) else "sm_80"
    sizes = TUNED[architecture]
    tuning = sizes[min(size for size in sizes if head_dim <= size)]
    if dtype.itemsize <= 2:
        return tuning
    return replace(
        tuning,
        prefill=_for_four_bytes(tuning.prefill),
        single=_for_four_bytes(tuning.single),
        low=_for_four_bytes(tuning.low),
        tall=_for_four_bytes(tuning.tall),
    )


def _for_four_bytes(tile: Tile) -> Tile:
    rows, keys = min(tile.rows, 32), max(16, tile.keys // 2)
    return Tile(rows, keys, warps=8, stages=2)
