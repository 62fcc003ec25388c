"""What cannot be planned is refused in one sentence with the fix: exit 2, nothing written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from harness import Ran, call, files_in, write_lines, write_parquet

from batchpipe.config import parse_bytes, written_bytes
from batchpipe.planner.machine.machines import MACHINES


@pytest.fixture
def job(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "job.jsonl", [{"prompt": "The order"}, {"prompt": "is late"}])


def refused(ran: Ran, *words: str) -> None:
    assert ran.code == 2, ran.err
    assert ran.out == ""
    for word in words:
        assert word in ran.sentence, ran.err


def test_an_unknown_machine_is_told_which_there_are(job: Path, bare_model: Path) -> None:
    ran = call("plan", job, "-m", bare_model, "--machine", "h900")
    refused(ran, "'h900'", "a100-80g, l4", ".json file")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ("cannot be read",)),
        ("{", ("is no JSON", "mend it")),
        ("[]", ("is no JSON object",)),
        ('{"name": "x"}', ("the machine lacks 'memory_bytes'",)),
        (
            json.dumps(MACHINES["l4"].as_fields() | {"matmul_flops": -1}),
            ("matmul_flops is -1", "write a number"),
        ),
    ],
)
def test_a_bad_profile_is_named(
    job: Path, bare_model: Path, content: str | None, words: tuple[str, ...]
) -> None:
    profile = job.parent / "node.json"
    if content is not None:
        profile.write_text(content)
    refused(call("plan", job, "-m", bare_model, "--machine", profile), "node.json", *words)


@pytest.mark.parametrize("price", ["0", "-1", "nan", "inf"])
@pytest.mark.parametrize("command", [("plan",), ("run", "-o", "answers.jsonl")])
def test_a_price_must_be_more_than_nothing(
    job: Path, bare_model: Path, price: str, command: tuple[str, ...]
) -> None:
    ran = call(*command, job, "-m", bare_model, "--price-per-hour", price)
    refused(ran, f"--price-per-hour {price}", "more than 0")


def test_memory_that_holds_no_block_is_refused(job: Path, bare_model: Path) -> None:
    ran = call("plan", job, "-m", bare_model, "--kv-memory", "8000")
    refused(ran, "--kv-memory of 8000 bytes", "8192 bytes", "give more")


def test_weights_beyond_the_machine_are_refused(job: Path, bare_model: Path) -> None:
    profile = job.parent / "tiny.json"
    profile.write_text(json.dumps(MACHINES["l4"].as_fields() | {"memory_bytes": 1000}))
    ran = call("plan", job, "-m", bare_model, "--machine", profile)
    refused(ran, "choose a larger machine or a smaller model")


def test_a_row_beyond_the_memory_says_how_much_it_needs(job: Path, bare_model: Path) -> None:
    options = ("-m", bare_model, "--max-tokens", 60, "--json")
    faults = call("plan", job, *options, "--kv-memory", "17KB").summary["faults"]
    why = faults["0"]
    assert "and --kv-memory holds 32; give --kv-memory" in why
    assert "or lower max_tokens" in why
    enough = why.partition("give --kv-memory ")[2].split()[0]
    assert call("plan", job, *options, "--kv-memory", enough).summary["faults"] == {}
    needed_tokens = int(why.partition("answer need ")[2].split()[0])
    assert parse_bytes(enough) - needed_tokens * 512 < 100


@pytest.mark.parametrize("amount", [1, 999, 1000, 1001, 98_304, 1_299_999_999, 10**9, 7 * 10**12])
def test_written_bytes_are_read_as_as_much_or_a_little_more(amount: int) -> None:
    assert amount <= parse_bytes(written_bytes(amount)) <= amount * 1.1


def test_a_plan_of_another_ending_is_refused(job: Path, bare_model: Path) -> None:
    ran = call("plan", job, "-m", bare_model, "-o", job.parent / "plan.json")
    refused(ran, "plan.json", "must end in .parquet")


def test_a_plan_in_no_directory_is_refused(job: Path, bare_model: Path) -> None:
    ran = call("plan", job, "-m", bare_model, "-o", job.parent / "none" / "plan.parquet")
    refused(ran, "does not exist; make it")


def test_a_plan_replaces_nothing_but_a_plan(tmp_path: Path, bare_model: Path) -> None:
    job = write_parquet(tmp_path / "job.parquet", [{"prompt": "The order"}])
    refused(call("plan", job, "-m", bare_model, "-o", job), "it is the input")
    results = write_parquet(tmp_path / "results.parquet", [{"output": "dear"}])
    broken = tmp_path / "broken.parquet"
    broken.write_text("no parquet")
    for path in (results, broken):
        before = path.read_bytes()
        refused(call("plan", job, "-m", bare_model, "-o", path), path.name, "is no plan")
        assert path.read_bytes() == before
    assert files_in(tmp_path) == {"job.parquet", "results.parquet", "broken.parquet"}


def test_steps_of_no_tokens_are_wrong_usage(job: Path, bare_model: Path) -> None:
    refused(call("plan", job, "-m", bare_model, "--step-tokens", 0), "--step-tokens", "0")
