"""Rows as JSON text, whatever types their columns have."""

from __future__ import annotations

import base64
import datetime
import json


def to_json(value: object) -> str:
    """The value as JSON on one line that UTF-8 can hold.

    Points in time become ISO 8601, spans of time seconds, bytes base64 and decimals text.
    """
    text = json.dumps(value, ensure_ascii=False, default=_plain)
    try:
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair, which JSON can hold only as an escape
        return json.dumps(value, ensure_ascii=True, default=_plain)
    return text


def _plain(value: object) -> object:
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, (bytes, bytearray)):
        return base64.b64encode(value).decode("ascii")
    return str(value)  # decimals, UUIDs
