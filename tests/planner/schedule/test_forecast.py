"""The kept forecast against time played forward step by step, and against its formula."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from batchpipe.planner.kv_ledger import BLOCK_TOKENS, blocks_for
from batchpipe.planner.schedule.forecast import Forecast

# A small tree: node -> (parent, blocks). Paths share roots and inner nodes.
TREE = {1: (0, 3), 2: (1, 1), 3: (1, 5), 4: (3, 2), 5: (0, 4), 6: (5, 7)}

Path = tuple[tuple[int, int], ...]


def path_to(node: int) -> Path:
    """The nodes from the root to this one, with their blocks; none for node 0."""
    if not node:
        return ()
    parent, blocks = TREE[node]
    return (*path_to(parent), (node, blocks))


@dataclass(frozen=True)
class Entry:
    held: int
    end: int
    added: int
    path: Path


paths = st.sampled_from((0, *TREE)).map(path_to)
helds = st.integers(0, 4 * BLOCK_TOKENS)
# Few different lengths, so that many ends are equal.
lengths = st.one_of(st.integers(1, 4), st.sampled_from((BLOCK_TOKENS, 2 * BLOCK_TOKENS, 45)))
tails = st.builds(lambda held, left, path: Entry(held, left, 0, path), helds, lengths, paths)


def entries_at(tails: list[Entry]) -> dict[int, Entry]:
    return dict(enumerate(tails))


def forecast_of(entries: dict[int, Entry]) -> Forecast:
    forecast = Forecast()
    for key, entry in entries.items():
        forecast.add(key, entry.held, entry.end, entry.added, entry.path)
    return forecast


def blocks_at(entries: list[Entry], instant: int) -> int:
    """Blocks of the sequences that have not ended before this instant, and of what they read."""
    alive = [entry for entry in entries if entry.end >= instant]
    nodes = {pair for entry in alive for pair in entry.path}
    own = sum(blocks_for(entry.held + instant - entry.added) for entry in alive)
    return own + sum(blocks for _, blocks in nodes)


def peak_step_by_step(entries: list[Entry], clock: int) -> int:
    latest = max((entry.end for entry in entries), default=clock)
    return max(blocks_at(entries, instant) for instant in range(clock, latest + 1))


def bound_of(entries: list[Entry]) -> int:
    """Each sequence at its own end, with every node that anyone reads."""
    nodes = {pair for entry in entries for pair in entry.path}
    own = sum(blocks_for(entry.held + entry.end - entry.added) for entry in entries)
    return own + sum(blocks for _, blocks in nodes)


def peak_by_formula(entries: list[Entry]) -> int:
    """M* as it is written, for sequences that were all added at clock 0."""
    longest_first = sorted(entries, key=lambda entry: -entry.end)
    peak = 0
    for k, last in enumerate(longest_first, start=1):
        own = sum(blocks_for(entry.held + last.end) for entry in longest_first[:k])
        nodes = {pair for entry in longest_first[:k] for pair in entry.path}
        peak = max(peak, own + sum(blocks for _, blocks in nodes))
    return peak


class ForecastAgainstTime(RuleBasedStateMachine):
    """Sequences come, go, outlive their estimate; a list of them is played forward each time."""

    def __init__(self) -> None:
        super().__init__()
        self.forecast = Forecast()
        self.entries: dict[int, Entry] = {}
        self.clock = 0

    def add_now(self, key: int, held: int, left: int, path: Path) -> None:
        self.forecast.add(key, held, self.clock + left, self.clock, path)
        self.entries[key] = Entry(held, self.clock + left, self.clock, path)

    @rule(key=st.integers(-3, 12), held=helds, left=lengths, path=paths)
    def add(self, key: int, held: int, left: int, path: Path) -> None:
        """A key that ran before may come back, with another path and another end."""
        if key not in self.entries:
            self.add_now(key, held, left, path)

    @precondition(lambda self: self.entries)
    @rule(choice=st.integers(0, 15))
    def remove(self, choice: int) -> None:
        key = sorted(self.entries)[choice % len(self.entries)]
        self.forecast.remove(key)
        del self.entries[key]

    @rule(steps=st.integers(1, 20), goes_on=st.booleans(), left=lengths)
    def let_time_pass(self, steps: int, goes_on: bool, left: int) -> None:
        self.clock += steps
        overdue = self.forecast.overdue(self.clock)
        late = [key for key, entry in self.entries.items() if entry.end <= self.clock]
        assert sorted(overdue) == sorted(late)
        ends = [self.entries[key].end for key in overdue]
        assert ends == sorted(ends)
        for key in overdue:
            # Others are still overdue here, so terms of instants gone by are written and unwritten.
            self.forecast.remove(key)
            entry = self.entries.pop(key)
            if goes_on:
                held = entry.held + self.clock - entry.added
                self.add_now(key, held, left, entry.path)

    @rule(steps=st.integers(0, 45))
    def wait_for_the_first_end(self, steps: int) -> None:
        """The clock may stand at an end: what ends now is still there."""
        first = min((entry.end for entry in self.entries.values()), default=self.clock)
        self.clock = min(first, self.clock + steps)

    @rule(held=helds, left=lengths, path=paths)
    def ask(self, held: int, left: int, path: Path) -> None:
        candidate = Entry(held, self.clock + left, self.clock, path)
        asked = self.forecast.peak_with(held, candidate.end, self.clock, path)
        assert asked == peak_step_by_step([*self.entries.values(), candidate], self.clock)
        bound = self.forecast.bound_with(held, candidate.end, self.clock, path)
        assert asked <= bound == bound_of([*self.entries.values(), candidate])
        added = copy.deepcopy(self.forecast)
        added.add(99, held, candidate.end, self.clock, path)
        assert added.peak() == asked
        added.remove(99)
        assert added.peak() == self.forecast.peak()

    @invariant()
    def peak_is_that_of_time_played_forward(self) -> None:
        assert len(self.forecast) == len(self.entries)
        assert self.forecast.peak() == peak_step_by_step(list(self.entries.values()), self.clock)


TestForecastAgainstTime = ForecastAgainstTime.TestCase
TestForecastAgainstTime.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


@given(st.lists(tails, max_size=9))
@example([Entry(0, 1, 0, ())])
@example([Entry(15, 1, 0, path_to(2)), Entry(15, 1, 0, path_to(2)), Entry(16, 40, 0, path_to(4))])
def test_peak_is_the_formula(tails: list[Entry]) -> None:
    assert forecast_of(entries_at(tails)).peak() == peak_by_formula(tails)


@given(st.lists(tails, min_size=1, max_size=9), st.randoms(use_true_random=False))
def test_peak_does_not_depend_on_the_order_of_arrival_and_leaving(
    tails: list[Entry], random: object
) -> None:
    keys = list(range(len(tails)))
    random.shuffle(keys)  # type: ignore[attr-defined]
    forecast = forecast_of({key: tails[key] for key in keys})
    assert forecast.peak() == forecast_of(entries_at(tails)).peak()
    random.shuffle(keys)  # type: ignore[attr-defined]
    for place, key in enumerate(keys, start=1):
        forecast.remove(key)
        assert forecast.peak() == peak_by_formula([tails[left] for left in keys[place:]])


@given(st.lists(tails, max_size=9), tails)
def test_asking_changes_nothing(tails: list[Entry], candidate: Entry) -> None:
    forecast = forecast_of(entries_at(tails))
    peak = forecast.peak()
    asked = [forecast.peak_with(candidate.held, candidate.end, 0, candidate.path) for _ in "12"]
    assert asked[0] == asked[1] >= peak == forecast.peak()


@given(st.lists(tails, max_size=9), st.integers(0, 8))
def test_shorter_answers_never_need_more(tails: list[Entry], fewer: int) -> None:
    shorter = [Entry(t.held, max(1, t.end - fewer), 0, t.path) for t in tails]
    assert forecast_of(entries_at(shorter)).peak() <= forecast_of(entries_at(tails)).peak()


def test_nothing_running_needs_nothing() -> None:
    forecast = Forecast()
    assert (len(forecast), forecast.peak(), forecast.overdue(10)) == (0, 0, [])
    assert forecast.peak_with(0, 1, 0, ()) == forecast.bound_with(0, 1, 0, ()) == 1


def test_sequences_that_end_in_turn_never_stand_at_their_ends_together() -> None:
    forecast = Forecast()
    forecast.add(1, BLOCK_TOKENS * 4, 1, 0, ())
    assert forecast.peak_with(0, BLOCK_TOKENS * 4, 0, ()) == 6  # 5 and 1 together, not 5 and 4
    assert forecast.bound_with(0, BLOCK_TOKENS * 4, 0, ()) == 9


def test_a_shared_node_is_counted_once_and_until_its_last_reader_ends() -> None:
    forecast = Forecast()
    forecast.add(1, 0, 16, 0, [(7, 10)])
    forecast.add(2, 0, 32, 0, [(7, 10)])
    assert forecast.peak() == 12  # 1 + 1 + 10 at 16, 2 + 10 at 32
    forecast.add(3, 0, 160, 0, [])
    assert forecast.peak() == 14  # 1 + 1 + 1 + 10, 2 + 2 + 10, then 10 without the node
    forecast.remove(2)
    assert forecast.peak() == 12  # the node goes idle at 16
    forecast.remove(1)
    assert forecast.peak() == 10


def test_a_node_stays_for_a_candidate_that_ends_a_step_after_its_readers() -> None:
    forecast = Forecast()
    forecast.add(1, 0, 16, 0, [(7, 10)])
    forecast.add(2, 0, 17, 0, [])
    assert forecast.peak_with(64, 17, 0, [(7, 10)]) == 18  # 1 + 1 + 5 + 10 at 16, 2 + 6 + 10 at 17


def test_ends_that_passed_are_overdue_in_their_order() -> None:
    forecast = Forecast()
    for key, end in ((5, 30), (6, 10), (7, 20), (8, 10)):
        forecast.add(key, 1, end, 0, ())
    assert forecast.overdue(9) == []
    assert forecast.overdue(10) == [6, 8]
    assert forecast.overdue(20) == [6, 8, 7]


def test_more_sequences_than_the_first_table_has_room_for() -> None:
    entries = {
        key: Entry(key % 23, 1 + key * 7 % 50, 0, path_to(key % (len(TREE) + 1)))
        for key in range(300)
    }
    forecast = forecast_of(entries)
    assert forecast.peak() == peak_by_formula(list(entries.values()))
    for key in range(0, 300, 2):
        forecast.remove(key)
        del entries[key]
    assert forecast.peak() == peak_by_formula(list(entries.values()))


def test_broken_use_is_refused() -> None:
    forecast = Forecast()
    with pytest.raises(AssertionError, match="cannot end at 5 when it is 5"):
        forecast.add(1, 0, 5, 5, ())
    forecast.add(1, 0, 6, 5, [(3, 2)])
    with pytest.raises(AssertionError, match="sequence 1 runs already"):
        forecast.add(1, 0, 6, 5, ())
    with pytest.raises(AssertionError, match="node 3: 2 blocks, now 4"):
        forecast.add(2, 0, 6, 5, [(3, 4)])
    with pytest.raises(AssertionError, match="end 6 is overdue at 7"):
        forecast.peak_with(0, 8, 7, ())
    assert (len(forecast), forecast.peak()) == (1, 3)
