"""Options, rows and the model's own defaults: who decides how an answer is drawn."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import Ran, Row, call, read, write_lines

WARM = ("--temperature", 1, "--max-tokens", 6)


@pytest.fixture
def ask(tmp_path: Path, model: Path) -> Callable[..., list[Row]]:
    """The result rows of these job rows; the summary is in the last row's place of `ran`."""
    calls: list[Ran] = []

    def results(rows: list[Row], *options: object, model: Path = model) -> list[Row]:
        job = write_lines(tmp_path / f"job-{len(calls)}.jsonl", rows)
        out = tmp_path / f"answers-{len(calls)}.jsonl"
        calls.append(call("run", job, "-m", model, "-o", out, "--json", *options))
        assert calls[-1].code == 0, calls[-1].err
        return read(out)

    return results


Ask = Callable[..., list[Row]]


def named(names: str) -> list[Row]:
    return [{"request_id": name, "prompt": f"The parcel {name} arrived"} for name in names]


def by_name(rows: list[Row]) -> dict[str, str]:
    return {row["request_id"]: row["output"] for row in rows}


def test_the_same_seed_draws_the_same_in_any_order(ask: Ask) -> None:
    rows = named("abcdefghij")
    first = by_name(ask(rows, *WARM, "--seed", 4))
    shuffled = random.Random(1).sample(rows, len(rows))
    assert by_name(ask(shuffled, *WARM, "--seed", 4, "--order", "input")) == first
    assert by_name(ask(rows, *WARM, "--seed", 4, "--order", "dfs", "--step-tokens", 7)) == first
    assert by_name(ask(rows, *WARM, "--seed", 5)) != first


def test_the_id_column_names_the_draw(ask: Ask) -> None:
    rows = named("abcd")
    renamed = [{"key": row["request_id"], "prompt": row["prompt"]} for row in rows]
    answers = ask(renamed, *WARM, "--id-column", "key")
    assert [row["output"] for row in answers] == list(by_name(ask(rows, *WARM)).values())


def test_a_row_overrides_the_options(ask: Ask) -> None:
    prompt = {"prompt": "Please tell them", "ignore_eos": True}
    rows = ask(
        [
            prompt,
            prompt | {"max_tokens": 2},
            prompt | {"max_completion_tokens": 3},
            prompt | {"temperature": 2.0, "seed": 1},
            prompt | {"temperature": 2.0, "seed": 2},
            prompt | {"temperature": 2.0, "seed": 1},
            prompt | {"temperature": None, "max_tokens": None, "seed": None, "stop": None},
        ],
        "--max-tokens",
        8,
    )
    assert [row["completion_tokens"] for row in rows] == [8, 2, 3, 8, 8, 8, 8]
    outputs = [row["output"] for row in rows]
    assert outputs[0].startswith(outputs[1])
    assert outputs[3] == outputs[5]
    assert outputs[3] != outputs[4]
    assert outputs[6] == outputs[0]  # null takes the option


def test_a_stop_string_ends_the_answer_and_is_not_in_it(ask: Ask) -> None:
    prompts = [{"prompt": f"Question {row}"} for row in range(8)]
    free = ask(prompts, "--max-tokens", 12, "--ignore-eos")
    place, sign = next(
        (place, sign)
        for place, row in enumerate(free)
        for sign in row["output"][3:]
        if sign.isascii() and sign.isalpha()
    )
    prompts[place]["stop"] = sign
    [*_, stopped] = ask(prompts[: place + 1], "--max-tokens", 12, "--ignore-eos")
    assert stopped["output"] == free[place]["output"].partition(sign)[0]
    assert stopped["finish_reason"] == "stop"
    as_option = ask(prompts[: place + 1], "--max-tokens", 12, "--ignore-eos", "--stop", sign)
    assert as_option[place]["output"] == stopped["output"]


def test_several_samples_are_all_there(ask: Ask) -> None:
    prompt = {"prompt": "The refund goes to"}
    rows = ask([prompt | {"n": 3}, prompt], *WARM, "--ignore-eos", "--with-token-ids")
    assert len(rows[0]["outputs"]) == 3
    assert len(set(rows[0]["outputs"])) == 3
    assert rows[0]["output"] == rows[0]["outputs"][0]
    assert rows[0]["completion_tokens"] == 18
    assert len(rows[0]["output_token_ids"]) == 6
    assert rows[1]["outputs"] is None


def test_token_ids_are_the_answer(ask: Ask) -> None:
    [row] = ask([{"prompt": "The box"}], "--max-tokens", 5, "--ignore-eos", "--with-token-ids")
    assert len(row["output_token_ids"]) == row["completion_tokens"] == 5
    [row] = ask([{"prompt": "The box"}], "--max-tokens", 5)
    assert "output_token_ids" not in row


def test_duplicates_keep_their_multiplicity(ask: Ask) -> None:
    texts = ["The parcel", "Please", "The parcel", "The parcel"]
    rows = ask([{"prompt": text, "nr": nr} for nr, text in enumerate(texts)], "--max-tokens", 4)
    assert [row["nr"] for row in rows] == [0, 1, 2, 3]
    assert rows[0]["output"] == rows[2]["output"] == rows[3]["output"]
    assert [row["cached_tokens"] == row["prompt_tokens"] for row in rows] == [
        False,
        False,
        True,
        True,
    ]


def test_equal_sampled_rows_draw_each_for_itself(ask: Ask) -> None:
    rows = ask([{"prompt": "The parcel"}] * 4, *WARM, "--ignore-eos")
    assert len({row["output"] for row in rows}) > 1


def test_the_models_own_sampling_is_the_default(
    ask: Ask, model_that_says: Callable[..., Path]
) -> None:
    rows = named("abcdef")
    folder = model_that_says(do_sample=True, temperature=1.5, top_p=0.9)
    own = by_name(ask(rows, "--max-tokens", 6, model=folder))
    options = ("--temperature", 1.5, "--top-p", 0.9, "--top-k", 50, "--max-tokens", 6)
    assert own == by_name(ask(rows, *options))
    greedy = by_name(ask(rows, "--max-tokens", 6))
    assert own != greedy
    assert by_name(ask(rows, "--max-tokens", 6, "--temperature", 0, model=folder)) == greedy


def test_a_temperature_without_do_sample_is_none(
    ask: Ask, model_that_says: Callable[..., Path]
) -> None:
    rows = named("abc")
    greedy = ask(rows, "--max-tokens", 4, model=model_that_says(temperature=0.6, top_p=0.9))
    assert greedy == ask(rows, "--max-tokens", 4)


def test_every_eos_id_of_the_model_ends_an_answer(
    ask: Ask, model_that_says: Callable[..., Path]
) -> None:
    rows = [{"prompt": "Answer the question"}]
    [free] = ask(rows, "--max-tokens", 8, "--with-token-ids")
    ids = free["output_token_ids"]
    folder = model_that_says(eos_token_id=[382, ids[4]])
    [ended] = ask(rows, "--max-tokens", 8, "--with-token-ids", model=folder)
    assert ended["output_token_ids"] == ids[: ids.index(ids[4]) + 1]
    assert ended["finish_reason"] == "stop"
    [ignored] = ask(rows, "--max-tokens", 8, "--with-token-ids", "--ignore-eos", model=folder)
    assert ignored["output_token_ids"] == ids


def test_the_models_own_limit_counts_up_to_its_context(
    ask: Ask, model_that_says: Callable[..., Path]
) -> None:
    folder = model_that_says(max_new_tokens=2048)
    prompt = {"prompt_token_ids": [5] * 505, "ignore_eos": True}
    [row] = ask([prompt], model=folder)
    assert row["completion_tokens"] == 7
