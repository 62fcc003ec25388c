"""The machine that a plan is made for: what it computes and reads in a second.

Rates are effective ones, what steps really reach. Knows nothing of a model, a plan or of where
profiles are kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import Any

TEXTS = frozenset({"name", "note"})
DEVICES = ("cpu", "cuda")
AT_LEAST_ZERO = frozenset({"step_seconds", "layer_seconds", "sequence_seconds", "price_per_hour"})
SHARES = frozenset({"float32_share", "overlap"})
ZERO_SHARES = frozenset({"overlap"})
ALL_REDUCE_SECONDS = 20e-6  # of a few rows between GPUs of one machine; a guess, not measured


@dataclass(frozen=True, slots=True)
class Machine:
    """One device, as the cost of steps depends on it."""

    name: str
    memory_bytes: int  # of the device, all of it
    matmul_flops: float  # FLOP/s of linear layers at many rows, 16-bit
    float32_share: float  # rate of float32 linear layers and attention over 16-bit, in (0, 1]
    weight_bytes_per_second: float  # at which a step reads weights
    kv_bytes_per_second: float  # at which each decode reads its own KV
    attention_flops: float  # FLOP/s of attention whose keys many queries share, 16-bit
    step_seconds: float  # fixed cost of one step
    layer_seconds: float  # fixed cost of each layer of a step
    sequence_seconds: float  # cost of each sequence (chunk) in a step: metadata, sampling
    device: str = "cuda"  # its kind: cpu or cuda
    host_bytes_per_second: float = 12e9  # at which KV is copied to host memory and back
    overlap: float = 0.0  # share of the shorter of compute and memory time hidden by the longer
    price_per_hour: float = 0.0
    note: str = ""  # where the figures come from

    @classmethod
    def from_fields(cls, given: Mapping[str, object], where: str) -> Machine:
        """The machine with these fields.

        Raises:
            ValueError: a field is unknown, missing, no number or out of its range; the sentence
                begins with ``where``
        """
        unknown = sorted(map(str, set(given) - set(FIELDS)))
        if unknown:
            raise ValueError(
                f"{where}: a machine has no field {_listed(unknown)}; it has {', '.join(FIELDS)}"
            )
        missing = [name for name in NEEDED if name not in given]
        if missing:
            raise ValueError(f"{where}: the machine lacks {_listed(missing)}; add what is missing")
        return cls(**{name: _checked(name, given[name], where) for name in given})

    def times(self, devices: int) -> Machine:
        """So many of these devices as one: each has a part of every layer.

        Within a layer they add up what they have twice, behind its attention and behind its MLP
        (Megatron-LM, Shoeybi et al. 2019).
        """
        if devices == 1:
            return self
        return replace(
            self,
            name=f"{devices} x {self.name}",
            memory_bytes=self.memory_bytes * devices,
            matmul_flops=self.matmul_flops * devices,
            weight_bytes_per_second=self.weight_bytes_per_second * devices,
            kv_bytes_per_second=self.kv_bytes_per_second * devices,
            attention_flops=self.attention_flops * devices,
            layer_seconds=self.layer_seconds + 2 * ALL_REDUCE_SECONDS,
            price_per_hour=self.price_per_hour * devices,
        )

    def as_fields(self) -> dict[str, str | int | float]:
        """The fields by name, as `from_fields` takes them."""
        return asdict(self)


FIELDS = tuple(field.name for field in fields(Machine))
NEEDED = tuple(field.name for field in fields(Machine) if field.default is MISSING)


def _listed(names: list[str]) -> str:
    return ", ".join(repr(name) for name in names)


def _checked(name: str, value: object, where: str) -> Any:  # str, int or float, as the field is
    """The value as its field has it, or ``ValueError``."""
    if name == "device":
        if value in DEVICES:
            return value
        raise ValueError(f"{where}: {name} is {value!r}; write {' or '.join(DEVICES)}")
    if name in TEXTS:
        if isinstance(value, str) and (value or name != "name"):
            return value
        raise ValueError(f"{where}: {name} is {value!r}; write a text, such as 'h100'")
    allowed = _allowed(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{where}: {name} is {value!r}; write {allowed}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    too_low = number < 0 or (number == 0 and name not in AT_LEAST_ZERO | ZERO_SHARES)
    too_high = not math.isfinite(number) or (name in SHARES and number > 1)
    broken = name == "memory_bytes" and not number.is_integer()
    if too_low or too_high or broken:
        raise ValueError(f"{where}: {name} is {value!r}; write {allowed}")
    return int(value) if name == "memory_bytes" else number


def _allowed(name: str) -> str:
    """Which values the field may have."""
    if name == "memory_bytes":
        return "a whole number above 0"
    if name in SHARES:
        return "a number from 0 to 1" if name in ZERO_SHARES else "a number above 0 and at most 1"
    return "a number of at least 0" if name in AT_LEAST_ZERO else "a number above 0"
