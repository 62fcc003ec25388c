"""Templates: columns are values and nothing else, and every mistake names its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from batchpipe.errors import ConfigError
from batchpipe.rows.template import RenderError, Template


def test_columns_are_what_the_template_looks_up() -> None:
    template = Template("{% for i in range(n) %}{{ text }}{% set x = i %}{{ x }}{% endfor %}\n")
    assert template.columns == ("n", "text")
    assert template.render({"n": 2, "text": "a"}) == "a0a1\n"


def test_a_column_may_have_the_name_of_a_jinja_function() -> None:
    template = Template("{{ range }}")
    assert template.columns == ()
    assert template.lookups == ("range",)
    assert template.render({"range": "5 km"}) == "5 km"


def test_text_is_neither_escaped_nor_rendered_again() -> None:
    text = "<b> & {{ 7 * 7 }} {% raw %}"
    assert Template("{{ text }}").render({"text": text}) == text


def test_syntax_error_names_its_line() -> None:
    with pytest.raises(ConfigError, match=r"the template is wrong in line 2: "):
        Template("Hello\n{{ text }\n")
    with pytest.raises(ConfigError, match=r"line 1: No filter named 'shout'"):
        Template("{{ text | shout }}")


def test_unknown_columns_are_named_with_those_there_are() -> None:
    template = Template("{{ text }} {{ titel }}")
    with pytest.raises(ConfigError, match=r"does not have: titel; its columns are id, text$"):
        template.check_columns(["id", "text"])
    with pytest.raises(ConfigError, match=r"uses columns that .*: text, titel; its columns are x$"):
        template.check_columns(["x"])
    template.check_columns(["text", "titel", "more"])


@pytest.mark.parametrize(
    ("source", "row", "message"),
    [
        ("a\n{{ 1 / n }}", {"n": 0}, "template line 2 failed: division by zero"),
        ("{{ text }}", {}, "template line 1 failed: 'text' is undefined"),
        ("{{ d.x }}", {"d": {}}, "template line 1 failed: 'dict object' has no attribute 'x'"),
        ("{{ n + 1 }}", {"n": "a"}, "template line 1 failed: can only concatenate str"),
        (
            "\n\n{{ t.__class__.__mro__ }}",
            {"t": "a"},
            "template line 3 failed: access to attribute",
        ),
        ("{{ range(10000000) | list }}", {}, "template line 1 failed: Range too big"),
        ("{{ text }}", {"text": None}, r"the value is null; .* \(null in this row: text\)"),
    ],
)
def test_a_row_that_does_not_fit_is_named_by_line_and_cause(
    source: str, row: dict[str, object], message: str
) -> None:
    with pytest.raises(RenderError, match=message):
        Template(source).render(row)


def test_null_can_be_allowed() -> None:
    assert Template("a{{ text or '' }}{{ none or '' }}").render({"text": None}) == "a"
    assert Template("{% if text %}x{% endif %}").render({"text": None}) == ""


def test_option_reads_a_file(tmp_path: Path) -> None:
    path = tmp_path / "prompt.txt"
    path.write_text("Grüße {{ name }}\n", encoding="utf-8")
    assert Template.from_option(f"@{path}").render({"name": "Ada"}) == "Grüße Ada\n"
    assert Template.from_option("{{ name }}@x").render({"name": "Ada"}) == "Ada@x"


def test_option_with_a_bad_file_names_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nope.txt: No such file"):
        Template.from_option(f"@{tmp_path / 'nope.txt'}")
    (tmp_path / "latin.txt").write_bytes(b"\xe9")
    with pytest.raises(ConfigError, match=r"latin.txt is not UTF-8"):
        Template.from_option(f"@{tmp_path / 'latin.txt'}")
