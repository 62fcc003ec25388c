"""Lists of prompts in, answers in order out: those of `model.generate` and of the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from harness import call, read, write_lines
from hypothesis import given
from hypothesis import strategies as st
from oracle import assert_same_tokens, greedy_reference, load_tokenizer

import batchpipe as bp
from batchpipe.api.llm import at_work
from batchpipe.job.prompt_list import prepare_list
from batchpipe.planner.request import Sampling

TEXTS = [
    "Question: which ticket is urgent? Answer:",
    "Question: which box was open? Answer:",
    "The refund goes to",
    "Question: which ticket is urgent? Answer:",
]
CHATS = [[{"role": "user", "content": text}] for text in TEXTS]


def test_greedy_answers_equal_generate_in_the_order_of_the_prompts(
    llm: bp.LLM, model: Path
) -> None:
    answers = llm.generate(TEXTS, bp.SamplingParams(max_tokens=12))
    prompts = load_tokenizer(str(model))(TEXTS)["input_ids"]
    assert [answer.prompt_token_ids for answer in answers] == prompts
    found = [answer.outputs[0].token_ids for answer in answers]
    assert_same_tokens(found, greedy_reference(model, prompts, 12))


@pytest.mark.parametrize("sampling", [{"max_tokens": 9}, {"max_tokens": 9, "temperature": 0.9}])
def test_answers_equal_those_of_the_command(
    llm: bp.LLM, model: Path, tmp_path: Path, sampling: dict[str, float]
) -> None:
    job = write_lines(tmp_path / "job.jsonl", ({"prompt": text} for text in TEXTS))
    options = [f"--{n.replace('_', '-')}={value}" for n, value in sampling.items()]
    call("run", job, "-m", model, "-o", tmp_path / "out.jsonl", *options)
    for answer, row in zip(
        llm.generate(TEXTS, bp.SamplingParams(**sampling)),
        read(tmp_path / "out.jsonl"),
        strict=True,
    ):
        for name in ("output", "status", "finish_reason", "error", "prompt_tokens"):
            assert getattr(answer, name) == row[name]
        assert answer.completion_tokens == row["completion_tokens"]


def test_chats_go_through_the_template_and_equal_the_command(
    llm: bp.LLM, model: Path, tmp_path: Path
) -> None:
    job = write_lines(tmp_path / "job.jsonl", ({"messages": chat} for chat in CHATS))
    call("run", job, "-m", model, "-o", tmp_path / "out.jsonl", "--max-tokens", 9)
    answers = llm.chat(CHATS, bp.SamplingParams(max_tokens=9))
    rows = read(tmp_path / "out.jsonl")
    assert [answer.output for answer in answers] == [row["output"] for row in rows]
    assert answers[2].prompt == "user: The refund goes to\nassistant: "
    [alone] = llm.chat(CHATS[2], bp.SamplingParams(max_tokens=9))
    assert alone.output == answers[2].output


def test_the_chat_template_is_given_its_options(llm: bp.LLM) -> None:
    [answer] = llm.chat(
        CHATS[0],
        bp.SamplingParams(max_tokens=1),
        chat_template_kwargs={"add_generation_prompt": False},
    )
    assert answer.prompt == f"user: {TEXTS[0]}\n"
    [answer] = llm.chat(CHATS[0], bp.SamplingParams(max_tokens=1))
    assert answer.prompt is not None
    assert answer.prompt.endswith("assistant: ")


def test_what_prompts_share_is_computed_once_and_equal_ones_are_one(llm: bp.LLM) -> None:
    answers = llm.generate(TEXTS, bp.SamplingParams(max_tokens=4))
    assert answers[3].cached_tokens == answers[3].num_cached_tokens == answers[3].prompt_tokens
    assert sum(answer.cached_tokens for answer in answers[:2]) == 4
    assert answers[0].output == answers[3].output


def test_names_that_vllm_has(llm: bp.LLM) -> None:
    [answer] = llm.generate("Answer:", bp.SamplingParams(max_tokens=3))
    [completion] = answer.outputs
    assert (answer.request_id, answer.prompt, answer.finished) == ("row-0", "Answer:", True)
    assert (completion.index, completion.text) == (0, answer.output)
    assert len(completion.token_ids) == answer.completion_tokens == 3
    assert completion.finish_reason == answer.finish_reason == "length"
    assert llm.tokenizer.decode(answer.prompt_token_ids) == "Answer:"


def test_all_forms_of_a_prompt_mean_the_same(llm: bp.LLM) -> None:
    ids = llm.tokenizer(TEXTS[0])["input_ids"]
    forms = [
        TEXTS[0],
        ids,
        tuple(ids),
        np.array(ids),
        {"prompt": TEXTS[0]},
        {"prompt_token_ids": ids},
        {"prompt": TEXTS[0], "prompt_token_ids": ids},
    ]
    answers = llm.generate(forms, bp.SamplingParams(max_tokens=6))
    assert len({answer.output for answer in answers}) == 1
    assert [answer.status for answer in answers] == ["success"] * len(forms)
    assert llm.generate(ids, bp.SamplingParams(max_tokens=6))[0].output == answers[0].output


def test_a_bad_prompt_is_one_error_among_answers(llm: bp.LLM) -> None:
    bad = ["", None, 3, [], [10**6], [-1], {"text": "hi"}, ["a"], "long " * 600, {"messages": []}]
    prompts = ["Answer:", *bad, "Answer:"]
    answers = llm.generate(prompts, bp.SamplingParams(max_tokens=3))
    assert [answer.request_id for answer in answers] == [f"row-{i}" for i in range(len(prompts))]
    assert answers[0].output == answers[-1].output is not None
    for answer in answers[1:-1]:
        assert (answer.status, answer.output, answer.finish_reason) == ("error", None, None)
        assert answer.error
        assert "--" not in answer.error
        [empty] = answer.outputs
        assert (empty.text, empty.token_ids, empty.finish_reason) == ("", (), "error")
    assert "it must be a text, token ids" in str(answers[3].error)
    assert "use on_too_long truncate-left" in str(answers[-3].error)


def test_a_chat_that_the_template_refuses_is_one_error(llm: bp.LLM) -> None:
    bad = [[], [{"role": "user"}], "no chat", [3]]
    answers = llm.chat([CHATS[0], *bad, CHATS[1]], bp.SamplingParams(max_tokens=2))
    assert [answer.status for answer in answers] == ["success", *["error"] * 4, "success"]


def test_each_prompt_may_have_its_own_parameters(llm: bp.LLM) -> None:
    params = [bp.SamplingParams(max_tokens=n) for n in (1, 2)]
    wrong = bp.SamplingParams(n=2, temperature=0.0)
    answers = llm.generate(TEXTS, [*params, None, wrong])
    assert [answer.completion_tokens for answer in answers[:2]] == [1, 2]
    assert answers[2].completion_tokens > 2
    assert answers[3].error == (
        "n is 2 at temperature 0; all samples would be equal: n must be 1 or the temperature "
        "above 0"
    )


def test_several_samples_differ_and_are_the_same_the_next_time(llm: bp.LLM) -> None:
    params = bp.SamplingParams(n=4, temperature=1.0, max_tokens=8)
    first, second = llm.generate(TEXTS[:1], params), llm.generate(TEXTS[:1], params)
    assert first == second
    assert [each.index for each in first[0].outputs] == [0, 1, 2, 3]
    assert len({each.text for each in first[0].outputs}) > 1
    assert first[0].completion_tokens == sum(len(each.token_ids) for each in first[0].outputs)


def test_stop_strings_and_tokens_end_an_answer(llm: bp.LLM) -> None:
    [plain] = llm.generate("Answer:", bp.SamplingParams(max_tokens=8, ignore_eos=True))
    token = plain.outputs[0].token_ids[2]
    [stopped] = llm.generate("Answer:", bp.SamplingParams(max_tokens=8, stop_token_ids=[token]))
    assert stopped.finish_reason == "stop"
    assert stopped.completion_tokens <= 3


def test_no_prompts_have_no_answers(llm: bp.LLM) -> None:
    assert llm.generate([]) == []
    assert llm.chat([]) == []


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        (bp.SamplingParams(n=2), "n is 2 at temperature 0"),
        ([bp.SamplingParams()] * 3, "there are 3 SamplingParams for 2 prompts"),
    ],
)
def test_parameters_that_are_wrong_for_all_are_refused(
    llm: bp.LLM, params: object, sentence: str
) -> None:
    with pytest.raises(bp.ConfigError, match=sentence):
        llm.generate(TEXTS[:2], params)


def test_what_are_no_parameters_and_no_prompts_are_type_errors(llm: bp.LLM) -> None:
    with pytest.raises(TypeError, match="not a SamplingParams"):
        llm.generate(TEXTS[:1], [{"max_tokens": 3}])
    with pytest.raises(TypeError, match="must be a list of prompts, not int"):
        llm.generate(3)
    with pytest.raises(TypeError, match="must be a chat or a list of chats, not str"):
        llm.chat("hello")
    with pytest.raises(TypeError, match="model must be a name or a directory, not NoneType"):
        bp.LLM(None)
    with pytest.raises(TypeError, match="progress must be True, False or a function"):
        llm.generate(TEXTS[:1], progress="yes")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"dtype": "float99"}, "dtype is 'float99'; it must be one of auto, float32"),
        ({"kv_memory": "much"}, "kv_memory 'much' is no amount of memory"),
        ({"step_tokens": 0}, "step_tokens is 0; it must be a whole number of 1 or more"),
        ({"device": "tpu"}, "device is 'tpu'"),
        ({"seed": 1.5}, "seed is 1.5; it must be a whole number"),
        ({"machine": "no-such"}, "no-such"),
    ],
)
def test_a_wrong_option_is_refused_before_the_model_loads(
    model: Path, options: dict[str, object], sentence: str
) -> None:
    with pytest.raises(bp.ConfigError, match=sentence) as refused:
        bp.LLM(model, **options)
    assert "--" not in str(refused.value)


def test_a_model_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(bp.ConfigError, match=r"config\.json"):
        bp.LLM(tmp_path)


def test_the_seed_names_the_draws(llm: bp.LLM, model: Path) -> None:
    params = bp.SamplingParams(temperature=1.0, max_tokens=8)
    with bp.LLM(model, seed=1, kv_memory="16MB") as other:
        drawn = other.generate(TEXTS, params)
    assert [each.output for each in drawn] != [each.output for each in llm.generate(TEXTS, params)]


def test_params_are_checked_when_they_are_made() -> None:
    with pytest.raises(bp.ConfigError, match="max_tokens is 0"):
        bp.SamplingParams(max_tokens=0)
    with pytest.raises(TypeError, match="presence"):
        bp.SamplingParams(presence=1)
    assert json.loads(json.dumps(bp.SamplingParams(top_k=5).given())) == {"top_k": 5}


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["prompt", "messages", "prompt_token_ids", "role", "content", "x"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)


@given(st.lists(JUNK, max_size=6))
def test_no_prompt_whatever_it_is_raises(llm: bp.LLM, prompts: list[object]) -> None:
    with at_work(llm) as loaded:
        samplings = [Sampling(max_tokens=1)] * len(prompts)
        made = prepare_list(prompts, samplings, loaded.language, on_too_long="error").job
    assert sorted([*made.faults, *made.runnable.tolist()]) == list(range(len(prompts)))
    assert len(made.prompts) == len(made.samplings) == len(made.request_ids) == len(made.runnable)
