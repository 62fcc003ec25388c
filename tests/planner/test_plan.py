"""Plans: every row finds its prompt and its way of drawing, and the tree explains itself."""

from __future__ import annotations

import numpy as np
import pytest
from golden import check_golden
from hypothesis import given
from hypothesis import strategies as st

from batchpipe.planner.explain import WIDEST_NODES, explain_tree
from batchpipe.planner.lengths import FIRST_GUESS_TOKENS
from batchpipe.planner.order import ORDERS
from batchpipe.planner.plan import Plan
from batchpipe.planner.planning import make_plan
from batchpipe.planner.request import Prompts, Sampling

SAMPLINGS = (
    Sampling(),
    Sampling(max_tokens=5),
    Sampling(max_tokens=5, n=3),
    Sampling(temperature=0.8),
    Sampling(temperature=0.8, n=2),
    Sampling(temperature=0.8, seed=1),
    Sampling(temperature=0.8, seed=1, n=3),
)

Asked = list[tuple[list[int], Sampling]]

token_rows = st.lists(st.integers(0, 2), min_size=1, max_size=5)
asked_rows = st.lists(st.tuples(token_rows, st.sampled_from(SAMPLINGS)), max_size=14)


def plan_of(asked: Asked, order: str = "planned") -> Plan:
    return make_plan(Prompts.pack([ids for ids, _ in asked]), [s for _, s in asked], order=order)


def distinct_tokens(asked: Asked) -> int:
    return len({tuple(ids[:end]) for ids, _ in asked for end in range(1, len(ids) + 1)})


@given(asked_rows)
def test_every_row_finds_its_prompt_and_sampling(asked: Asked) -> None:
    plan = plan_of(asked)
    assert plan.rows == len(asked)
    for row, (ids, sampling) in enumerate(asked):
        first = int(plan.first_prompt[row])
        for sample in range(sampling.n):
            assert plan.prompts[first + sample].tolist() == ids
            assert plan.samplings[first + sample] == sampling
            assert plan.sample[first + sample] == sample
            named_after = int(plan.first_row[first + sample])
            assert named_after == row or (
                sampling.deterministic and asked[named_after] == (ids, sampling)
            )


@given(asked_rows)
def test_every_prompt_answers_some_row_and_none_is_asked_twice(asked: Asked) -> None:
    plan = plan_of(asked)
    answered = [
        first + sample
        for first in sorted(set(plan.first_prompt.tolist()))
        for sample in range(plan.samplings[first].n)
    ]
    assert answered == list(range(len(plan.prompts))) == sorted(plan.order.prompts.tolist())
    drawn_once = {(tuple(ids), s) for ids, s in asked if s.deterministic}
    drawn_each = [s for _, s in asked if not s.deterministic]
    expected = sum(s.n for _, s in drawn_once) + sum(s.n for s in drawn_each)
    assert len(plan.prompts) == len(plan.samplings) == expected
    assert plan.duplicates == len(asked) - len(drawn_once) - len(drawn_each)


@given(asked_rows)
def test_shareable_tokens_are_all_but_the_distinct_ones(asked: Asked) -> None:
    plan = plan_of(asked)
    assert plan.row_prompt_tokens == sum(len(ids) for ids, _ in asked)
    assert plan.shareable_prompt_tokens == plan.row_prompt_tokens - distinct_tokens(asked)


@given(asked_rows)
def test_rank_is_the_place_in_the_tree(asked: Asked) -> None:
    plan = plan_of(asked)
    assert plan.tree.order[plan.rank_of].tolist() == list(range(len(plan.prompts)))


@given(asked_rows, st.sampled_from(sorted(ORDERS)))
def test_plan_is_the_same_for_the_same_rows(asked: Asked, order: str) -> None:
    one, again = plan_of(asked, order), plan_of(asked, order)
    np.testing.assert_array_equal(one.order.prompts, again.order.prompts)
    np.testing.assert_array_equal(one.first_prompt, again.first_prompt)
    assert one.order_name == order


def test_samples_of_a_row_lie_side_by_side_and_share_all_but_the_last_token() -> None:
    plan = plan_of([([7, 8, 9], Sampling(temperature=1.0, n=3)), ([5], Sampling())])
    assert plan.first_prompt.tolist() == [0, 3]
    assert plan.sample.tolist() == [0, 1, 2, 0]
    assert plan.first_row.tolist() == [0, 0, 0, 1]
    assert plan.tree.computed_tokens == 2 + 3 + 1


def test_row_equal_in_tokens_but_not_in_sampling_is_asked_on_its_own() -> None:
    plan = plan_of([([1, 2], Sampling()), ([1, 2], Sampling(max_tokens=5)), ([1, 2], Sampling())])
    assert plan.first_prompt.tolist() == [0, 1, 0]
    assert plan.duplicates == 1


def test_length_is_exact_only_where_nothing_but_the_limit_ends_an_answer() -> None:
    ends = [
        Sampling(ignore_eos=True),
        Sampling(),
        Sampling(ignore_eos=True, stop=("\n",)),
        Sampling(ignore_eos=True, stop_token_ids=(3,)),
    ]
    plan = plan_of([([1], sampling) for sampling in ends])
    assert [plan.exact_length(index) for index in range(4)] == [True, False, False, False]


def test_expected_output_is_the_limit_where_eos_is_ignored_and_a_guess_elsewhere() -> None:
    long = 10 * FIRST_GUESS_TOKENS
    samplings = [Sampling(max_tokens=long, ignore_eos=True), Sampling(max_tokens=long)]
    samplings += [Sampling(max_tokens=3)]
    plan = plan_of([([row], sampling) for row, sampling in enumerate(samplings)])
    assert plan.output_tokens.tolist() == [long, FIRST_GUESS_TOKENS, 3]


def test_unknown_order_is_no_plan() -> None:
    with pytest.raises(KeyError, match="fastest"):
        plan_of([([1], Sampling())], order="fastest")


def test_no_rows_make_an_empty_plan() -> None:
    plan = plan_of([])
    assert (plan.rows, plan.duplicates, plan.shareable_prompt_tokens) == (0, 0, 0)
    assert len(plan.order.prompts) == len(plan.prompts) == 0


# ---- the printed tree ----------------------------------------------------------------------

REVIEWS = [
    "You label reviews. Text: the room was cold. Question: is it good?",
    "You label reviews. Text: the room was cold. Question: is it long?",
    "You label reviews. Text: breakfast was late. Question: is it good?",
    "You label reviews. Text: breakfast was late. Question: is it long?",
    "You label reviews. Text: breakfast was late. Question: is it long?",
    "You translate. Text: the room was cold.",
    "You translate. Text: breakfast was late.",
    "What is the capital of France?",
]


def explained(texts: list[str], samplings: list[Sampling] | None = None) -> str:
    """The tree of these texts, where every character is a token."""
    rows = [[ord(character) for character in text] for text in texts]
    plan = make_plan(Prompts.pack(rows), samplings or [Sampling()] * len(rows))

    def excerpt(prompt: int, start: int, end: int) -> str:
        return repr("".join(map(chr, plan.prompts[prompt][start:end])))

    return explain_tree(plan, excerpt)


def test_explained_tree_shows_who_shares_what() -> None:
    check_golden("reviews", explained(REVIEWS))


def test_explained_samples_share_their_prompt() -> None:
    drawn = Sampling(temperature=1.0, n=4)
    check_golden("samples", explained(["Name a colour.", "Name a city."], [drawn, drawn]))


def test_explained_tree_names_what_it_hides() -> None:
    texts = [
        f"{letter * (10 + place)}{end}"
        for place, letter in enumerate("abcdefghijklmno")
        for end in "12"
    ]
    assert len("abcdefghijklmno") > WIDEST_NODES
    check_golden("many-groups", explained(texts))


def test_explained_strangers_share_nothing() -> None:
    check_golden("strangers", explained(["one", "two"]))


def test_explained_plan_of_nothing_is_empty() -> None:
    assert explained([]) == "0 prompts"


@given(asked_rows)
def test_explained_savings_add_up(asked: Asked) -> None:
    plan = plan_of(asked)
    text = explain_tree(plan, lambda prompt, start, end: "")
    saved = [
        int(line.split("saves ")[1].split(":")[0]) for line in text.splitlines()[1:] if ":" in line
    ]
    saved += [int(line.split("save ")[1]) for line in text.splitlines() if line.startswith("and ")]
    tree = plan.tree
    assert sum(saved) == tree.prompt_tokens - tree.computed_tokens
