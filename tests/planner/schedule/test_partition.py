"""How much of the KV memory the back of an order may take, and how soon."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from batchpipe.planner.schedule.partition import Partition
from batchpipe.planner.schedule.segment import Segment, Sequence

NOBODY = np.empty(0, dtype=np.int32)


def sequence(end_blocks: int, *, left: bool) -> Sequence:
    found = Sequence(0, 1, Segment(-1, 0, 0, NOBODY), left=left)
    found.end_blocks = end_blocks
    return found


def limit(
    partition: Partition,
    *,
    clock: int = 0,
    lifetime: int = 100,
    end_blocks: int = 1,
    density: float = 1.27,
    ends: tuple[float, float] = (3.73, 0.096),
) -> int:
    return partition.limit(clock, lifetime, end_blocks, density, ends)


def test_memory_is_divided_as_in_blendserves_example() -> None:
    """60 GB at densities 3.73, 0.096 and 1.27: 19.38 GB for the front and 40.62 for the back."""
    assert limit(Partition(60_000, 1)) in (40_616, 40_617)


def test_memory_that_the_front_uses_is_kept_free_no_more() -> None:
    partition = Partition(60_000, 1)
    front = sequence(10_000, left=True)
    partition.admitted(front, 0)
    assert limit(partition) in (50_616, 50_617)
    partition.admitted(sequence(12_000, left=True), 0)
    assert limit(partition) == 60_000
    partition.ended(front)
    assert limit(partition) in (52_616, 52_617)


def test_ends_of_one_density_share_everything() -> None:
    assert limit(Partition(600, 1), density=0.5, ends=(0.5, 0.5)) == 600


def test_rest_that_is_as_thin_as_the_back_leaves_it_everything() -> None:
    assert limit(Partition(600, 1), density=0.05) == 600


def test_rest_that_is_as_dense_as_the_front_leaves_the_back_nothing() -> None:
    assert limit(Partition(600, 1), density=4.0) == 0


densities = st.floats(0, 100)


@given(densities, densities, densities, st.integers(0, 500), st.integers(1, 3))
def test_limit_is_within_the_memory(
    density: float, one: float, other: float, used: int, waves: int
) -> None:
    partition = Partition(600, waves)
    partition.admitted(sequence(used, left=True), 0)
    ends = (max(one, other), min(one, other))
    assert 0 <= limit(partition, density=density, ends=ends) <= 600


def test_back_begins_only_so_much_within_a_wave() -> None:
    """Two waves in 90 blocks: 60 begin in the first half of a lifetime, 60 in the second."""
    partition, thin = Partition(90, 2), (1.0, 0.0)
    for _ in range(6):
        assert limit(partition, end_blocks=10, density=0.0, ends=thin) == 90
        partition.admitted(sequence(10, left=False), 0)
    assert limit(partition, clock=49, end_blocks=10, density=0.0, ends=thin) == 0
    assert limit(partition, clock=50, end_blocks=10, density=0.0, ends=thin) == 90


def test_one_sequence_begins_however_large_it_is() -> None:
    assert limit(Partition(90, 3), end_blocks=80, density=0.0) == 90


@given(
    st.integers(1, 3),
    st.lists(st.tuples(st.integers(0, 30), st.integers(1, 40)), max_size=60),
)
def test_waves_begin_at_most_their_share(waves: int, arrivals: list[tuple[int, int]]) -> None:
    """In any part of a lifetime at most ``2 M_R / (waves + 1)`` begin, or one sequence alone."""
    partition, lifetime, clock = Partition(100, waves), 120, 0
    begun: list[tuple[int, int]] = []
    for pause, blocks in arrivals:
        clock += pause
        asked = limit(
            partition, clock=clock, lifetime=lifetime, end_blocks=blocks, density=0.0, ends=(1, 0)
        )
        if asked:
            partition.admitted(sequence(blocks, left=False), clock)
            begun.append((clock, blocks))
            recent = [b for at, b in begun if at + lifetime / waves > clock]
            assert sum(recent) <= 2 * 100 / (waves + 1) or len(recent) == 1
