"""What an operator was given, as the words of `batchpipe run`."""

from __future__ import annotations

from collections.abc import Mapping

from batchpipe.errors import ConfigError

# A try must never throw away what an earlier one has paid for.
REFUSED = {
    "overwrite": "give another out or run_dir, for example with '{{ ds }}' in its name",
    "json": "the task's log is for people, and its XCom has the counts",
    "input": "it is an argument of the operator",
    "model": "it is an argument of the operator",
    "out": "it is an argument of the operator",
    "run_dir": "it is an argument of the operator",
}


def check_options(options: Mapping[str, object]) -> None:
    """None of them is one that a task may not give; `ConfigError` else."""
    for name in options:
        if reason := REFUSED.get(name.replace("-", "_")):
            raise ConfigError(f"{name!r} is none of a task's options: {reason}")


def command_line(
    source: str, model: str, out: str, run_dir: str, options: Mapping[str, object]
) -> list[str]:
    """The command; an option that is None or False is not given, a list repeats its option."""
    given = {"model": model, "out": out, "run_dir": run_dir, **options}
    words = [word for name, value in given.items() for word in _words(name, value)]
    return ["run", *words, "--", source]


def _words(name: str, value: object) -> list[str]:
    option = f"--{name.replace('_', '-')}"
    if value is None or value is False:
        return []
    if value is True:
        return [option]
    values = value if isinstance(value, (list, tuple)) else [value]
    return [f"{option}={each}" for each in values]
