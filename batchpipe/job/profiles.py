"""Where machine profiles are kept, and which of them a run goes by.

A profile that calibration measured is ``<state_dir>/machines/<host>-<device>-<model>-<dtype>-
<digest>.json``, one for each of these four and each way to quantise, and holds a JSON object:

    {
      "machine": {"name": ..., "memory_bytes": ..., ...},   the fields of `Machine`
      "model": "Qwen/Qwen3-0.6B",                            a hub id, or a folder's full path
      "dtype": "bfloat16",
      "host": "node-7",
      "device": "cuda",                                      the kind: cpu or cuda
      "measured": "2026-01-31T09:30:00+00:00",               when, UTC
      "quantize": "int8"                                     where it was measured with such weights
    }

A profile that somebody writes by hand may be the same, or the fields of the machine alone.
"""

from __future__ import annotations

import json
import os
import re
import socket
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path

from batchpipe.errors import ConfigError
from batchpipe.planner.machine.machine import Machine
from batchpipe.planner.machine.machines import MACHINES, machine_named
from batchpipe.rows.atomic import written_whole

NAME_CHARACTERS = 60  # of each part of a file name, the last ones: a path's end tells most
DIGEST_BYTES = 6  # two names that look alike without their odd characters stay two files

DEFAULT_MACHINE = {"cpu": "cpu-2core", "cuda": "h200"}
# A word of the GPU's name -> the machine that it is most like.
GPU_WORDS = {"H200": "h200", "H100": "h100", "A100": "a100-80g", "L4": "l4", "4090": "rtx4090"}

# No home folder is a RuntimeError, a file that is no profile a ConfigError.
UNUSABLE = (OSError, RuntimeError, ConfigError)


@dataclass(frozen=True, slots=True)
class Calibration:
    """A measured machine and what it was measured with."""

    machine: Machine
    model: str
    dtype: str
    host: str
    device: str
    measured: str  # ISO 8601, UTC
    quantize: str = ""  # how the weights were kept; empty: in the dtype

    @property
    def path(self) -> Path:
        """The file for this host, device, model, dtype and kind of weights."""
        kinds = [self.dtype, self.quantize] if self.quantize else [self.dtype]
        parts = (self.host, self.device, self.model, *kinds)
        digest = blake2b(json.dumps(parts).encode(), digest_size=DIGEST_BYTES).hexdigest()
        return machines_dir() / f"{'-'.join(map(_file_name_part, parts))}-{digest}.json"

    def as_json(self) -> bytes:
        """The content of the file."""
        tags = {name: getattr(self, name) for name in TAGS}
        return json.dumps({"machine": self.machine.as_fields(), **tags}, indent=2).encode()


TAGS = ("model", "dtype", "host", "device", "measured", "quantize")


def state_dir() -> Path:
    """The folder for what batchpipe keeps from run to run; it need not exist.

    It is ``$BATCHPIPE_HOME``, else ``$XDG_DATA_HOME/batchpipe``, else ``~/.local/share/batchpipe``.

    Raises:
        RuntimeError: no variable is set and the user has no home folder
    """
    if own := os.environ.get("BATCHPIPE_HOME"):
        return Path(own).expanduser()
    if shared := os.environ.get("XDG_DATA_HOME"):
        return Path(shared).expanduser() / "batchpipe"
    return Path.home() / ".local" / "share" / "batchpipe"


def machines_dir() -> Path:
    """The folder of calibrated profiles; it need not exist."""
    return state_dir() / "machines"


def load_profile(path: str | os.PathLike[str]) -> Machine:
    """The machine that the file holds, alone or as calibration writes it.

    Raises:
        ConfigError: the file cannot be read, is no JSON, or its fields are wrong
    """
    profile = _read(path)
    return _machine(profile.get("machine", profile), os.fspath(path))


def save_profile(
    machine: Machine, model: str, dtype: str, *, device: str, quantize: str | None = None
) -> Path:
    """The profile stands under this host and these settings; an older one of them is gone.

    Raises:
        ConfigError: the measured figures are none that a machine can have
        OSError: the file cannot be written
    """
    calibration = Calibration(
        machine=_machine(machine.as_fields(), f"the measured profile {machine.name}"),
        model=_model_name(model),
        dtype=dtype,
        host=socket.gethostname(),
        device=_kind(device),
        measured=datetime.now(UTC).isoformat(),
        quantize=quantize or "",
    )
    path = calibration.path
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(str(path)) as stream:
        stream.write(calibration.as_json())
    return path


def find_machine(
    wanted: str | None, *, model: str, dtype: str, device: str, quantize: str | None = None
) -> Machine:
    """The machine of this name or file; without one the calibrated, else the one it is most like.

    Of this host's calibrations for the device, that of the same model and dtype comes first, then
    those of the same dtype, then the latest. One with other weights is none: integers have other
    rates, and a guess says that it is one.

    Raises:
        ConfigError: no machine has the name, or the file holds no profile
    """
    if wanted is None:
        found = _calibrations_here(_kind(device))
        calibrations = [each for each in found if each.quantize == (quantize or "")]
        if not calibrations:
            return MACHINES[_most_like(_kind(device))]
        same = (_model_name(model), dtype)
        return max(
            calibrations,
            key=lambda each: (
                (each.model, each.dtype) == same,
                each.dtype == dtype,
                each.measured,
            ),
        ).machine
    if wanted.endswith(".json"):
        return load_profile(wanted)
    try:
        return machine_named(wanted)
    except ValueError as unknown:
        raise ConfigError(f"{unknown}; or give a .json file with a profile") from unknown


def _calibrations_here(device: str) -> list[Calibration]:
    """Those of this host and device. A file that is damaged is told and passed over."""
    found: list[Calibration] = []
    try:
        paths = sorted(machines_dir().glob("*.json"))
    except UNUSABLE:
        return []
    host = socket.gethostname()
    for path in paths:
        try:
            profile = _read(path)
            tags = {name: str(profile.get(name, "")) for name in TAGS}
            if (tags["host"], tags["device"]) == (host, device):
                machine = _machine(profile.get("machine", profile), str(path))
                found.append(Calibration(machine, **tags))
        except UNUSABLE as error:
            print(f"A calibrated profile is not used: {error}", file=sys.stderr)
    return found


def _most_like(device: str) -> str:
    """The shipped machine that a device without calibration is taken for."""
    torch = sys.modules.get("torch")  # planning never loads it
    if device == "cuda" and torch is not None and torch.cuda.is_available():
        words = re.split(r"[^A-Z0-9]+", torch.cuda.get_device_name().upper())
        for word, name in GPU_WORDS.items():
            if word in words:
                return name
    return DEFAULT_MACHINE.get(device, DEFAULT_MACHINE["cpu"])


def _read(path: str | os.PathLike[str]) -> dict[str, object]:
    """The JSON object in the file."""
    try:
        profile = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise ConfigError(
            f"machine profile {path} cannot be read ({error.strerror}); give a readable .json file"
        ) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"machine profile {path} is no JSON ({error}); mend it") from error
    if not isinstance(profile, dict):
        raise ConfigError(f"machine profile {path} is no JSON object; write the machine's fields")
    return profile


def _machine(given: object, where: str) -> Machine:
    """The machine with these fields, or `ConfigError`."""
    if not isinstance(given, dict):
        raise ConfigError(f"{where}: machine is {given!r}; write an object of its fields")
    try:
        return Machine.from_fields(given, where)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _model_name(model: str) -> str:
    """The name of a hub model, the full path of a folder: the same however it is written."""
    return os.path.realpath(model) if os.path.isdir(model) else model


def _kind(device: str) -> str:
    """The kind of a device: ``cuda`` of ``cuda:1``."""
    return device.partition(":")[0]


def _file_name_part(text: str) -> str:
    """Letters, digits, dots and underscores alone, never a hidden name."""
    return re.sub(r"[^A-Za-z0-9._]+", "_", text)[-NAME_CHARACTERS:].strip("._")
