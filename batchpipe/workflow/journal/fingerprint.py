"""What a workflow's run is of, part by part: two runs of equal parts have equal results."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import fields
from hashlib import blake2b
from typing import Any

import batchpipe
from batchpipe.job.fingerprint import differences
from batchpipe.job.model_identity import model_identity
from batchpipe.workflow.authoring.functions import imported, name_of
from batchpipe.workflow.running.models import FoundModel
from batchpipe.workflow.steps import Flow, Python, Step

OF_A_MODEL = ("dtype", "quantize", "seed", "max_model_len", "revision")  # that change its answers


def settings_fingerprint(
    flow: Flow, found: Mapping[str, FoundModel], limit: int | None
) -> dict[str, Any]:
    """All but the input's rows: a part for each step and model, so that a difference has a name."""
    parts: dict[str, Any] = {"batchpipe": batchpipe.__version__, "output": dict(flow.output)}
    for name, model in found.items():
        parts[f"model {name}"] = {
            **{option: getattr(model.options, option) for option in OF_A_MODEL},
            "dtype": model.dtype,
            "files": model_identity(model.options.model, model.config),
        }
    for name, url in flow.databases.items():
        parts[f"database {name}"] = _without_password(url)
    for step in flow.steps:
        parts[f"step {step.name}"] = _of_step(step)
    parts["limit"] = limit
    return dict(json.loads(json.dumps(parts, default=str)))


def changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What two runs differ in, such as ``step judge: sampling.max_tokens was 4 and is 3``."""
    return differences(_flat(before), _flat(now))


def _flat(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Each value under the names on the way to it."""
    found: dict[str, Any] = {}
    for name, part in parts.items():
        if not isinstance(part, Mapping) or not part:
            found[name] = part
            continue
        for inner, value in _flat(part).items():
            joint = ": " if " " in name else "."
            found[f"{name}{joint}{inner}"] = value
    return found


def _of_step(step: Step) -> dict[str, Any]:
    found = {
        field.name: getattr(step, field.name)
        for field in fields(step)
        if field.name not in ("line", "lines", "name")
    }
    if isinstance(step, Python):
        found["function"] = name_of(step.function).partition(" in ")[0]
        found["code"] = _code_digest(step)
    return {"kind": type(step).__name__.lower(), **_plain(found)}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, (list, tuple)) else value


def _code_digest(step: Python) -> str | None:
    """Of the function's own lines; None where nobody knows them."""
    try:
        lines = inspect.getsource(imported(step.function))
    except (OSError, TypeError):
        return None
    return blake2b(lines.encode(), digest_size=8).hexdigest()


def _without_password(url: str) -> str:
    """The URL as it is written, in which a password may stand."""
    scheme, found, rest = url.partition("://")
    account, at, host = rest.rpartition("@")
    return f"{scheme}{found}{account.partition(':')[0]}{at}{host}"
