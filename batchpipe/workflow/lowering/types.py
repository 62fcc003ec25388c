"""What kinds of values the columns of a workflow hold, as far as that is known before it runs.

Enough to tell a clash before a thousand rows fail of it; where nothing is known, all is allowed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from jinja2 import nodes

from batchpipe.rows.words import listed
from batchpipe.workflow.authoring.names import Fault, meant


@dataclass(frozen=True, slots=True)
class Type:
    """A kind of value, as a sentence names it."""

    word: str
    element: Type | None = None  # of a list, where it is known
    fields: Mapping[str, Type] | None = None  # of an object, where all are known


ANY = Type("a value")
TEXT = Type("a text")
NUMBER = Type("a number")
BOOLEAN = Type("true or false")
LIST = Type("a list")
OBJECT = Type("an object")

_OF_FILTER = {  # what Jinja2's filters give
    word: found
    for found, words in (
        (TEXT, "capitalize escape format join lower replace string title tojson trim truncate"),
        (TEXT, "upper urlencode wordwrap"),
        (NUMBER, "abs count float int length round wordcount"),
        (LIST, "batch list map reject rejectattr select selectattr slice unique"),
    )
    for word in words.split()
}
_OF_SCHEMA = {"string": TEXT, "integer": NUMBER, "number": NUMBER, "boolean": BOOLEAN}
# Whose methods a template may call; an object of unknown fields may have any field.
_PYTHON: dict[str, type] = {
    TEXT.word: str,
    NUMBER.word: float,
    BOOLEAN.word: bool,
    LIST.word: list,
}
_ORDERING = ("gt", "gteq", "lt", "lteq")


def type_of_schema(schema: object) -> Type:
    """Of the values that fit a JSON Schema."""
    if not isinstance(schema, Mapping):
        return ANY
    word = schema.get("type")
    if word == "array":
        return Type(LIST.word, type_of_schema(schema.get("items")))
    if word == "object":
        known = schema.get("properties")
        if not known or schema.get("additionalProperties") or "patternProperties" in schema:
            return OBJECT
        return Type(OBJECT.word, fields={n: type_of_schema(each) for n, each in known.items()})
    choices = schema.get("enum")
    if isinstance(choices, list):
        return type_of_values(choices)
    return _OF_SCHEMA.get(word, ANY) if isinstance(word, str) else ANY


def type_of_arrow(kind: pa.DataType) -> Type:
    """Of the values of a Parquet column."""
    if pa.types.is_dictionary(kind):
        return type_of_arrow(kind.value_type)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return TEXT
    if pa.types.is_boolean(kind):
        return BOOLEAN
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return NUMBER
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return Type(LIST.word, type_of_arrow(kind.value_type))
    if pa.types.is_struct(kind):
        return Type(OBJECT.word, fields={field.name: type_of_arrow(field.type) for field in kind})
    return ANY


def type_of_values(values: Iterable[Any]) -> Type:
    """Of values that were looked at: what all of them but null are, where that is one."""
    found = {_type_of_value(value).word for value in values if value is not None}
    return Type(found.pop()) if len(found) == 1 else ANY


def _type_of_value(value: object) -> Type:
    if isinstance(value, bool):
        return BOOLEAN
    if isinstance(value, str):
        return TEXT
    if isinstance(value, (int, float)):
        return NUMBER
    if isinstance(value, dict):
        return OBJECT
    return LIST if isinstance(value, (list, tuple)) else ANY


class Typing:
    """The types of the parts of a text or an expression over columns of these types."""

    def __init__(self, columns: Mapping[str, Type]) -> None:
        self._columns = columns

    def check(self, tree: nodes.Node) -> None:
        """Nothing in it clashes; `Fault` with the line, else."""
        for node in tree.find_all((nodes.Getattr, nodes.Getitem, nodes.Compare)):
            self.of(node)

    def of(self, node: nodes.Node) -> Type:
        """The type of the node's value; `Fault` where no row could have one."""
        match node:
            case nodes.Name():
                return self._columns.get(node.name, ANY)
            case nodes.Const():
                return _type_of_value(node.value)
            case nodes.Getattr(node=inner, attr=str(field)):
                return self._part(node, inner, field, is_method=True)
            case nodes.Getitem(node=inner, arg=nodes.Const(value=str(field))):
                return self._part(node, inner, field, is_method=False)
            case nodes.Compare():
                return self._comparison(node)
            case nodes.Not() | nodes.Test():
                return BOOLEAN
            case nodes.Filter():
                return _OF_FILTER.get(node.name, ANY)
            case nodes.Concat():
                return TEXT
            case nodes.List() | nodes.Tuple():
                return LIST
            case nodes.Dict():
                return OBJECT
            case nodes.And() | nodes.Or() | nodes.Add():
                left, right = self.of(node.left), self.of(node.right)
                return left if left == right else ANY
            case nodes.Sub() | nodes.Div() | nodes.FloorDiv() | nodes.Neg():
                return NUMBER
        return ANY

    def _part(self, node: nodes.Expr, inner: nodes.Expr, field: str, *, is_method: bool) -> Type:
        if isinstance(inner, nodes.Name) and f"{inner.name}.{field}" in self._columns:
            return self._columns[f"{inner.name}.{field}"]
        of = self.of(inner)
        if of.fields is not None and field in of.fields:
            return of.fields[field]
        python = dict if of.fields is not None else _PYTHON.get(of.word)
        if python is None or (is_method and hasattr(python, field)):
            return ANY
        what = written(inner)
        if of.fields is not None:
            known = f"{meant(field, of.fields)}; it has {listed(of.fields)}"
            raise Fault(f"{what} has no field {field}{known}", line=node.lineno)
        asked = "; a step with a schema makes `parsed`, which has fields" if of == TEXT else ""
        raise Fault(f"{what} is {of.word} and has no field {field}{asked}", line=node.lineno)

    def _comparison(self, node: nodes.Compare) -> Type:
        for operand in node.ops:
            sides = {self.of(node.expr).word, self.of(operand.expr).word}
            if operand.op in _ORDERING and sides == {TEXT.word, NUMBER.word}:
                is_left = self.of(node.expr) == TEXT
                text = written(node.expr if is_left else operand.expr)
                raise Fault(
                    f"{text} is a text and is compared with a number; write {text} | int",
                    line=node.lineno,
                )
        return BOOLEAN


def written(node: nodes.Node) -> str:
    """The expression about as its author wrote it."""
    match node:
        case nodes.Name():
            return node.name
        case nodes.Getattr():
            return f"{written(node.node)}.{node.attr}"
        case nodes.Getitem(arg=nodes.Const(value=str(field))):
            return f"{written(node.node)}.{field}"
        case nodes.Const():
            return repr(node.value)
    return "this"
