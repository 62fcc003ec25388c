"""Values that JSON can hold, made of those that databases and functions give."""

from __future__ import annotations

import datetime
import ipaddress
import math
import uuid
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import numpy as np

_AS_TEXT = (
    uuid.UUID,
    ipaddress.IPv4Address,
    ipaddress.IPv4Network,
    ipaddress.IPv4Interface,
    ipaddress.IPv6Address,
    ipaddress.IPv6Network,
    ipaddress.IPv6Interface,
)


class NotPlain(ValueError):
    """JSON cannot hold a value; the message says what it is."""


def plain(value: object) -> Any:
    """The value as JSON holds it.

    Points in time become ISO 8601, spans of time seconds, UUIDs and addresses text. A decimal is a
    number where a number can say it, else text: no digit is lost.

    Raises:
        NotPlain: bytes, NaN, and whatever else JSON has no form for
    """
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        raise NotPlain(f"{value}, which JSON has no number for")
    if isinstance(value, (int, float)):
        return value
    if isinstance(value, Decimal):
        return _decimal(value)
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, _AS_TEXT):
        return str(value)
    if isinstance(value, Mapping):
        return {_name(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    raise NotPlain(f"of type {type(value).__name__}, which JSON cannot hold")


def _decimal(value: Decimal) -> int | float | str:
    exponent = value.as_tuple().exponent
    if not isinstance(exponent, int):
        raise NotPlain(f"{value}, which JSON has no number for")
    if exponent >= 0:
        return int(value)
    number = float(value)
    return number if Decimal(repr(number)) == value else str(value)


def _name(name: object) -> str:
    if isinstance(name, str):
        return name
    raise NotPlain(f"an object with the key {name!r}, and JSON's keys are texts")
