"""How a prompt's sampling is written for `/v1/completions`, server by server. Sends nothing.

OpenAI's own API knows the temperature, `top_p`, `seed` and `stop`; what servers know beside that,
and under which name, is theirs. A server that is asked for less than it knows fills in defaults of
its own, so one that is known is told everything.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from batchpipe.planner.request import Constraint, Sampling
from batchpipe.structured.constraint import labels_of

# Field of `Sampling` beyond OpenAI's own -> the value that asks for nothing.
BEYOND: dict[str, object] = {
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "stop_token_ids": (),
    "ignore_eos": False,
}
WHERE_SAMPLED = ("top_k", "min_p")  # of no meaning to a greedy answer


@dataclass(frozen=True, slots=True)
class Dialect:
    """What one kind of server understands."""

    server: str
    names: Mapping[str, str]  # field of `BEYOND` -> the server's name for it
    known: bool = True  # else a field is sent only where it asks for something
    top_k_off: int = -1
    # The fields that ask for the form of an answer; None where the server has none that is known.
    form: Callable[[Constraint], dict[str, object]] | None = None

    def lacks(self, sampling: Sampling) -> list[str]:
        """Parameters that the sampling asks for and the server has no word for."""
        lacked = [name for name in asked(sampling) if name not in self.names]
        if sampling.constraint is not None and self.form is None:
            lacked.append(sampling.constraint.kind)
        return lacked

    def fields(self, sampling: Sampling, seed: int | None) -> dict[str, Any]:
        """The fields of OpenAI's API, and as ``extra_body`` those beyond it."""
        fields: dict[str, Any] = {
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
        }
        if sampling.temperature > 0:
            fields |= {"top_p": sampling.top_p, "seed": seed}
        if sampling.stop:
            fields["stop"] = list(sampling.stop)
        wanted = asked(sampling)
        beyond = {
            theirs: self._value(name, sampling)
            for name, theirs in self.names.items()
            if name in wanted
            or (self.known and (sampling.temperature > 0 or name not in WHERE_SAMPLED))
        }
        if sampling.constraint is not None:
            assert self.form is not None, f"{self.server} has no {sampling.constraint.kind}"
            beyond |= self.form(sampling.constraint)
        return fields | {"extra_body": beyond}

    def _value(self, name: str, sampling: Sampling) -> object:
        value: object = getattr(sampling, name)
        if name == "top_k" and not value:
            return self.top_k_off
        return list(value) if isinstance(value, tuple) else value


def asked(sampling: Sampling) -> list[str]:
    """The fields beyond OpenAI's own that this sampling asks for something in."""
    return [
        name
        for name, nothing in BEYOND.items()
        if getattr(sampling, name) != nothing
        and (sampling.temperature > 0 or name not in WHERE_SAMPLED)
    ]


def vllm_form(constraint: Constraint) -> dict[str, object]:
    """The constraint as vLLM's `StructuredOutputsParams`."""
    if constraint.kind == "choices":
        return {"choice": labels_of(constraint)}
    if constraint.kind == "schema":
        return {"json": json.loads(constraint.text)}
    return {constraint.kind: constraint.text}


def _in_body_of_vllm(constraint: Constraint) -> dict[str, object]:
    return {"structured_outputs": vllm_form(constraint)}


SAME_NAMES = {name: name for name in BEYOND}
LLAMA_NAMES = {"top_k": "top_k", "min_p": "min_p", "repetition_penalty": "repeat_penalty"}

UNKNOWN = Dialect("a server of unknown kind", SAME_NAMES, known=False)

# By what `/v1/models` says that a model is owned by.
DIALECTS = {
    "vllm": Dialect("vLLM", SAME_NAMES, form=_in_body_of_vllm),
    "sglang": Dialect("SGLang", SAME_NAMES),
    "llamacpp": Dialect("llama.cpp", LLAMA_NAMES | {"ignore_eos": "ignore_eos"}, top_k_off=0),
    "me": Dialect("llama-cpp-python", LLAMA_NAMES, top_k_off=0),
}
