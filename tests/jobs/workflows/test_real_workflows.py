"""The workflows that ship as jobs, from file to file, on the model that ships in the package."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Row, call, read
from postgres_server import BINARIES, postgres_server

from batchpipe.demo.prompt import MODEL_DIR

sys.path.insert(0, str(Path(__file__).parents[3] / "jobs" / "workflows"))

from films_database import FILMS, make_database

JOBS = Path(__file__).parents[3] / "jobs" / "workflows"


def ran(name: str, inputs: str, folder: Path) -> tuple[list[Row], Row]:
    """The rows of OUT and the summary."""
    source, flow, out = JOBS / "inputs" / inputs, JOBS / name, folder / "out.jsonl"
    options = ("-m", MODEL_DIR, "-o", out, "--dtype", "float32", "--json")
    done = call("run", source, "--workflow", flow, *options)
    assert done.code == 0, done.err
    found = read(out)
    assert {row["status"] for row in found} == {"success"}
    return found, done.summary


def test_what_passages_say_is_found_in_two_stages(tmp_path: Path) -> None:
    found, summary = ran("openie.yaml", "passages.jsonl", tmp_path)
    assert [row["title"] for row in found] == [
        row["title"] for row in read(JOBS / "inputs" / "passages.jsonl")
    ]
    for row in found:
        assert all(isinstance(name, str) for name in row["names"]["names"])
        for fact in row["facts"]["facts"]:
            assert set(fact) == {"subject", "relation", "object"}
    assert {name: step["calls"] for name, step in summary["by_step"].items()} == {
        "entities": 4,
        "triples": 4,
    }


def test_a_second_turn_reads_the_keys_of_the_first(tmp_path: Path) -> None:
    found, summary = ran("chat.yaml", "chats.jsonl", tmp_path)
    assert all(row["first.output"] and row["second.output"] for row in found)
    # Most of a second prompt is the first and its answer.
    assert summary["reused_prompt_tokens"] > summary["prompt_tokens"] / 2


def urls(folder: Path) -> Iterator[str]:
    """Databases to make, one of each kind."""
    yield f"sqlite:///{folder}/films.db"
    with postgres_server() as server:
        yield server.url


@pytest.mark.skipif(not BINARIES, reason="PostgreSQL's server is not installed")
def test_films_are_the_same_in_sqlite_and_postgresql(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_url = []
    for url in urls(tmp_path):
        assert make_database(url) == make_database(url) == len(FILMS)  # made anew
        monkeypatch.setenv("FILMS_DATABASE", url)
        (folder := tmp_path / str(len(by_url))).mkdir()
        found, summary = ran("films.yaml", "viewers.jsonl", folder)
        assert summary["filtered"] == 2  # nobody filmed robots, and no western is that short
        assert [row["viewer"] for row in found] == ["Ada", "Bruno", "Carla", "Farid"]
        assert {row["fits"] for row in found} <= {"yes", "no"}
        assert [film["title"] for film in found[0]["choice"]] == ["Paper Lanterns", "North of Home"]
        by_url.append(found)
    assert by_url[0] == by_url[1]


def test_films_of_a_missing_database_are_told_before_the_model_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FILMS_DATABASE", raising=False)
    monkeypatch.chdir(tmp_path)
    source, flow = JOBS / "inputs" / "viewers.jsonl", JOBS / "films.yaml"
    done = call("run", source, "--workflow", flow, "-m", MODEL_DIR, "-o", "out.jsonl")
    assert done.code == 2
    assert "SQLite file films.db does not exist" in done.sentence
    assert os.listdir(tmp_path) == []


def test_parts_become_one_summary(tmp_path: Path) -> None:
    found, summary = ran("summary.yaml", "reports.jsonl", tmp_path)
    assert [len(row["gists"]) for row in found] == [3, 2, 0]
    for row in found:
        assert [gist["part"] for gist in row["gists"]] == list(range(len(row["gists"])))
        assert row["about"] in {"money", "people", "weather", "machines"}
        assert row["agreement"] in {0.2, 0.4, 0.6, 0.8, 1.0}
    assert summary["by_step"]["gist"]["calls"] == 5
    assert summary["by_step"]["about"]["calls"] == 15
