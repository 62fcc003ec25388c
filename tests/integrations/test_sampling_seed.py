"""An answer's seed is the row's own, or that of its name in the run."""

from __future__ import annotations

from batchpipe.integrations.sampling_seed import seed_of
from batchpipe.planner.request import Sampling

DRAWN = Sampling(temperature=1.0)
OWN = Sampling(temperature=1.0, seed=11)


def seed(sampling: Sampling, request_id: str = "a", sample: int = 0, run_seed: int = 0) -> int:
    found = seed_of(sampling, run_seed=run_seed, request_id=request_id, sample=sample)
    assert found is not None
    assert 0 <= found < 2**31
    return found


def test_a_greedy_answer_has_no_seed() -> None:
    assert seed_of(Sampling(seed=3), run_seed=0, request_id="a", sample=0) is None


def test_a_rows_own_seed_is_its_seed_in_any_run() -> None:
    assert seed(OWN) == 11
    assert seed(OWN, "b", 1, run_seed=5) == seed(OWN, "a", 1)


def test_rows_samples_and_runs_draw_from_different_seeds() -> None:
    seeds = [seed(DRAWN), seed(DRAWN, "b"), seed(DRAWN, sample=1), seed(DRAWN, run_seed=1)]
    assert len({*seeds, seed(OWN, sample=1)}) == 5
    assert seed(DRAWN) == seeds[0]
