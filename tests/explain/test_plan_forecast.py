"""`batchpipe plan` tells time, cost and advice, and compares orders on a machine far away."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from golden import check_golden
from harness import call, write_lines, write_parquet

from batchpipe.job.history import save_history
from batchpipe.job.plan_job import STEP_TOKENS
from batchpipe.planner.lengths import REST
from batchpipe.planner.machine.machines import MACHINES
from batchpipe.planner.order import CANDIDATES, ORDERS
from batchpipe.planner.plan_file import read_plan_facts, read_plan_order

SIZES = {  # of Llama-3 8B, but for the vocabulary
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 8192,
    "dtype": "bfloat16",
}
A100 = ("--machine", "a100-80g")
SCHEMAS = [
    f"Table {name}\n" + "".join(f"column {name}_{i} of table {name}\n" for i in range(12))
    for name in ("parcels", "letters", "refunds")
]
ROWS = [
    {"question": f"How many {word} are there?", "schema": SCHEMAS[row % 3]}
    for row, word in enumerate(("red", "late", "open", "new", "lost", "paid", "old", "big", "wet"))
]
QUESTION_FIRST = "Answer: {{ question }}\n{{ schema }}SQL:"
SCHEMA_FIRST = "{{ schema }}Answer: {{ question }}\nSQL:"


@pytest.fixture(scope="session")
def llama(bare_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration of an 8B model and a tokenizer; there are no weights."""
    folder = tmp_path_factory.mktemp("llama") / "llama-8b"
    shutil.copytree(bare_model, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | SIZES))
    return folder


@pytest.fixture
def job(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "job.jsonl", ROWS)


def plan(job: Path, model: Path, *options: object) -> dict[str, Any]:
    ran = call("plan", job, "-m", model, *options, "--json")
    assert ran.code == 0, ran.err
    return ran.summary


def test_the_text_is_what_a_person_has_read(job: Path, llama: Path) -> None:
    options = ("--template", QUESTION_FIRST, "--max-tokens", 300, *A100, "--price-per-hour", 2)
    ran = call("plan", job, "-m", llama, *options, "--compare")
    assert ran.code == 0, ran.err
    check_golden("plan-question-first", ran.out.rstrip("\n"))


def test_rows_that_do_not_fit_and_equal_rows_are_in_the_text(tmp_path: Path, llama: Path) -> None:
    rows: list[dict[str, Any]] = [{"prompt": f"Is parcel {row % 4} late?"} for row in range(6)]
    rows += [{"prompt": "The parcel is late. " * 3000}, {"prompt": ""}]
    rows += [{"prompt": "The parcel is late. " * 300, "max_tokens": 800}]
    path = write_lines(tmp_path / "job.jsonl", rows)
    ran = call("plan", path, "-m", llama, *A100, "--kv-memory", "100MB", "--max-tokens", 40)
    assert ran.code == 0, ran.err
    check_golden("plan-misfits", ran.out.rstrip("\n"))


def test_json_has_all_that_the_text_has(job: Path, llama: Path) -> None:
    told = plan(job, llama, "--template", QUESTION_FIRST, *A100, "--price-per-hour", 36)
    assert (told["machine"], told["machine_measured"]) == ("a100-80g", False)
    assert told["order"] == "planned"
    assert told["policy"] in CANDIDATES
    assert told["bound_seconds"] == max(told["compute_seconds"], told["memory_seconds"])
    assert told["density"] == pytest.approx(told["compute_seconds"] / told["memory_seconds"])
    assert 0 <= told["saved_key_seconds"] < told["memory_seconds"]
    assert sum(each["requests"] for each in told["density_bins"]) == len(ROWS)
    assert told["earliest_seconds"] < told["expected_seconds"] < told["latest_seconds"]
    assert told["device_hours"] == pytest.approx(told["expected_seconds"] / 3600)
    assert told["cost"] == pytest.approx(told["expected_seconds"] / 100)
    assert told["simulation"] is None
    assert told["compared"] == {}
    assert {"text", "gain_seconds", "gain_tokens"} == set(told["advice"][0])


def test_known_lengths_leave_only_the_profiles_error(job: Path, llama: Path) -> None:
    options = ("--template", SCHEMA_FIRST, *A100, "--max-tokens", 20)
    unknown = plan(job, llama, *options)
    known = plan(job, llama, *options, "--ignore-eos")
    assert not unknown["lengths_known"]
    assert known["lengths_known"]
    assert known["earliest_seconds"] == pytest.approx(0.6 * known["expected_seconds"])
    assert known["latest_seconds"] == pytest.approx(1.4 * known["expected_seconds"])
    assert unknown["earliest_seconds"] < known["earliest_seconds"]


def test_a_measured_profile_errs_less_and_has_its_own_price(
    job: Path, llama: Path, tmp_path: Path
) -> None:
    profile = tmp_path / "node.json"
    fields = MACHINES["h100"].as_fields()
    profile.write_text(json.dumps(fields | {"name": "node", "price_per_hour": 3.0, "note": ""}))
    options = ("--template", SCHEMA_FIRST, "--machine", profile, "--ignore-eos")
    told = plan(job, llama, *options)
    assert (told["machine"], told["machine_measured"], told["price_per_hour"]) == ("node", True, 3)
    assert told["latest_seconds"] == pytest.approx(1.15 * told["expected_seconds"])
    assert told["cost"] == pytest.approx(3 * told["device_hours"])
    assert plan(job, llama, *options, "--price-per-hour", 5)["price_per_hour"] == 5


def test_a_simulated_job_is_what_is_expected(job: Path, llama: Path) -> None:
    options = ("--template", SCHEMA_FIRST, *A100)
    told = plan(job, llama, *options, "--simulate")
    played = told["simulation"]
    assert played["makespan_seconds"] == told["expected_seconds"]
    assert told["expected_seconds"] == plan(job, llama, *options)["expected_seconds"]
    assert played["share_of_bound"] == told["bound_seconds"] / played["makespan_seconds"]
    assert played["policy"] == told["policy"]
    assert played["peak_kv_tokens"] <= told["kv_tokens_needed"]


def test_planned_is_never_worse_than_dfs_where_orders_are_compared(
    tmp_path: Path, llama: Path
) -> None:
    rows = [
        {"prompt": f"{SCHEMAS[row % 3]}{row}", "max_tokens": 5 if row % 4 else 900}
        for row in range(60)
    ]
    path = write_parquet(tmp_path / "job.parquet", rows)
    options = (*A100, "--ignore-eos", "--kv-memory", "1.2GB", "--compare")
    for order in ("planned", "dfs"):
        compared = plan(path, llama, *options, "--order", order)["compared"]
        assert tuple(compared) == ORDERS
        seconds = {name: each["makespan_seconds"] for name, each in compared.items()}
        assert seconds["planned"] <= seconds["dfs"]
        assert compared["input"]["policy"] == "input"


def test_the_named_machine_lends_its_memory(job: Path, llama: Path) -> None:
    options = ("--template", SCHEMA_FIRST)
    l4, h200 = (plan(job, llama, *options, "--machine", name) for name in ("L4", "h200"))
    assert l4["kv_tokens_available"] < h200["kv_tokens_available"] / 10
    assert l4["expected_seconds"] > h200["expected_seconds"]
    assert h200["step_tokens"] == STEP_TOKENS["cuda"]
    own = plan(job, llama, *options, "--machine", "h200", "--kv-memory", "1GB")
    assert own["kv_tokens_available"] == 10**9 // (16 * 131072) * 16


def test_a_gpu_without_a_named_machine_is_planned_by_its_profile(job: Path, llama: Path) -> None:
    options = ("--template", SCHEMA_FIRST, "--device", "cuda")
    told = plan(job, llama, *options)
    assert told["machine"] in MACHINES
    assert told["kv_tokens_available"] > 100_000


@pytest.mark.parametrize("machine", [A100, ()])
def test_step_tokens_are_planned_with(job: Path, llama: Path, machine: tuple[str, ...]) -> None:
    told = plan(job, llama, "--template", SCHEMA_FIRST, *machine, "--step-tokens", 64, "--simulate")
    assert told["step_tokens"] == 64
    assert told["simulation"]["mean_step_tokens"] <= 64


def test_the_plan_is_written_whole(job: Path, llama: Path, tmp_path: Path) -> None:
    out = tmp_path / "plans" / "plan.parquet"
    out.parent.mkdir()
    options = ("--template", SCHEMA_FIRST, *A100, "-o", out)
    for _ in range(2):  # an older plan makes room
        told = plan(job, llama, *options)
    assert told["plan_file"] == str(out)
    assert sorted(read_plan_order(out).tolist()) == list(range(len(ROWS)))
    facts = read_plan_facts(out)
    assert (facts["order"], facts["policy"]) == ("planned", told["policy"])
    assert (facts["machine"], facts["model"]) == ("a100-80g", str(llama))
    assert f"plan written to {out}" in call("plan", job, "-m", llama, *options).out


def test_a_template_is_told_which_column_to_move(job: Path, llama: Path, tmp_path: Path) -> None:
    [first, *_] = plan(job, llama, "--template", QUESTION_FIRST, *A100)["advice"]
    assert "put {{ schema }} before {{ question }}: then" in first["text"]
    turned = plan(job, llama, "--template", SCHEMA_FIRST, *A100)
    share = turned["shareable_prompt_tokens"] / turned["prompt_tokens"]
    told = float(first["text"].partition("then ")[2].partition("%")[0]) / 100
    assert told == pytest.approx(share, abs=0.05)
    assert not any("before {{" in each["text"] for each in turned["advice"])
    (tmp_path / "template").write_text(QUESTION_FIRST)
    again = plan(job, llama, "--template", f"@{tmp_path / 'template'}", *A100)
    assert again["advice"][0] == first


def test_ready_prompts_are_told_what_stands_too_late(tmp_path: Path, llama: Path) -> None:
    late = [{"prompt": f"{row['question']}\n{row['schema']}SQL:"} for row in ROWS]
    early = [{"prompt": f"{row['schema']}{row['question']}\nSQL:"} for row in ROWS]
    [first, *_] = plan(write_lines(tmp_path / "late.jsonl", late), llama, *A100)["advice"]
    assert first["text"].startswith("put the lines that rows repeat ('")
    assert "before what differs: then" in first["text"]
    assert first["gain_tokens"] > 0
    assert first["gain_seconds"] > 0
    good = plan(write_lines(tmp_path / "early.jsonl", early), llama, *A100)["advice"]
    assert not any("before what differs" in each["text"] for each in good)


def test_lengths_of_earlier_runs_are_expected(job: Path, llama: Path) -> None:
    options = ("--template", SCHEMA_FIRST, *A100, "--max-tokens", 500)
    assert plan(job, llama, *options)["expected_answer_tokens"] == len(ROWS) * 128
    save_history(str(llama), SCHEMA_FIRST, {REST: [7] * 5})
    told = plan(job, llama, *options)
    assert told["expected_answer_tokens"] == len(ROWS) * 7
    assert told["lengths_known"]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_profile_of_a_file_gets_the_steps_of_its_device(
    job: Path, llama: Path, tmp_path: Path, device: str
) -> None:
    fields = MACHINES["a100-80g"].as_fields() | {"name": "mine", "device": device}
    profile = tmp_path / "mine.json"
    profile.write_text(json.dumps(fields))
    told = plan(job, llama, "--template", SCHEMA_FIRST, "--machine", profile)
    assert told["step_tokens"] == STEP_TOKENS[device]
