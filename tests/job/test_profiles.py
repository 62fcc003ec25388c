"""Machine profiles: saved, found again, and refused where they are wrong."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from batchpipe.errors import ConfigError
from batchpipe.job.profiles import find_machine, load_profile, save_profile, state_dir
from batchpipe.planner.machine.machine import Machine
from batchpipe.planner.machine.machines import MACHINES

MEASURED = replace(MACHINES["cpu-2core"], name="measured", matmul_flops=1.25e12)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    monkeypatch.setenv("BATCHPIPE_HOME", str(folder))
    return folder


def found(model: str = "some/model", dtype: str = "bfloat16", device: str = "cpu") -> Machine:
    """The machine that a run without a wish goes by."""
    return find_machine(None, model=model, dtype=dtype, device=device)


def named(name: str) -> Machine:
    return replace(MEASURED, name=name)


def test_state_is_kept_where_the_user_says(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    assert state_dir() == home
    monkeypatch.setenv("BATCHPIPE_HOME", "")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert state_dir() == Path("/data/batchpipe")
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", "/people/me")
    assert state_dir() == Path("/people/me/.local/share/batchpipe")


def test_saved_profile_is_found_for_its_model_and_dtype(home: Path) -> None:
    path = save_profile(MEASURED, "some/model", "bfloat16", device="cpu")
    assert path.parent == home / "machines"
    assert load_profile(path) == found() == MEASURED
    kept = json.loads(path.read_text())
    assert kept["machine"] == MEASURED.as_fields()
    assert (kept["model"], kept["dtype"]) == ("some/model", "bfloat16")
    assert (kept["host"], kept["device"]) == (socket.gethostname(), "cpu")
    assert kept["measured"].endswith("+00:00")
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_second_calibration_replaces_the_first() -> None:
    first = save_profile(named("first"), "some/model", "bfloat16", device="cpu")
    second = save_profile(named("second"), "some/model", "bfloat16", device="cpu")
    assert first == second
    assert found().name == "second"


def test_profile_of_another_model_is_better_than_a_guess() -> None:
    save_profile(named("single"), "other/model", "float32", device="cpu")
    assert found().name == "single"
    save_profile(named("half"), "other/model", "bfloat16", device="cpu")
    save_profile(named("late single"), "third/model", "float32", device="cpu")
    assert found().name == "half"  # the same dtype comes before the latest
    assert found(dtype="float32").name == "late single"
    save_profile(named("own"), "some/model", "bfloat16", device="cpu")
    assert found().name == "own"


def test_profile_of_another_host_or_device_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
    save_profile(named("elsewhere"), "some/model", "bfloat16", device="cpu")
    monkeypatch.undo()
    save_profile(named("cuda"), "some/model", "bfloat16", device="cuda:1")
    assert found() == MACHINES["cpu-2core"]
    assert found(device="cuda:0").name == "cuda"


def test_names_that_look_alike_in_files_stay_apart() -> None:
    models = ["a/b", "a_b", "a:b", "../../a b", "x" * 300]
    paths = [save_profile(named(each), each, "bfloat16", device="cpu") for each in models]
    assert len({*paths}) == len(models)
    assert len({path.parent for path in paths}) == 1
    assert [found(model=each).name for each in models] == models


def test_a_folder_is_the_same_model_however_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    save_profile(named("folder"), "model", "bfloat16", device="cpu")
    save_profile(named("other"), "other", "bfloat16", device="cpu")
    assert found(model=str(tmp_path / "model")).name == "folder"


def test_damaged_calibration_is_told_and_passed_over(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save_profile(MEASURED, "some/model", "bfloat16", device="cpu")
    path.write_text(path.read_text()[:-20])
    assert found() == MACHINES["cpu-2core"]
    told = capsys.readouterr().err
    assert told.startswith("A calibrated profile is not used: ")
    assert str(path) in told


def test_impossible_measurement_is_not_saved(home: Path) -> None:
    with pytest.raises(ConfigError, match="matmul_flops is nan"):
        save_profile(replace(MEASURED, matmul_flops=float("nan")), "m", "bfloat16", device="cpu")
    assert not home.exists()


def test_wanted_machine_comes_before_the_calibrated(tmp_path: Path) -> None:
    save_profile(MEASURED, "some/model", "bfloat16", device="cpu")
    own = tmp_path / "own.json"
    own.write_text(json.dumps(named("mine").as_fields()))
    for wanted, name in (("h100", "h100"), (str(own), "mine")):
        machine = find_machine(wanted, model="some/model", dtype="bfloat16", device="cpu")
        assert machine.name == name


def test_unknown_machine_is_told_with_the_ways_out() -> None:
    with pytest.raises(ConfigError, match=r"'h300'; known are h200, .*cpu-2core; .*\.json file"):
        find_machine("h300", model="some/model", dtype="bfloat16", device="cpu")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{", "is no JSON"),
        (b"\xff\xff\xff", "is no JSON"),
        (b"[" * 100_000, "is no JSON"),
        (b"[1]", "is no JSON object"),
        (b'{"name": "mine"}', "lacks 'memory_bytes'"),
        (b'{"machine": 3}', "machine is 3"),
        (b'{"machine": {"nme": "mine"}}', "no field 'nme'"),
        (
            json.dumps(MEASURED.as_fields() | {"overlap": float("nan")}).encode(),
            "overlap is nan; write a number from 0 to 1",
        ),
    ],
)
def test_wrong_profile_is_refused_by_its_file(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "own.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=reason) as raised:
        load_profile(path)
    assert str(path) in str(raised.value)


def test_profile_that_is_not_there_is_refused_by_its_file(tmp_path: Path) -> None:
    (tmp_path / "folder.json").mkdir()
    for name in ("none.json", "folder.json"):
        with pytest.raises(ConfigError, match=rf"{name} cannot be read"):
            find_machine(str(tmp_path / name), model="m", dtype="bfloat16", device="cpu")


@pytest.mark.parametrize(
    ("gpu", "name"),
    [
        ("NVIDIA H200", "h200"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA A100-SXM4-80GB", "a100-80g"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA L40S", "h200"),  # nothing like it ships
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
    ],
)
def test_gpu_without_calibration_is_taken_for_its_datasheet(
    gpu: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda = SimpleNamespace(is_available=lambda: True, get_device_name=lambda: gpu)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))  # no GPU is needed
    assert found(device="cuda") == MACHINES[name]
    assert found(device="cpu") == MACHINES["cpu-2core"]


def test_machine_is_found_without_torch_and_without_a_home(home: Path) -> None:
    check = (
        "import sys\n"
        "from batchpipe.job.profiles import find_machine\n"
        "print(find_machine(None, model='m', dtype='bfloat16', device='cuda').name)\n"
        "print('torch' in sys.modules)"
    )
    environment = {**os.environ, "BATCHPIPE_HOME": "~nobody-of-this-name"}
    ran = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, check=True, env=environment
    )
    assert ran.stdout.split() == ["h200", "False"]


def test_profile_of_other_weights_is_never_used() -> None:
    whole = save_profile(named("whole"), "some/model", "bfloat16", device="cpu")
    assert found().name == "whole"
    key = {"model": "some/model", "dtype": "bfloat16", "device": "cpu"}
    assert find_machine(None, quantize="int8", **key) == MACHINES["cpu-2core"]
    rounded = save_profile(named("int8"), "some/model", "bfloat16", device="cpu", quantize="int8")
    assert whole != rounded
    assert found().name == "whole"
    assert find_machine(None, quantize="int8", **key).name == "int8"
    assert find_machine(None, quantize="int4", **key) == MACHINES["cpu-2core"]
