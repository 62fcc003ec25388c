"""Every public name has an example in its documentation, and the examples are true."""

from __future__ import annotations

import doctest
import sys
from importlib import import_module
from pathlib import Path

import pytest

import batchpipe as bp
from batchpipe.api.llm import LLM

MODULES = (
    "batchpipe.api.annotate",
    "batchpipe.api.forms",
    "batchpipe.api.jobs",
    "batchpipe.api.llm",
    "batchpipe.api.logprobs",
    "batchpipe.api.outputs",
    "batchpipe.api.sampling",
    "batchpipe.api.score",
    "batchpipe.api.score_outputs",
    "batchpipe.api.sentences",
    "batchpipe.errors",
    "batchpipe.polars",
    "batchpipe.explain.forecast_text",
    "batchpipe.running.progress",
    "batchpipe.running.summary",
    "batchpipe.workflow.builder",
    "batchpipe.workflow.authoring.variables",
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_are_true(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ran = doctest.testmod(import_module(name))
    assert ran.attempted > 0
    assert ran.failed == 0


def test_every_public_name_has_an_example_that_is_run() -> None:
    named = {name: getattr(bp, name) for name in bp.__all__}
    named["run"] = sys.modules["batchpipe.api.jobs"].run
    named |= {f"LLM.{name}": getattr(LLM, name) for name in ("generate", "chat", "score")}
    without = [name for name, value in named.items() if ">>> " not in (value.__doc__ or "")]
    assert without == []
    elsewhere = [name for name, value in named.items() if value.__module__ not in MODULES]
    assert elsewhere == []
