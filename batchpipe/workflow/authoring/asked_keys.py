"""How a step asks its model: the keys of its prompt and of how answers are drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from batchpipe.api.forms import plain_forms
from batchpipe.errors import ConfigError
from batchpipe.planner.request import Sampling
from batchpipe.rows.parameter_values import CHECKS
from batchpipe.rows.parameters import COLUMNS, check_overrides, sampled_by
from batchpipe.rows.words import shown
from batchpipe.structured.constraint import KINDS as FORMS
from batchpipe.structured.constraint import constraint_of
from batchpipe.workflow.authoring.keys import Keys
from batchpipe.workflow.authoring.names import Fault

PROMPT = ("template", "messages", "order")
# A vote draws several answers; how likely tokens were has no column in a workflow.
SAMPLING = tuple(name for name in COLUMNS if name not in ("n", "logprobs", "prompt_logprobs"))


def prompt(keys: Keys) -> dict[str, Any]:
    """The prompt's blocks or messages, as fields of a step."""
    if ("template" in keys) == ("messages" in keys):
        both = "template and messages exclude each other: give one"
        raise Fault(both if "template" in keys else "template is missing; or give messages")
    free = keys.word("order", "fixed", "free") == "free"
    if "messages" in keys:
        if free:
            raise Fault("order is free, which messages cannot be; give a list as template", "order")
        return {"messages": _messages(keys.get("messages"))}
    written = keys.get("template")
    blocks = [written] if isinstance(written, str) else written
    if not isinstance(blocks, (list, tuple)) or not all(isinstance(b, str) for b in blocks):
        raise Fault(f"template is {shown(written)}; it must be a text or a list of texts")
    if not "".join(blocks):
        raise Fault("template is empty; write what the model reads", "template")
    return {"blocks": tuple(blocks), "order_free": free}


def _messages(given: object) -> tuple[tuple[str, str], ...]:
    if not isinstance(given, (list, tuple)) or not given:
        raise Fault(f"messages is {shown(given)}; it must be a list of messages", "messages")
    for place, each in enumerate(given):
        at = f"messages[{place}]"
        if not isinstance(each, Mapping) or each.keys() != {"role", "content"}:
            raise Fault(f"{at} is {shown(each)}; it must be {{role: ..., content: ...}}", at)
        if not all(isinstance(value, str) for value in each.values()):
            raise Fault(f"{at} is {shown(each)}; role and content must be texts", at)
    return tuple((each["role"], each["content"]) for each in given)


def sampling(keys: Keys, temperature: float = 0) -> dict[str, Any]:
    """The sampling parameters under the names that `run` gives them, forms as texts."""
    given = {name: keys.get(name) for name in SAMPLING if name in keys}
    try:
        given = plain_forms(given)
        check_overrides(given)
    except ConfigError as error:
        raise Fault(str(error), next((n for n in given if str(error).startswith(n)), "")) from error
    plain: dict[str, Any] = {
        name: constraint_of(name, given[name]).text for name in given.keys() & FORMS.keys()
    }
    for name in given.keys() - plain.keys():
        plain[COLUMNS[name]] = CHECKS[COLUMNS[name]](name, given[name])
    plain.setdefault("temperature", float(temperature))
    together = sampled_by(Sampling(), plain)
    if isinstance(together, str):
        raise Fault(together)
    return dict(sorted(plain.items()))
