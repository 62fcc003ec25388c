"""The forms that a job's rows ask of their answers, before a model is loaded for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any

from batchpipe.errors import ConfigError
from batchpipe.job.language import Language
from batchpipe.job.prepare import Job
from batchpipe.planner.request import Constraint, Sampling
from batchpipe.rows.parameters import constraint_in

PACKAGES = ("xgrammar", "jsonschema")


def constraints_of(samplings: Iterable[Sampling]) -> dict[Constraint, None]:
    """The different constraints among these, in the order of their first."""
    found = (sampling.constraint for sampling in samplings)
    return {constraint: None for constraint in found if constraint is not None}


def check_own_form(sampling: Mapping[str, Any]) -> None:
    """What a job's own parameters ask of rows that say nothing can be compiled.

    Raises:
        ConfigError: it cannot, or what compiles it is not installed
    """
    constraint = constraint_in(sampling)
    if constraint is None:
        return
    fault = grammars().grammar_fault(constraint)
    if fault is not None:
        raise ConfigError(f"--{constraint.kind}: {fault}")


def check_judge(samplings: Iterable[Sampling]) -> None:
    """What the answers say can be held against their schemas, whoever answers.

    Raises:
        ConfigError: what does so is not installed
    """
    if any(constraint.kind == "schema" for constraint in constraints_of(samplings)):
        _imported("jsonschema")


def form_faults(job: Job, language: Language) -> dict[int, str]:
    """Rows whose constraint cannot be compiled, each with the reason.

    Raises:
        ConfigError: nothing can be, for this model or here
    """
    asked = constraints_of(job.samplings)
    if not asked:
        return {}
    if not language.eos_token_ids:
        raise ConfigError(
            f"model {language.name} has no token that ends an answer, which choices, schema, regex "
            f"and grammar need; set eos_token_id in its generation_config.json"
        )
    fault_of = grammars().grammar_fault
    faults = {each: fault for each in asked if (fault := fault_of(each)) is not None}
    return {
        int(job.runnable[place]): faults[sampling.constraint]
        for place, sampling in enumerate(job.samplings if faults else ())
        if sampling.constraint in faults
    }


def grammars() -> ModuleType:
    """`batchpipe.structured.grammars`, which not everybody can import.

    Raises:
        ConfigError: a package is missing, with the line that installs it
    """
    _imported("jsonschema")
    return _imported("batchpipe.structured.grammars")


def _imported(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"choices, schema, regex and grammar need the packages {' and '.join(PACKAGES)} "
            f"({error}): pip install 'batchpipe[structured]'"
        ) from error
