"""Votes and margins: ModelSwitch's own numbers, and what must hold for any samples."""

from __future__ import annotations

import math
import random
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchpipe.workflow.operators.votes import (
    agreement,
    answer_in,
    consistency,
    is_settled,
    is_sure,
    likeliest,
    verdict,
)

ANSWERS = st.sampled_from([*"abc", None])
SAMPLES = st.lists(ANSWERS, min_size=1, max_size=8)
MODELS = st.lists(SAMPLES, min_size=1, max_size=3).map(
    lambda rounds: dict(zip(["small", "large", "huge"], rounds, strict=False))
)


@pytest.mark.parametrize(
    ("answers", "weight"),
    [
        ("aaaaa", 1.0),
        ("aaaab", 0.2 + 0.8 * (1 - 0.7219280948873623)),  # 0.422
        ("aaabb", 0.2 + 0.8 * (1 - 0.9709505944546686)),
        ("abcde", 0.2),
        ("aabb", 0.25),
        ("aaab", 0.25 + 0.75 * (1 - 0.8112781244591328)),
        ("a", 1.0),
    ],
)
def test_modelswitch_weights_are_its_authors(answers: str, weight: float) -> None:
    assert consistency(list(answers)) == pytest.approx(weight, rel=1e-12)


def test_the_documented_weight_to_three_digits() -> None:
    assert round(consistency(list("aaaab")), 3) == 0.422


@given(SAMPLES)
def test_a_weight_is_between_one_sample_and_all(answers: list[str | None]) -> None:
    weight = consistency(answers)
    assert 1 / len(answers) - 1e-12 <= weight <= 1
    assert (weight > 1 - 1e-12) == (len(set(answers)) == 1)
    random.Random(0).shuffle(answers)
    assert consistency(answers) == pytest.approx(weight, rel=1e-12)


@given(MODELS)
def test_the_majority_is_a_plain_count(samples: dict[str, list[str | None]]) -> None:
    pooled = Counter(answer for answers in samples.values() for answer in answers)
    del pooled[None]
    found = verdict(samples)
    if not pooled:
        assert found is None
        return
    assert found is not None
    assert pooled[found.output] == max(pooled.values())
    assert dict(found.votes) == dict(pooled)
    assert found.share == pytest.approx(
        Fraction(pooled[found.output], sum(map(len, samples.values())))
    )


@given(MODELS)
def test_modelswitch_scores_are_weighted_counts(samples: dict[str, list[str | None]]) -> None:
    found = verdict(samples, "modelswitch")
    scores: dict[str, float] = {}
    for answers in samples.values():
        for answer in answers:
            if answer is not None:
                scores[answer] = scores.get(answer, 0.0) + consistency(answers)
    if not scores:
        assert found is None
        return
    assert found is not None
    assert scores[found.output] == pytest.approx(max(scores.values()), rel=1e-9)


def test_a_consistent_model_outvotes_a_torn_one() -> None:
    samples = {"small": list("aaabb"), "large": list("bbbbb")}
    found = verdict(samples, "modelswitch")
    assert found is not None
    assert found.output == "b"
    # 3 torn samples for a weigh less than one consistent model's 2 for b
    samples = {"small": list("aaabc"), "large": list("bb")}
    majority, weighed = verdict(samples), verdict(samples, "modelswitch")
    assert majority is not None
    assert weighed is not None
    assert (majority.output, weighed.output) == ("a", "b")


def test_ties_go_to_the_earlier_model_and_then_to_the_earlier_sample() -> None:
    for weights in ("majority", "modelswitch"):
        tie = verdict({"small": list("bb"), "large": list("aa")}, weights)
        assert tie is not None
        assert tie.output == "b"
        inner = verdict({"small": list("cab")}, weights)
        assert inner is not None
        assert inner.output == "c"
    mostly_first = verdict({"small": list("abb"), "large": list("aab")})
    assert mostly_first is not None
    assert mostly_first.output == "b"


def test_a_verdict_names_the_votes_the_share_and_the_last_model() -> None:
    found = verdict({"small": ["a", "b", None], "large": ["b", "b", "c"]})
    assert found is not None
    assert (found.output, found.share, found.model) == ("b", 0.5, "large")
    assert list(found.votes.items()) == [("b", 3), ("a", 1), ("c", 1)]


def test_a_sample_without_an_answer_is_no_agreement() -> None:
    assert agreement(["a", None, None, None]) == 0.25
    assert agreement([None]) == 0.0
    assert verdict({"small": [None, None]}) is None


@pytest.mark.parametrize(
    ("answers", "least", "settled"),
    [("aaaab", 0.8, True), ("aaabb", 0.8, False), ("aaaaa", 1.0, True), ("aaaab", 1.0, False)],
)
def test_samples_are_settled_from_the_asked_share_on(
    answers: str, least: float, settled: bool
) -> None:
    assert is_settled(list(answers), least) is settled


@given(st.integers(1, 50), st.data())
def test_a_share_is_reached_whatever_its_fraction(total: int, drawn: st.DataObject) -> None:
    count = drawn.draw(st.integers(1, total))
    answers: list[str | None] = ["a"] * count + [None] * (total - count)
    assert is_settled(answers, count / total)
    assert not is_settled(answers, (count + 1) / total)


@pytest.mark.parametrize(
    ("pattern", "answer"),
    [
        (None, "So: 42 apples.\nAnswer: 42"),
        (r"Answer: (\d+)", "42"),
        (r"\d+ apples", "42 apples"),
        (r"(?:pears|apples)(.)", "."),
        (r"answer: (\d+)", None),
        (r"(?i)answer: (\d+)", "42"),
        (r"So|Answer: (\d+)", None),
    ],
)
def test_what_is_compared_is_what_the_pattern_finds(
    pattern: str | None, answer: str | None
) -> None:
    assert answer_in(" So: 42 apples.\nAnswer: 42\n", pattern) == answer


def test_a_margin_is_the_likeliest_less_the_second() -> None:
    assert likeliest({"no": 0.25, "yes": 0.5, "maybe": 0.25}) == ("yes", 0.25)
    assert likeliest({"no": 0.5, "yes": 0.5}) == ("no", 0.0)
    assert likeliest({"only": 1.0}) == ("only", 1.0)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=5))
def test_a_margin_does_not_depend_on_the_order(shares: list[float]) -> None:
    probabilities = {str(index): share for index, share in enumerate(shares)}
    best, margin = likeliest(probabilities)
    top, second = sorted(shares, reverse=True)[:2]
    assert probabilities[best] == top
    assert math.isclose(margin, top - second)
    assert is_sure(margin, margin)
    assert not is_sure(margin, margin + 0.01)
