"""``${NAME}`` in a URL or a header: variables of the environment, such as passwords and keys.

What is written stays in everything that is kept or shown, so that no file of a run holds a value;
the values are looked up where they are sent. ``${NAME:-text}`` is the text where there is no such
variable, or an empty one.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from urllib.parse import quote, quote_plus

from batchpipe.workflow.authoring.names import Fault

LEAST_SECRET = 8  # characters; an answer may say a shorter text for reasons of its own

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")  # a name, a default
_HOST = re.compile(r"(?:\w+://)?(?:[^/?#]*@)?([^/?#]*)")  # of a URL, its port included


@dataclass(frozen=True, slots=True)
class Variable:
    """A place in a text where a variable's value is to stand."""

    written: str
    name: str
    default: str | None

    def value(self) -> str:
        """What the environment says now.

        Raises:
            Fault: it says nothing, and there is no default
        """
        if self.default is not None:
            return os.environ.get(self.name) or self.default
        if self.name not in os.environ:
            raise Fault(f"the environment has no variable {self.name}; set it")
        return os.environ[self.name]


def cut_at_variables(text: str) -> Iterator[str | Variable]:
    """The text piece by piece, in its order."""
    at = 0
    for found in _VARIABLE.finditer(text):
        yield text[at : found.start()]
        yield Variable(found[0], found[1], found[2])
        at = found.end()
    yield text[at:]


def variables_in(text: str) -> tuple[Variable, ...]:
    """All that the text names, in order."""
    return tuple(each for each in cut_at_variables(text) if isinstance(each, Variable))


def with_variables(text: str) -> str:
    """The text with values in place of its variables.

    >>> os.environ["FILMS_PASSWORD"] = "p"
    >>> with_variables("postgresql+psycopg://me:${FILMS_PASSWORD}@host/films")
    'postgresql+psycopg://me:p@host/films'
    >>> with_variables("${FILMS_URL:-sqlite:///films.db}")
    'sqlite:///films.db'

    Raises:
        Fault: a variable is not set and has no default
    """
    pieces = cut_at_variables(text)
    return "".join(each.value() if isinstance(each, Variable) else each for each in pieces)


def in_host(url: str) -> set[str]:
    """The variables, as they are written, that name the URL's host rather than a secret.

    >>> in_host("https://${USER}:${KEY}@${HOST:-a/b}/${PATH}?key=${KEY}")
    {'${HOST:-a/b}'}
    """
    variables = variables_in(url)
    places = iter(range(len(variables)))
    plain = _VARIABLE.sub(lambda _: f"\0{next(places)}\0", url)
    found = _HOST.match(plain)
    assert found is not None, "it matches the empty text"
    return {variables[int(place)].written for place in re.findall("\0([0-9]+)\0", found[1])}


class Hidden:
    """The values of variables, which no sentence and no answer may show.

    >>> os.environ["FILMS_KEY"] = "open sesame"
    >>> Hidden(["key ${FILMS_KEY}"]).out_of("there is no /open%20sesame")
    'there is no /${FILMS_KEY}'
    """

    def __init__(
        self,
        texts: Iterable[str],
        *,
        least_characters: int = 1,  # of a value; one shorter may be shown
        besides: Collection[str] = (),  # variables, as they are written, that may be shown
    ) -> None:
        named = (each for text in texts for each in variables_in(text))
        written = {each.written: each.value() for each in named if each.written not in besides}
        forms = {
            form: name
            for name, value in written.items()
            if len(value) >= least_characters
            for form in (
                value,
                json.dumps(value)[1:-1],
                quote(value),
                quote(value, safe=""),
                quote_plus(value),
            )
        }
        self._names = dict(sorted(forms.items(), key=lambda each: -len(each[0])))
        self._pattern = re.compile("|".join(map(re.escape, self._names)) or r"(?!)")

    def out_of(self, text: str) -> str:
        """The text with the variable as it is written wherever a value of it stands."""
        return self._pattern.sub(lambda found: self._names[found[0]], text)
