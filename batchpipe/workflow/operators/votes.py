"""Which of several answers counts: majority, ModelSwitch's weights, a cascade's margin.

ModelSwitch asks the next model only where the samples of those before disagree, and weighs each
model's samples by how far they agree among themselves (its authors' ``Analyze.py``; the prior
weight of a model, W_beta, is 1 as published).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log2

# A sample's answer, None where the pattern finds none in its text.
Answer = str | None

WEIGHTS = ("majority", "modelswitch")
NEARLY_EQUAL = 1e-9  # shares and scores are sums of floats


@dataclass(frozen=True, slots=True)
class Verdict:
    """What samples of one or several models say together."""

    output: str
    share: float  # of all weighted samples, those without an answer included
    votes: Mapping[str, int]  # samples by answer, the winner first
    model: str  # the last that was asked


def answer_in(text: str, pattern: str | None) -> Answer:
    """What of a sample is compared: the pattern's first group where it is first found, stripped.

    Without a group it is all that the pattern finds, without a pattern the whole text.
    """
    if pattern is None:
        return text.strip()
    found = re.search(pattern, text)
    if found is None:
        return None
    answer: Answer = found[1] if found.re.groups else found[0]
    return answer.strip() if answer is not None else None


def agreement(answers: Sequence[Answer]) -> float:
    """The share of the samples that give the commonest answer."""
    counts = Counter(answer for answer in answers if answer is not None)
    return max(counts.values(), default=0) / len(answers)


def is_settled(answers: Sequence[Answer], least_agreement: float) -> bool:
    """True where these samples of one model agree enough to ask no further one."""
    return agreement(answers) >= least_agreement - NEARLY_EQUAL


def consistency(answers: Sequence[Answer]) -> float:
    """ModelSwitch's W_alpha of one model's samples: 1 where all agree, 1/n where none prevails.

    With n samples, H the entropy of their answers in bits and H_max that of as many equally common
    ones, it is 1/n + (1 - 1/n)(1 - H / H_max). Samples without an answer count as one answer more.
    """
    counts, total = Counter(answers), len(answers)
    if len(counts) == 1:
        return 1.0
    entropy = -sum(count / total * log2(count / total) for count in counts.values())
    least = 1 / total
    return least + (1 - least) * (1 - entropy / log2(len(counts)))


def verdict(samples: Mapping[str, Sequence[Answer]], weights: str = "majority") -> Verdict | None:
    """The answer with the most votes of all models, named in the order in which they were asked.

    Of answers with equal votes it is the one that has more of the first model's, then of the
    second's and so on, then the one that came first. None where no sample has an answer.
    """
    assert weights in WEIGHTS, weights
    weight = {
        model: consistency(answers) if weights == "modelswitch" else 1.0
        for model, answers in samples.items()
    }
    counts = {model: Counter(answers) for model, answers in samples.items()}
    seen = dict.fromkeys(answer for answers in samples.values() for answer in answers)
    scores = {
        answer: sum(weight[model] * counts[model][answer] for model in samples)
        for answer in seen
        if answer is not None
    }
    if not scores:
        return None

    def rank(answer: str) -> tuple[float, ...]:
        near = round(scores[answer] / NEARLY_EQUAL) * NEARLY_EQUAL
        return (near, *(counts[model][answer] for model in samples))

    ranked = sorted(scores, key=rank, reverse=True)  # stable: of equals the one seen first
    everything = sum(weight[model] * len(answers) for model, answers in samples.items())
    return Verdict(
        output=ranked[0],
        share=scores[ranked[0]] / everything,
        votes={answer: sum(counts[model][answer] for model in samples) for answer in ranked},
        model=list(samples)[-1],
    )


def likeliest(probabilities: Mapping[str, float]) -> tuple[str, float]:
    """The likeliest choice, the first of equals, and its margin: what it has over the second."""
    best = max(probabilities, key=probabilities.__getitem__)
    others = [share for choice, share in probabilities.items() if choice != best]
    return best, probabilities[best] - max(others, default=0.0)


def is_sure(margin: float, least_margin: float) -> bool:
    """True where a cascade asks no further model."""
    return margin >= least_margin
