"""`--engine openai` against a real server: the same answers, the same durability."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch  # noqa: F401  # a run through a server hides it where it is not loaded
from harness import Row, call, ended, read, spawn, write_lines
from openai_server import BAD_WORD, SECRET, Running, serving, spawned

from batchpipe.demo.prompt import MODEL_DIR, load_tickets, messages
from batchpipe.integrations import openai as openai_package
from batchpipe.planner.plan_file import read_plan_order
from batchpipe.rows.source import read_rows

ROWS = 6
TOKENS = 32


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    """Tickets, all with one long beginning."""
    return [{"messages": messages(ticket.text)} for ticket in load_tickets()[:ROWS]]


@pytest.fixture
def job(tmp_path: Path, rows: list[Row]) -> Path:
    return write_lines(tmp_path / "job.jsonl", rows)


@pytest.fixture(scope="module")
def own_answers(tmp_path_factory: pytest.TempPathFactory, rows: list[Row]) -> list[Row]:
    """What our own engine says, in float32."""
    folder = tmp_path_factory.mktemp("own")
    job, out = write_lines(folder / "job.jsonl", rows), folder / "answers.jsonl"
    ran = call("run", job, "-m", MODEL_DIR, "-o", out, "--dtype", "float32", *LIMIT)
    assert ran.code == 0, ran.err
    return read(out)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is gone is not asked for half a minute."""
    monkeypatch.setattr(openai_package, "RETRIES", 2)


@pytest.fixture
def server() -> Iterator[Running]:
    with serving() as running:
        yield running


LIMIT = ("--max-tokens", TOKENS)


def command(job: Path, url: str, *more: object) -> list[object]:
    out = job.parent / "answers.jsonl"
    asked = ("--engine", "openai", "--base-url", url)
    return ["run", job, "-m", MODEL_DIR, "-o", out, *asked, *LIMIT, *more]


def answers(job: Path) -> list[Row]:
    return read(job.parent / "answers.jsonl")


def said(rows: list[Row]) -> list[tuple[Any, ...]]:
    names = ("output", "status", "finish_reason", "prompt_tokens", "completion_tokens")
    return [tuple(row[name] for name in names) for row in rows]


def test_a_server_answers_as_our_own_engine(
    job: Path, server: Running, own_answers: list[Row]
) -> None:
    ran = call(*command(job, server.url, "--json"))
    assert ran.code == 0, ran.err
    assert said(answers(job)) == said(own_answers)
    assert (ran.summary["engine"], ran.summary["served_model"]) == ("openai", "demo")
    assert ran.summary["device"] == server.url


def test_prompts_arrive_in_planned_order_one_at_a_time(job: Path, server: Running) -> None:
    assert call(*command(job, server.url, "--concurrency", 1)).code == 0
    place_of = read_plan_order(job.parent / "answers.jsonl.run" / "plan.parquet").tolist()
    lengths = [row["prompt_tokens"] for row in answers(job)]
    assert [len(body["prompt"]) for body in server.behaviour.asked] == [
        lengths[row] for row in place_of
    ]
    assert server.behaviour.at_once == 1


def test_the_first_of_a_prefix_is_waited_for(job: Path, server: Running) -> None:
    server.behaviour.seconds = 0.2
    assert call(*command(job, server.url)).code == 0
    assert server.behaviour.events[:2] == ["came", "went"]
    assert server.behaviour.at_once < ROWS


def test_an_order_without_groups_waits_for_nobody(job: Path, server: Running) -> None:
    server.behaviour.hold = ROWS
    assert call(*command(job, server.url, "--order", "input")).code == 0
    assert server.behaviour.at_once == ROWS


def test_a_busy_server_is_asked_again(job: Path, server: Running, own_answers: list[Row]) -> None:
    server.behaviour.statuses = [429, 503]
    assert call(*command(job, server.url)).code == 0
    assert said(answers(job)) == said(own_answers)
    assert len(server.behaviour.asked) == ROWS + 2


def test_a_server_that_stays_busy_ends_the_run_resumably(job: Path, server: Running) -> None:
    server.behaviour.statuses = [429] * 100
    ran = call(*command(job, server.url, "--concurrency", 1))
    assert ran.code == 75
    assert f"{server.url} answers no more (not now [429])" in ran.sentence
    server.behaviour.statuses = []
    assert call(*command(job, server.url)).code == 0


def test_a_refused_prompt_is_an_error_row_with_the_servers_sentence(
    job: Path, server: Running, rows: list[Row], own_answers: list[Row]
) -> None:
    spoilt = [*rows[:2], {"messages": messages(f"It is {BAD_WORD}")}, *rows[2:]]
    write_lines(job, spoilt)
    assert call(*command(job, server.url)).code == 3
    found = answers(job)
    bad = found.pop(2)
    assert bad["status"] == "error"
    assert bad["error"] == "the server refuses this prompt: this prompt is spoilt [400]"
    assert said(found) == said(own_answers)


def test_a_prompt_that_breaks_the_server_alone_is_an_error_row(job: Path, server: Running) -> None:
    server.behaviour.statuses = [500] * 3
    assert call(*command(job, server.url, "--concurrency", 1)).code == 3
    assert [row["status"] for row in answers(job)].count("error") == 1


def test_text_goes_where_tokens_are_not_taken(
    job: Path, server: Running, own_answers: list[Row]
) -> None:
    server.behaviour.takes_tokens = False
    ran = call(*command(job, server.url))
    assert ran.code == 0
    assert f"{server.url} takes no token ids (prompt: Input should be a valid string" in ran.err
    assert said(answers(job)) == said(own_answers)
    assert all(isinstance(body["prompt"], str) for body in server.behaviour.asked)


def test_cached_tokens_and_token_ids_are_the_servers(job: Path, server: Running) -> None:
    server.behaviour.cached_tokens = 100
    ran = call(*command(job, server.url, "--with-token-ids", "--json"))
    assert ran.summary["reused_prompt_tokens"] == 100 * ROWS
    assert [row["cached_tokens"] for row in answers(job)] == [100] * ROWS
    assert [len(row["output_token_ids"]) for row in answers(job)] == [
        row["completion_tokens"] for row in answers(job)
    ]


def test_what_a_server_does_not_tell_is_null_or_counted_here(job: Path, server: Running) -> None:
    server.behaviour.token_ids = False
    ran = call(*command(job, server.url, "--with-token-ids"))
    assert ran.code == 0
    assert "does not tell which prompt tokens it had cached" in ran.err
    assert [row["output_token_ids"] for row in answers(job)] == [None] * ROWS


def test_sampling_goes_by_the_servers_names(tmp_path: Path, server: Running) -> None:
    row = {"prompt": "Tell them", "temperature": 0.7, "top_k": 5, "min_p": 0.1, "n": 2, "stop": "x"}
    job = write_lines(tmp_path / "job.jsonl", [row | {"repetition_penalty": 1.5, "seed": 3}])
    server.behaviour.owned_by = "me"
    assert call(*command(job, server.url)).code == 0
    bodies = server.behaviour.asked
    assert len(bodies) == 2
    assert len(answers(job)[0]["outputs"]) == 2
    seeds = {body.pop("seed") for body in bodies}
    assert len(seeds) == 2
    assert 3 in seeds
    for body in bodies:
        del body["prompt"]
        assert body == {
            "model": "demo",
            "max_tokens": TOKENS,
            "temperature": 0.7,
            "top_p": 1.0,
            "stop": ["x"],
            "top_k": 5,
            "min_p": 0.1,
            "repeat_penalty": 1.5,
        }


def test_what_a_server_has_no_word_for_is_an_error_row(tmp_path: Path, server: Running) -> None:
    server.behaviour.owned_by = "me"
    rows: list[Row] = [{"prompt": "Tell", "ignore_eos": True}, {"prompt": "Ask"}]
    job = write_lines(tmp_path / "job.jsonl", rows)
    assert call(*command(job, server.url)).code == 3
    first, second = answers(job)
    assert first["error"] == "llama-cpp-python has no ignore_eos; leave it out"
    assert second["status"] == "success"


def test_what_a_server_cannot_tell_is_an_error_row(tmp_path: Path, server: Running) -> None:
    rows: list[Row] = [{"prompt": "Tell", "prompt_logprobs": 1}, {"prompt": "Ask"}]
    job = write_lines(tmp_path / "job.jsonl", rows)
    assert call(*command(job, server.url)).code == 3
    first, second = answers(job)
    assert first["error"].startswith("--engine openai cannot tell prompt_logprobs")
    assert (second["status"], second["prompt_logprobs"]) == ("success", None)


def test_a_server_of_unknown_kind_is_told_before_the_run(tmp_path: Path, server: Running) -> None:
    server.behaviour.owned_by = "somebody"
    job = write_lines(tmp_path / "job.jsonl", [{"prompt": "Tell"}])
    quiet = call(*command(job, server.url))
    assert "kind of server" not in quiet.err
    asked = call(*command(job, server.url, "--overwrite", "--ignore-eos"))
    assert "does not say what kind of server it is: ignore_eos go by vLLM's names" in asked.err
    assert server.behaviour.asked[-1]["ignore_eos"] is True


def test_a_form_is_asked_of_vllm_and_its_answer_judged(job: Path, server: Running) -> None:
    """This server writes what it likes."""
    ran = call(*command(job, server.url, "--choices", "good,bad"))
    assert ran.code == 3, ran.err
    for body in server.behaviour.asked:
        assert body["structured_outputs"] == {"choice": ["good", "bad"]}
    for row in answers(job):
        assert row["status"] == "invalid_output"
        assert row["error"] == f"the answer {row['output']!r} is none of the choices"


def test_a_form_that_a_server_cannot_be_asked_for_is_refused(job: Path, server: Running) -> None:
    server.behaviour.owned_by = "somebody"
    ran = call(*command(job, server.url, "--regex", "[0-9]+"))
    assert ran.code == 2
    assert "--regex cannot be asked of a server of unknown kind" in ran.sentence
    assert not server.behaviour.bodies
    rows: list[Row] = [{"prompt": "Tell", "regex": "[0-9]+"}, {"prompt": "Ask"}]
    write_lines(job, rows)
    assert call(*command(job, server.url)).code == 3
    assert "has no regex; leave it out" in answers(job)[0]["error"]


def test_a_server_with_a_shorter_context_sets_the_limit(job: Path, server: Running) -> None:
    server.behaviour.max_model_len = 64
    assert call(*command(job, server.url)).code == 3
    assert {row["error"].partition(" tokens and ")[2] for row in answers(job)} == {
        "the model's context is 64, answer included; shorten it, or use --on-too-long truncate-left"
    }
    assert server.behaviour.bodies == []


def test_equal_rows_are_asked_once(job: Path, server: Running, rows: list[Row]) -> None:
    write_lines(job, [*rows, *rows])
    ran = call(*command(job, server.url, "--json"))
    assert (ran.summary["rows"], ran.summary["duplicates"]) == (2 * ROWS, ROWS)
    assert len(server.behaviour.asked) == ROWS


# ---- which model, which run -----------------------------------------------------------------


def test_of_several_models_one_must_be_named(job: Path, server: Running) -> None:
    server.behaviour.models = ["demo", "other"]
    ran = call(*command(job, server.url))
    assert ran.code == 2
    assert "give --served-model, one of demo, other" in ran.sentence
    assert call(*command(job, server.url, "--served-model", "other")).code == 0
    assert {body["model"] for body in server.behaviour.asked} == {"other"}


def test_a_model_that_is_not_served_is_refused_with_those_that_are(
    job: Path, server: Running
) -> None:
    ran = call(*command(job, server.url, "--served-model", "nobody"))
    assert ran.code == 2
    assert f"{server.url} serves no nobody; give --served-model, one of demo" in ran.sentence
    assert not (job.parent / "answers.jsonl.run").exists()


@pytest.mark.parametrize("change", ["model", "engine"])
def test_another_engine_or_served_model_is_another_run(
    job: Path, server: Running, change: str
) -> None:
    assert call(*command(job, server.url)).code == 0
    if change == "model":
        server.behaviour.models = ["demo", "other"]
        ran = call(*command(job, server.url, "--served-model", "other"))
        assert "served_model was 'demo' and is 'other'" in ran.sentence
    else:
        ran = call("run", job, "-m", MODEL_DIR, "-o", job.parent / "answers.jsonl", *LIMIT)
        assert "engine was 'openai' and is 'batchpipe'" in ran.sentence
    assert ran.code == 2


def test_a_finished_run_needs_its_server_no_more(job: Path) -> None:
    with serving() as server:
        first = call(*command(job, server.url, "--json"))
    again = call(*command(job, server.url, "--json"))
    assert again.code == 0, again.err
    assert again.summary == first.summary


def test_another_address_of_the_same_model_is_the_same_run(job: Path, rows: list[Row]) -> None:
    with serving(statuses=[400] * ROWS) as server:
        assert call(*command(job, server.url)).code == 3
    with serving() as server:
        run_dir = job.parent / "answers.jsonl.run"
        moved = call(*command(job, server.url))
        assert moved.code == 3  # the same finished run
        assert server.behaviour.asked == []
    assert run_dir.exists()


def test_retry_asks_the_same_server(job: Path, server: Running, own_answers: list[Row]) -> None:
    server.behaviour.statuses = [400, 400]
    assert call(*command(job, server.url)).code == 3
    ran = call("retry", job.parent / "answers.jsonl.run", "--status", "error")
    assert ran.code == 0, ran.err
    assert said(answers(job)) == said(own_answers)


def test_retry_finds_a_server_that_has_moved(job: Path, own_answers: list[Row]) -> None:
    with serving(statuses=[400, 400]) as server:
        assert call(*command(job, server.url)).code == 3
    retry = ("retry", job.parent / "answers.jsonl.run", "--status", "error")
    with serving() as server:
        ran = call(*retry, "--base-url", server.url)
    assert ran.code == 0, ran.err
    assert said(answers(job)) == said(own_answers)


def test_a_server_may_have_a_model_that_our_own_engine_cannot_run(
    job: Path, server: Running, own_answers: list[Row]
) -> None:
    folder = job.parent / "no-attention"
    shutil.copytree(MODEL_DIR, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    (folder / "config.json").write_text(json.dumps({"model_type": "mamba"}))
    asked = command(job, server.url)
    asked[asked.index(MODEL_DIR)] = folder
    ran = call(*asked)
    assert ran.code == 0, ran.err
    assert said(answers(job)) == said(own_answers)
    own = call("run", job, "-m", folder, "-o", job.parent / "own.jsonl")
    assert own.code == 2
    assert "(MambaConfig) cannot be served" in own.sentence


# ---- the key ----------------------------------------------------------------------------------


def test_the_key_comes_from_the_environment_and_is_kept_nowhere(
    job: Path, server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.behaviour.key = SECRET
    monkeypatch.setenv("SERVER_KEY", SECRET)
    ran = call(*command(job, server.url, "--api-key-env", "SERVER_KEY", "--json"))
    assert ran.code == 0, ran.err
    assert SECRET not in ran.out + ran.err
    for path in job.parent.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path


def test_a_key_of_the_environment_that_was_not_named_is_not_sent(
    job: Path, server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, SECRET)
    assert call(*command(job, server.url)).code == 0
    assert not any(SECRET in str(sent) for sent in server.behaviour.headers)


def test_a_wrong_key_is_refused_without_being_shown(
    job: Path, server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.behaviour.key = "another"
    monkeypatch.setenv("SERVER_KEY", SECRET)
    ran = call(*command(job, server.url, "--api-key-env", "SERVER_KEY"))
    assert ran.code == 2
    assert f"{server.url} refuses the key (the key *** is wrong [401])" in ran.sentence
    assert "--api-key-env" in ran.sentence


# ---- a server or a client that dies -------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def arrivals(log: Path) -> list[str]:
    return log.read_text().splitlines() if log.exists() else []


def wait_for(log: Path, count: int, process: subprocess.Popen[str]) -> None:
    while len(arrivals(log)) < count and process.poll() is None:
        time.sleep(0.005)


def test_a_killed_server_ends_the_run_and_a_new_one_goes_on(
    job: Path, tmp_path: Path, own_answers: list[Row]
) -> None:
    port, log = free_port(), tmp_path / "log"
    url = f"http://127.0.0.1:{port}/v1"
    with spawned(port, log, seconds=0.2):
        client = spawn(*command(job, url, "--concurrency", 1), script=SOON)
        wait_for(log, 3, client)
    ran = ended(client)
    assert ran.code == 75, ran.err
    assert f"{url} answers no more" in ran.sentence
    assert "the same command goes on" in ran.sentence
    with spawned(port, log):
        again = call(*command(job, url, "--concurrency", 1))
    assert again.code == 0, again.err
    assert said(answers(job)) == said(own_answers)
    asked = [line for line in arrivals(log) if "," in line]
    assert len(asked) <= ROWS + 1  # the one under way when the server died may be asked twice
    assert len(set(asked)) == ROWS


SOON = """
from batchpipe.integrations import openai
openai.RETRIES = 1
from batchpipe.journal import journal
journal.FLUSH_SECONDS = 0.0
import sys
from batchpipe.cli import main
main(sys.argv[1:])
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_client_goes_on(
    job: Path, server: Running, own_answers: list[Row], number: signal.Signals
) -> None:
    server.behaviour.seconds = 0.3
    client = spawn(*command(job, server.url, "--concurrency", 1))
    while len(server.behaviour.asked) < 4 and client.poll() is None:
        time.sleep(0.005)
    client.send_signal(number)
    assert ended(client).code == (75 if number == signal.SIGTERM else -number)
    server.behaviour.seconds = 0.0
    before = len(server.behaviour.asked)
    assert call(*command(job, server.url)).code == 0
    assert said(answers(job)) == said(own_answers)
    assert len(server.behaviour.asked) - before <= ROWS - 2


# ---- no torch -----------------------------------------------------------------------------------

WITHOUT_TORCH = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocked())
from batchpipe.cli import main
main(sys.argv[1:])
"""


def test_a_run_through_a_server_needs_no_torch(
    job: Path, server: Running, own_answers: list[Row]
) -> None:
    command_line = [sys.executable, "-c", WITHOUT_TORCH, *map(str, command(job, server.url))]
    ran = subprocess.run(command_line, capture_output=True, text=True, env=dict(os.environ))
    assert ran.returncode == 0, ran.stderr
    assert said(answers(job)) == said(own_answers)


def test_rows_keep_their_columns(job: Path, server: Running) -> None:
    assert call(*command(job, server.url)).code == 0
    assert len(read_rows(str(job.parent / "answers.jsonl"))) == ROWS
