"""A prompt built from a row's columns by a Jinja2 template, in a sandbox.

Columns are only ever values: what a cell holds is never read as a template.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from jinja2 import StrictUndefined, TemplateSyntaxError, meta, nodes
from jinja2.sandbox import SandboxedEnvironment

from batchpipe.errors import ConfigError
from batchpipe.rows.words import listed, one_line

_FILE = "<template>"  # the name that Jinja2 gives a template's frames in a traceback


class RenderError(ValueError):
    """One row does not fit the template; the message names the line and the cause."""


def _no_null(value: object) -> object:
    """``None`` would be printed as the word None, and the model would read it."""
    if value is None:
        raise ValueError("the value is null; {{ column or '' }} allows that")
    return value


def sandbox() -> SandboxedEnvironment:
    """Where templates over rows are compiled: nothing is escaped, and nothing is undefined."""
    return SandboxedEnvironment(
        undefined=StrictUndefined,
        autoescape=False,  # a prompt is no HTML
        keep_trailing_newline=True,
        finalize=_no_null,
    )


def free_names(environment: SandboxedEnvironment, source: str | nodes.Template) -> set[str]:
    """The names that the template looks up in its row, those of Jinja2's functions among them."""
    bare = environment.overlay()
    bare.globals = {}  # so that a column may have the name of a function such as range
    return meta.find_undeclared_variables(bare.parse(source) if isinstance(source, str) else source)


class Template:
    """A checked template; ``columns`` are the columns that every row must have."""

    def __init__(self, source: str) -> None:
        self.source = source
        environment = sandbox()
        try:
            self._template = environment.from_string(source)
            found = free_names(environment, source)
        except TemplateSyntaxError as error:
            message = f"the template is wrong in line {error.lineno}: {error.message}"
            raise ConfigError(message) from error
        self.lookups = tuple(sorted(found))
        self.columns = tuple(name for name in self.lookups if name not in environment.globals)

    @classmethod
    def from_option(cls, option: str) -> Template:
        """The template that ``--template`` gives: the text itself, or ``@file``."""
        if not option.startswith("@"):
            return cls(option)
        path = Path(option[1:])
        try:
            return cls(path.read_text(encoding="utf-8"))
        except OSError as error:
            reason = error.strerror or str(error)
            raise ConfigError(f"cannot read the template {path}: {reason}") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"the template {path} is not UTF-8: {error}") from error

    def check_columns(self, names: Collection[str]) -> None:
        """Every column that the template reads exists, else ``ConfigError`` naming both sides."""
        unknown = [name for name in self.columns if name not in names]
        if unknown:
            what = "a column" if len(unknown) == 1 else "columns"
            raise ConfigError(
                f"the template uses {what} that the input does not have: {listed(unknown)}; "
                f"its columns are {listed(names)}"
            )

    def render(self, row: Mapping[str, object]) -> str:
        """The prompt of this row; ``RenderError`` where the row does not fit."""
        try:
            return self._template.render(row)
        except Exception as error:
            # A template may call any method of any value, so a row can raise anything at all.
            line = failing_line(error)
            where = f"template line {line}" if line else "the template"
            cause = one_line(str(error)) or type(error).__name__
            nulls = [name for name in self.columns if row.get(name, "") is None]
            hint = f" (null in this row: {listed(nulls)})" if nulls else ""
            raise RenderError(f"{where} failed: {cause}{hint}") from error


def failing_line(error: Exception) -> int | None:
    """The innermost template line of the traceback."""
    line = None
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == _FILE:
            line = trace.tb_lineno
        trace = trace.tb_next
    return line
