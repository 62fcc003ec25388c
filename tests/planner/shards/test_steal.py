"""Boards and thefts: nothing lost, nothing twice, whatever happens to workers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_jobs import Jobs, mixed_job
from small_shards import after_event, every_job, grove, shards_on, work_for

from batchpipe.planner.shards.assign import Division, divide
from batchpipe.planner.shards.board import (
    MOST_FAILURES,
    Board,
    begin,
    died,
    failed,
    finished,
    joined,
)
from batchpipe.planner.shards.cut import Shard
from batchpipe.planner.shards.simulate import simulate
from batchpipe.planner.shards.steal import next_shard
from batchpipe.planner.shards.work import Work

events = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4), st.floats(0, 50)), max_size=60)


def assert_every_prompt_once(board: Board) -> None:
    ranks = sorted(rank for s in shards_on(board) for rank in range(*s.ranks))
    assert ranks == list(range(len(board.work)))


def own(work: Work, first: int, last: int, second: int = -1) -> Shard:
    return Shard(first, last, work.seconds.of(first, last), second)


@settings(max_examples=200)
@given(every_job, events)
def test_every_prompt_is_in_one_place_after_any_events(
    job: Jobs, events: list[tuple[int, int, float]]
) -> None:
    board = Board.of(divide(work_for(job), 5, 3))
    for event in events:
        before = {shard.ranks for shard in board.done}
        board = after_event(board, *event)
        assert before <= {shard.ranks for shard in board.done}
        assert_every_prompt_once(board)
        assert all(shard.failures < MOST_FAILURES for shard in board.returned)
        assert all(state.is_alive or not state.begun for state in board.workers)


@settings(max_examples=60)
@given(
    every_job,
    st.integers(1, 6),
    st.lists(st.floats(0.2, 3), min_size=6, max_size=6),
    st.lists(st.tuples(st.floats(0, 500), st.integers(1, 5)), max_size=4),
)
def test_runs_with_deaths_do_everything_once(
    job: Jobs, workers: int, speeds: list[float], deaths: list[tuple[float, int]]
) -> None:
    """Worker 0 lives, so all is done, or given up by those that died over it."""
    division = divide(work_for(job), workers)
    deaths = [(seconds, worker) for seconds, worker in deaths if worker < workers]
    board = simulate(division, speeds=speeds[:workers], deaths=deaths).board
    assert board.is_over
    assert_every_prompt_once(board)
    assert sum(shard.failures for shard in shards_on(board)) <= len(deaths) * len(job)


@given(every_job, st.integers(1, 6))
def test_equal_workers_end_when_the_division_says_or_sooner(job: Jobs, workers: int) -> None:
    division = divide(work_for(job), workers)
    run = simulate(division)
    # What goes first for its weight may part neighbours, which share at most what crosses them.
    assert run.makespan_seconds <= division.makespan_seconds + division.work.crossing_seconds.sum()
    assert sum(run.busy_seconds) == pytest.approx(
        run.makespan_seconds * workers * (1 - run.idle_share), rel=1e-9
    )


@pytest.mark.parametrize("seed", range(20))
def test_stealing_evens_out_speeds(seed: int) -> None:
    """So it is in these mixtures; where one worker is slow at the very end it may take longer."""
    speeds = np.random.default_rng(seed).uniform(0.5, 2, 4).tolist()
    work = work_for(mixed_job(seed, 800))
    run = simulate(divide(work, 4), speeds=speeds)
    bound = max(work.total_seconds / sum(speeds), work.longest_seconds / min(speeds))
    assert run.makespan_seconds <= 1.2 * bound
    assert run.duplicated_tokens <= 0.05 * work.tree.computed_tokens


def test_an_idle_worker_takes_first_what_names_it_as_second() -> None:
    work = work_for(grove(trees=3, prefix_tokens=10, prompts=20))
    queues = ((), (own(work, 0, 20, second=0),), (own(work, 20, 60, second=1),))
    taken = next_shard(Board.of(Division(work, queues)), 0)
    assert taken is not None
    assert (taken.owner, taken.is_stolen) == (1, True)


def test_without_such_an_idle_worker_takes_from_who_has_most_left() -> None:
    work = work_for(grove(trees=3, prefix_tokens=10, prompts=20))
    queues = ((), (own(work, 0, 20, second=2),), (own(work, 20, 60, second=1),))
    taken = next_shard(Board.of(Division(work, queues)), 0)
    assert taken is not None
    assert taken.owner == 2


def test_a_theft_that_computes_more_again_than_it_wins_is_left() -> None:
    work = work_for(grove(trees=1, prefix_tokens=5_000, prompts=20, tail_tokens=5))
    board = Board.of(Division(work, ((own(work, 0, 10), own(work, 10, 20)), ())))
    first = next_shard(board, 0)
    assert first is not None
    assert next_shard(begin(board, first), 1) is None


def test_a_shard_not_begun_is_taken_in_part() -> None:
    work = work_for(grove(trees=1, prefix_tokens=10, prompts=100))
    board = Board.of(Division(work, ((own(work, 0, 100),), ())))
    taken = next_shard(board, 1)
    assert taken is not None
    assert 0 < taken.shard.last - taken.shard.first < 100
    board = begin(board, taken)
    assert_every_prompt_once(board)
    assert board.workers[0].waiting


def test_a_worker_that_died_gives_its_shards_back() -> None:
    board = Board.of(divide(work_for(grove(trees=4, prefix_tokens=10, prompts=20)), 2))
    taken = next_shard(board, 0)
    assert taken is not None
    board = died(begin(board, taken), 0)
    assert next_shard(board, 0) is None
    assert {shard.failures for shard in board.returned} == {0, 1}
    assert_every_prompt_once(board)
    assert next_shard(joined(board, 0), 0) is not None


def test_late_word_of_a_dead_worker_changes_nothing() -> None:
    board = Board.of(divide(work_for(grove(trees=4, prefix_tokens=10, prompts=20)), 2))
    taken = next_shard(board, 0)
    assert taken is not None
    board = died(begin(board, taken), 0)
    assert finished(board, 0, taken.shard) is board
    assert failed(board, 0, taken.shard) is board
    assert died(board, 0) is board


def test_a_shard_that_failed_three_times_is_given_up() -> None:
    board = Board.of(divide(work_for(grove(trees=1, prefix_tokens=10, prompts=1)), 1))
    for worker in range(MOST_FAILURES):
        assert not board.given_up
        taken = next_shard(board, worker)
        assert taken is not None
        board = joined(died(begin(board, taken), worker), worker + 1)
    assert board.is_over
    assert [shard.ranks for shard in board.given_up] == [(0, 1)]


def test_a_worker_slower_than_it_seemed_is_helped() -> None:
    work = work_for(grove(trees=4, prefix_tokens=10, prompts=50))
    division = divide(work, 2)
    run = simulate(division, speeds=(1.0, 0.1))
    assert run.stolen_shards > 0
    assert run.makespan_seconds < 1.2 * work.total_seconds / 1.1
