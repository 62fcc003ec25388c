"""Sampling options: the same checks for the run and for every row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from row_jobs import cut_small, lines_of

from batchpipe.errors import ConfigError
from batchpipe.planner.request import Sampling
from batchpipe.rows.parameters import SamplingReader, check_overrides, check_sampling
from batchpipe.rows.source import Source, open_source

DEFAULTS = Sampling(max_tokens=9, temperature=0.5)


def sampled(
    source: Source, defaults: Sampling = DEFAULTS, overrides: dict[str, Any] | None = None
) -> list[Sampling | str]:
    """What all batches together say."""
    reader = SamplingReader(source.names, defaults, overrides)
    return [answer for rows in source.batches() for answer in reader.read(rows)]


def test_without_columns_every_row_has_the_defaults(tmp_path: Path) -> None:
    answers = sampled(lines_of(tmp_path, [{"prompt": "a"}] * 3))
    assert len(answers) == 3
    assert all(answer is DEFAULTS for answer in answers)


def test_rows_override_and_equal_rows_share_one_object(tmp_path: Path) -> None:
    rows = lines_of(
        tmp_path,
        [
            {"max_tokens": 3, "stop": "x"},
            {"max_tokens": 3.0, "stop": ["x"]},
            {"temperature": 1},
            {"temperature": None, "max_tokens": None},
            {"top_k": -1, "seed": 5, "ignore_eos": True, "stop_token_ids": [1, 2.0]},
            {"top_p": 0.5, "min_p": 0.1, "repetition_penalty": 1.2, "n": 2, "stop": []},
        ],
    )
    answers = sampled(rows)
    assert answers[0] == Sampling(max_tokens=3, temperature=0.5, stop=("x",))
    assert answers[1] is answers[0]
    assert answers[2] == Sampling(max_tokens=9, temperature=1.0)
    assert answers[3] is DEFAULTS
    assert answers[4] == Sampling(
        max_tokens=9, temperature=0.5, seed=5, ignore_eos=True, stop_token_ids=(1, 2)
    )
    assert answers[5] == Sampling(
        max_tokens=9, temperature=0.5, top_p=0.5, min_p=0.1, repetition_penalty=1.2, n=2
    )


def test_every_name_of_max_tokens_counts(tmp_path: Path) -> None:
    rows = lines_of(
        tmp_path,
        [
            {"max_new_tokens": 1},
            {"max_completion_tokens": 2},
            {"max_tokens": 3, "max_new_tokens": 4},
            {"max_tokens": None, "max_new_tokens": 4},
            {"max_new_tokens": 0},
        ],
    )
    answers = sampled(rows)
    assert [a if isinstance(a, str) else a.max_tokens for a in answers] == [
        1,
        2,
        3,
        4,
        "max_new_tokens is 0; it must be a whole number of 1 or more, or 0 beside prompt_logprobs",
    ]


def test_numbers_and_bools_are_not_mixed_up(tmp_path: Path) -> None:
    rows = lines_of(tmp_path, [{"max_tokens": 1}, {"max_tokens": True}, {"max_tokens": 1.0}])
    first, second, third = sampled(rows)
    assert isinstance(first, Sampling)
    assert isinstance(second, str)
    assert second.startswith("max_tokens is True; it must be a whole number of 1 or more")
    assert third is first


def test_arrow_columns_with_gaps(tmp_path: Path) -> None:
    table = pa.table(
        {
            "max_tokens": pa.array([5, None], pa.int16()),
            "temperature": pa.array([None, 0.25], pa.float32()),
            "stop": pa.array([["a"], None], pa.list_(pa.string())),
        }
    )
    pq.write_table(table, tmp_path / "jobs.parquet")
    assert sampled(open_source(str(tmp_path / "jobs.parquet"))) == [
        Sampling(max_tokens=5, temperature=0.5, stop=("a",)),
        Sampling(max_tokens=9, temperature=0.25),
    ]


WRONG = [
    ("max_tokens", 0, "max_tokens is 0; it must be a whole number of 1 or more"),
    ("max_tokens", -3, "max_tokens is -3; it must be"),
    ("max_tokens", 1.5, "max_tokens is 1.5; it must be"),
    ("max_tokens", "9", "max_tokens is '9'; it must be"),
    ("temperature", -0.1, "temperature is -0.1; it must be a number of 0 or more"),
    ("temperature", float("nan"), "temperature is nan; it must be"),
    ("temperature", float("inf"), "temperature is inf; it must be"),
    ("temperature", 10**400, "temperature is 1000"),
    ("temperature", "hot", "temperature is 'hot'; it must be"),
    ("temperature", True, "temperature is True; it must be"),
    ("top_p", 0, "top_p is 0; it must be a number above 0 and up to 1"),
    ("top_p", 1.01, "top_p is 1.01; it must be"),
    ("top_k", -2, "top_k is -2; it must be a whole number of 1 or more, or 0 or -1 for off"),
    ("min_p", -0.1, "min_p is -0.1; it must be a number from 0 to 1"),
    ("min_p", 2, "min_p is 2; it must be"),
    ("repetition_penalty", 0, "repetition_penalty is 0; it must be a number above 0"),
    ("n", 0, "n is 0; it must be a whole number of 1 or more"),
    ("seed", "x", "seed is 'x'; it must be a whole number of 64 bits"),
    ("seed", 2**63, "seed is 9223372036854775808; it must be"),
    ("stop", "", "stop is ''; it must be a text or a list of texts, none empty"),
    ("stop", ["a", ""], "stop is ['a', '']; it must be"),
    ("stop", 5, "stop is 5; it must be"),
    ("stop_token_ids", 5, "stop_token_ids is 5; it must be a list of token ids"),
    ("stop_token_ids", [-1], "stop_token_ids is [-1]; it must be"),
    ("stop_token_ids", ["a"], "stop_token_ids is ['a']; it must be"),
    ("ignore_eos", 1, "ignore_eos is 1; it must be true or false"),
    ("logprobs", -1, "logprobs is -1; it must be a whole number from 0, the token alone, to 20"),
    ("logprobs", 21, "logprobs is 21; it must be"),
    ("logprobs", True, "logprobs is True; it must be"),
    ("prompt_logprobs", 1.5, "prompt_logprobs is 1.5; it must be"),
]


@pytest.mark.parametrize(("column", "value", "sentence"), WRONG)
def test_a_value_out_of_range_is_named_with_the_range(
    tmp_path: Path, column: str, value: object, sentence: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        check_sampling(**{column: value})
    assert str(caught.value).startswith(sentence)
    good, bad = sampled(lines_of(tmp_path, [{}, {column: value}]))
    assert good is DEFAULTS
    assert isinstance(bad, str)
    assert bad.startswith(sentence)


def test_several_greedy_samples_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"n is 2 at temperature 0; all samples would be equal"):
        check_sampling(n=2, temperature=0)
    (answer,) = sampled(lines_of(tmp_path, [{"temperature": 0}]), Sampling(n=3, temperature=1))
    assert isinstance(answer, str)
    assert answer.startswith("n is 3 at temperature 0")


def test_the_edges_of_the_ranges_are_allowed() -> None:
    assert check_sampling() == Sampling()
    assert check_sampling(max_tokens=None, stop=None) == Sampling()
    assert check_sampling(top_k=-1, top_p=1, min_p=1, temperature=0, max_tokens=1) == Sampling(
        max_tokens=1, min_p=1.0
    )
    assert check_sampling(seed=-1, stop=("a", "b")) == Sampling(seed=-1, stop=("a", "b"))


def test_unknown_parameters_are_named() -> None:
    with pytest.raises(ConfigError, match=r"temprature is no sampling parameter; they are max_tok"):
        check_sampling(temprature=1)


def test_equal_rows_of_all_batches_share_one_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = lines_of(tmp_path, [{"max_tokens": n} for n in (3, 4, 3, 4, 3)])
    whole = sampled(source)
    cut_small(monkeypatch, rows=2)
    by_batches = sampled(source)
    assert by_batches == whole
    assert by_batches[0] is by_batches[2] is by_batches[4]
    assert by_batches[1] is by_batches[3]


def test_overrides_win_over_rows_and_defaults(tmp_path: Path) -> None:
    source = lines_of(
        tmp_path, [{"max_new_tokens": 3, "stop": "x"}, {"max_tokens": "bad"}, {"temperature": 1}]
    )
    assert sampled(source, overrides={"max_tokens": 4096.0}) == [
        Sampling(max_tokens=4096, temperature=0.5, stop=("x",)),
        Sampling(max_tokens=4096, temperature=0.5),
        Sampling(max_tokens=4096, temperature=1.0),
    ]
    assert sampled(source, overrides={"max_completion_tokens": 7, "stop": []})[0] == Sampling(
        max_tokens=7, temperature=0.5
    )
    assert sampled(source, overrides={}) == sampled(source)


def test_an_override_counts_where_no_row_has_a_column(tmp_path: Path) -> None:
    first, second = sampled(lines_of(tmp_path, [{"a": 1}, {"a": 2}]), overrides={"seed": 5})
    assert first == Sampling(max_tokens=9, temperature=0.5, seed=5)
    assert first is second


def test_overrides_that_no_row_can_have_are_refused(tmp_path: Path) -> None:
    source = lines_of(tmp_path, [{"a": 1}])
    with pytest.raises(ConfigError, match=r"n is 2 at temperature 0; all samples would be equal"):
        SamplingReader(source.names, DEFAULTS, {"n": 2, "temperature": 0})
    with pytest.raises(ConfigError, match=r"top_p is 7; it must be a number above 0 and up to 1"):
        SamplingReader(source.names, DEFAULTS, {"top_p": 7})
    source = lines_of(tmp_path, [{"temperature": 0}, {"temperature": 1}])
    bad, good = sampled(source, overrides={"n": 2})
    assert str(bad).startswith("n is 2 at temperature 0")
    assert good == Sampling(max_tokens=9, temperature=1.0, n=2)


@pytest.mark.parametrize(("column", "value", "sentence"), [*WRONG, ("seed", None, "seed is None;")])
def test_a_wrong_override_is_named_with_the_range(
    column: str, value: object, sentence: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        check_overrides({column: value})
    assert str(caught.value).startswith(sentence)


def test_an_override_has_one_known_name() -> None:
    check_overrides({"max_tokens": 4096, "temperature": 0})
    with pytest.raises(ConfigError, match=r"temprature is no sampling parameter; they are max_tok"):
        check_overrides({"temprature": 1})
    with pytest.raises(ConfigError, match=r"max_tokens and max_new_tokens are two names of one"):
        check_overrides({"max_tokens": 1, "max_new_tokens": 1})
