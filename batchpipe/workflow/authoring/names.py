"""What the names in a workflow's texts mean: columns of the input, and fields that steps make."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from batchpipe.errors import ConfigError
from batchpipe.rows.words import listed


class Fault(ValueError):
    """What is wrong with a step: a sentence, and the key of the step at which it is wrong."""

    def __init__(self, sentence: str, key: str = "", *, line: int = 1) -> None:
        super().__init__(sentence)
        self.key = key  # such as "template", "messages[1].content", "items.verdict"
        self.line = line  # of the key's text, from 1

    def error(
        self, step: str, *, source: str, line: int | None, lines: Mapping[str, int]
    ) -> ConfigError:
        """The same with the step, and with the line of the file that it is wrong in."""
        known = self.key
        while known and known not in lines:  # messages[1].content, messages[1], messages
            known = known[: max(known.rfind("."), known.rfind("["), 0)]
        if known:
            line = lines[known] + (self.line - 1 if known == self.key else 0)
        if line is not None:
            return ConfigError(f"{source} line {line}, step {step}: {self}")
        inner = f"{self.key} line {self.line}: " if self.line > 1 else ""
        return ConfigError(f"step {step}: {inner}{self}")


@dataclass(frozen=True, slots=True)
class Names:
    """All that a text may read: ``title`` of the input, ``step.output`` of a step."""

    inputs: Collection[str]
    fields: Mapping[str, Collection[str]]  # step -> what it makes

    @property
    def columns(self) -> list[str]:
        """Every column, the input's first."""
        made = [f"{step}.{field}" for step, fields in self.fields.items() for field in fields]
        return [*self.inputs, *made]

    def column(self, name: str, field: str | None = None) -> str:
        """The column that ``name`` or ``name.field`` is; `Fault` where nobody makes it."""
        if name in self.fields:
            return self._made(name, field)
        if name in self.inputs:
            return name
        written = name if field is None else f"{name}.{field}"
        steps = [*self.fields] if field is not None else []
        raise Fault(
            f"nobody makes the column {written}{meant(name, [*self.inputs, *steps])}; "
            f"the input has {listed(self.inputs)}"
        )

    def written(self, column: str) -> str:
        """The column written ``title`` or ``step.output``, where no expression may stand."""
        name, dot, field = column.partition(".")
        found = self.column(name, field if dot else None)
        if found != column:
            raise Fault(f"{column} is a part of the column {found}; a whole column must stand here")
        return found

    def _made(self, step: str, field: str | None) -> str:
        fields = self.fields[step]
        if field in fields:
            return f"{step}.{field}"
        makes = f"{step} makes {listed(f'{step}.{each}' for each in fields)}"
        if field is None:
            raise Fault(f"{step} is a step, not a column; {makes}")
        raise Fault(f"{step} makes no {field}{meant(field, fields)}; {makes}")


def meant(name: str, known: Iterable[str]) -> str:
    """``; did you mean titles?`` where one of the known names is near, else nothing."""
    near = get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""
