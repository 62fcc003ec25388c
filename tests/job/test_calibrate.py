"""`batchpipe calibrate` measures the machine and keeps what later plans go by."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from harness import call

from batchpipe.job.profiles import find_machine
from batchpipe.planner.machine.machine import Machine


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    monkeypatch.setenv("BATCHPIPE_HOME", str(folder))
    return folder


def test_measured_machine_is_what_later_plans_find(model: Path, home: Path) -> None:
    ran = call("calibrate", "-m", model, "--quick", "--device", "cpu", "--json")
    assert ran.code == 0, ran.err
    report = ran.summary
    machine = Machine.from_fields(report["machine"], "the report")
    found = find_machine(None, model=str(model), dtype=report["dtype"], device="cpu")
    assert found == machine
    assert [str(path) for path in (home / "machines").iterdir()] == [report["path"]]
    assert json.loads(Path(report["path"]).read_text())["dtype"] == report["dtype"] == "float32"
    assert report["steps"] >= 8
    assert 0 <= report["median_error"] <= report["worst_error"]
    assert report["errors_by_kind"].keys() == {"prefill", "decode", "shared", "mixed"}
    assert str(model) in machine.note


def test_rates_are_printed_with_their_units(model: Path) -> None:
    ran = call("calibrate", "-m", model, "--quick", "--device", "cpu")
    assert ran.code == 0, ran.err
    for unit in ("TFLOP/s", "GB/s", "µs"):
        assert unit in ran.out
    assert "saved: " in ran.out
    assert "median error" in ran.out


def test_unknown_model_is_refused_in_one_sentence(tmp_path: Path, home: Path) -> None:
    (tmp_path / "empty").mkdir()
    ran = call("calibrate", "-m", tmp_path / "empty")
    assert ran.code == 2
    assert "has no config.json" in ran.sentence
    assert not home.exists()
