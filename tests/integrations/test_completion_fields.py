"""A sampling is written as each kind of server understands it."""

from __future__ import annotations

import pytest

from batchpipe.integrations.completion_fields import DIALECTS, UNKNOWN
from batchpipe.planner.request import Constraint, ConstraintKind, Sampling

GREEDY = {"max_tokens": 256, "temperature": 0.0}


def test_an_unknown_server_is_told_no_more_than_was_asked() -> None:
    assert UNKNOWN.fields(Sampling(), None) == {**GREEDY, "extra_body": {}}
    asked = UNKNOWN.fields(Sampling(ignore_eos=True, stop_token_ids=(3, 4)), None)
    assert asked["extra_body"] == {"ignore_eos": True, "stop_token_ids": [3, 4]}


def test_a_known_server_is_left_no_default_of_its_own() -> None:
    fields = DIALECTS["vllm"].fields(Sampling(temperature=0.5), 7)
    assert (fields["top_p"], fields["seed"]) == (1.0, 7)
    assert fields["extra_body"] == {
        "top_k": -1,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "stop_token_ids": [],
        "ignore_eos": False,
    }


def test_llama_cpp_has_names_of_its_own() -> None:
    fields = DIALECTS["llamacpp"].fields(Sampling(temperature=0.5, repetition_penalty=1.2), 7)
    assert fields["extra_body"] == {
        "top_k": 0,
        "min_p": 0.0,
        "repeat_penalty": 1.2,
        "ignore_eos": False,
    }


@pytest.mark.parametrize(
    ("kind", "text", "asked"),
    [
        ("choices", '["a", "b"]', {"choice": ["a", "b"]}),
        ("schema", '{"type": "boolean"}', {"json": {"type": "boolean"}}),
        ("regex", "a+", {"regex": "a+"}),
        ("grammar", 'root ::= "a"', {"grammar": 'root ::= "a"'}),
    ],
)
def test_a_form_goes_to_vllm_and_to_no_other(
    kind: ConstraintKind, text: str, asked: dict[str, object]
) -> None:
    sampling = Sampling(constraint=Constraint(kind, text))
    fields = DIALECTS["vllm"].fields(sampling, None)
    assert fields["extra_body"]["structured_outputs"] == asked
    assert DIALECTS["vllm"].lacks(sampling) == []
    for dialect in (UNKNOWN, DIALECTS["llamacpp"], DIALECTS["sglang"]):
        assert dialect.lacks(sampling) == [kind]


@pytest.mark.parametrize(
    ("sampling", "lacked"),
    [
        (Sampling(), []),
        (Sampling(stop_token_ids=(1,), ignore_eos=True), ["stop_token_ids", "ignore_eos"]),
        (Sampling(top_k=3), []),  # of no meaning to a greedy answer
        (Sampling(top_k=3, temperature=1.0), []),
    ],
)
def test_what_a_server_has_no_word_for_is_known(sampling: Sampling, lacked: list[str]) -> None:
    assert DIALECTS["me"].lacks(sampling) == lacked
    assert DIALECTS["vllm"].lacks(sampling) == []
    assert UNKNOWN.lacks(sampling) == []
