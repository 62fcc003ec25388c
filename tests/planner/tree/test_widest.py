"""The widest nodes are those that save most, and nothing above them is missing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from small_jobs import jobs, tree_of

from batchpipe.planner.tree.widest import saved_tokens, widest_nodes


@given(jobs, st.integers(1, 6))
def test_the_widest_nodes_save_most_and_hang_together(
    job: list[tuple[list[int], int]], most: int
) -> None:
    tree = tree_of(job)
    saved = saved_tokens(tree)
    shown = widest_nodes(tree, most, least_share=0.0)
    assert sum(saved.tolist()) == tree.prompt_tokens - tree.computed_tokens
    assert [each.saved_tokens for each in shown] == [int(saved[each.node]) for each in shown]
    best = sorted(saved.tolist(), reverse=True)[:most]
    assert len(shown) >= len(best)
    kept = sorted((each.saved_tokens for each in shown), reverse=True)
    assert kept[: len(best)] >= best
    for number, each in enumerate(shown):
        assert each.above < number
        above = int(tree.parent[each.node])
        assert (shown[each.above].node if each.above >= 0 else -1) == above
        assert each.start == (int(tree.end[above]) if above >= 0 else 0)


@given(jobs)
def test_a_share_leaves_out_what_saves_less(job: list[tuple[list[int], int]]) -> None:
    tree = tree_of(job)
    total = int(saved_tokens(tree).sum())
    shown = widest_nodes(tree, 100, least_share=0.5)
    leaves = {each.above for each in shown}
    for number, each in enumerate(shown):
        if number not in leaves:
            assert 2 * each.saved_tokens >= total
