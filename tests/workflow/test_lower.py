"""A workflow becomes operators with levels, or one sentence says why it cannot work."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from flow_files import YAML, python_flow

import batchpipe as bp
from batchpipe.errors import ConfigError
from batchpipe.workflow.authoring.yaml_file import flow_of_text
from batchpipe.workflow.lowering.lower import lowered
from batchpipe.workflow.lowering.model_options import check_models
from batchpipe.workflow.lowering.types import LIST, NUMBER, TEXT, Type, type_of_arrow

INPUTS = {"passage": TEXT, "title": TEXT, "genre": TEXT, "tags": Type(LIST.word, TEXT)}
HEAD = "models: {m: x}\nsteps:\n"
A = "  a: {llm: m, template: '{{ title }}'}\n"


def lower_text(steps: str, head: str = HEAD) -> object:
    return lowered(flow_of_text(head + steps, "f.yaml"), INPUTS)


def test_every_kind_of_step_becomes_an_operator() -> None:
    found = lowered(flow_of_text(YAML, "flow.yaml"), INPUTS)
    by_name = found.graph.by_name
    assert [each.name for each in found.graph.operators] == [*flow_of_text(YAML, "x").by_name]
    kinds = [
        "llm",
        "llm",
        "llm",
        "sql",
        "http",
        "python",
        "filter",
        "explode",
        "llm",
        "reduce",
        "vote",
        "cascade",
    ]
    assert [each.kind for each in found.graph.operators] == kinds
    assert by_name["entities"].columns == ("entities.output", "entities.parsed")
    assert by_name["entities"].blocks == ("Passage:\n⟨0⟩\n",)
    assert (by_name["chat"].roles, by_name["chat"].blocks) == (("user",), ("Who wrote ⟨0⟩?",))
    assert by_name["free"].order_free
    assert by_name["facts"].reads == ("entities.output",)
    assert (by_name["facts"].resource, by_name["page"].resource) == ("films", "host")
    assert by_name["verdict"].models == ("small", "large")
    impure = [each.name for each in found.graph.operators if not each.is_pure]
    assert impure == ["verdict"]
    assert found.output == {"answer": "verdict.output", "grade": "grade.output"}
    assert lowered(python_flow().flow, INPUTS).graph.outputs == found.graph.outputs


def test_a_step_is_asked_for_the_deepest_level_that_it_reads() -> None:
    graph = lowered(flow_of_text(YAML, "flow.yaml"), INPUTS).graph
    levels = {each.name: (each.level, each.makes) for each in graph.operators}
    assert levels["entities"] == ("", None)
    assert levels["each"] == ("", "each")
    assert levels["judge"] == ("each", None)
    assert levels["together"] == ("each", "together")
    assert graph.by_name["together"].columns == ("together.genre", "together.items")


def test_a_reduce_without_groups_gives_a_row_to_the_level_above() -> None:
    flow = (
        bp.Workflow(models={"m": "x"})
        .explode("outer", "tags")
        .explode("inner", "outer.item")
        .llm("said", "m", template="{{ inner.item }}")
        .reduce("again", "inner", items={"tag": "title"})
        .llm("sum", "m", template="{{ again.items | tojson }}")
        .flow
    )
    graph = lowered(flow, {"tags": Type(LIST.word, LIST), "title": TEXT}).graph
    levels = {each.name: (each.level, each.makes) for each in graph.operators}
    assert levels["said"] == ("inner", None)
    assert levels["again"] == ("outer", None)
    assert levels["sum"] == ("outer", None)
    # No item has a column of the level, and yet the reduce reads one.
    assert graph.by_name["again"].reads == ("inner.index", "title")
    assert graph.result_level == "inner"


def test_arguments_are_equal_where_steps_are_twins() -> None:
    steps = A + "  b: {llm: m, template: '{{title}}', temperature: 0.0}\n"
    steps += (
        "  c: {llm: m, template: '{{ a.output }}'}\n  d: {llm: m, template: '{{ b.output }}'}\n"
    )
    a, b, c, d = lowered(flow_of_text(HEAD + steps, "f"), INPUTS).graph.operators
    assert (a.arguments, a.blocks, a.reads) == (b.arguments, b.blocks, b.reads)
    assert (c.arguments, c.blocks) == (d.arguments, d.blocks)
    assert c.reads != d.reads


def test_steps_may_be_written_in_any_order() -> None:
    steps = "  b: {llm: m, template: '{{ a.output }}'}\n" + A
    graph = lowered(flow_of_text(HEAD + steps, "f"), INPUTS).graph
    assert [each.name for each in graph.operators] == ["a", "b"]
    assert graph.outputs == ("b.output",)


def test_functions_within_others_have_no_twins() -> None:
    def double(rows: list[dict[str, object]]) -> list[dict[str, object]]:
        return rows

    flow = bp.Workflow().python("a", double, reads=["title"], writes=["x"]).flow
    assert not lowered(flow, INPUTS).graph.operators[0].is_pure


def test_functions_that_see_other_names_are_no_twins() -> None:
    flow = bp.Workflow(models={"m": "x"})
    for name, said in (("a", "x"), ("b", "y"), ("c", "x"), ("d", "y")):
        flow.llm(name, "m", template=said)
    for name, reads in (("f", ["a.output"]), ("g", ["c.output"])):
        flow.python(name, "json:dumps", reads=reads, writes=["x"])
    for name, reads in (("h", ["a.output", "b.output"]), ("i", ["c.output", "d.output"])):
        flow.python(name, "json:dumps", reads=reads, writes=["x"])
    f, g, h, i = lowered(flow.flow, INPUTS).graph.operators[-4:]
    assert f.arguments == g.arguments  # both see "output"
    assert h.arguments != i.arguments  # one sees "a.output", the other "c.output"


def test_types_of_parquet_columns_are_known() -> None:
    kind = pa.struct([("names", pa.list_(pa.large_string())), ("year", pa.int16())])
    found = type_of_arrow(kind)
    assert found.fields == {"names": Type(LIST.word, TEXT), "year": NUMBER}


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (
            "  a: {llm: m, template: '{{ b.output }}'}\n  b: {llm: m, template: '{{ a.output }}'}",
            r"circle: step a \(line 3\), which is read by step b \(line 4\), which is read by",
        ),
        ("  a: {llm: m, template: '{{ a.output }}'}", r"f.yaml: step a \(line 3\) reads itself"),
        ("  a:\n    llm: m\n    template: |\n      x\n      {{ titel }}", "line 7, step a: templa"),
        ("  a: {llm: m, template: '{{ titel }}'}", r"makes the column titel; did you mean title\?"),
        ("  a: {llm: m, template: '{{ title }'}", "line 3, step a: template: unexpected '}'"),
        (
            "  a: {llm: m, messages: [{role: user, content: '{{ x }}'}]}",
            r"messages\[0\]: nobody ma",
        ),
        (
            A + "  title: {filter: 'true'}",
            "line 4, step title: the input has a column of this name",
        ),
        (
            A + "  b: {llm: n, template: x}",
            "line 4, step b: there is no model n; the workflow has m",
        ),
        (A + "  b: {filter: title}", "step b: filter: title is a text; it must be true or false"),
        (A + "  b: {filter: title > 3}", "filter: title is a text and is compared with a number"),
        (A + "  b: {explode: title}", "explode: title is a text; only a list has elements"),
        (A + "  b: {explode: a.output}", "explode: a.output is a text; only a list has elements"),
        (
            A + "  b: {filter: a.output.x == 1}",
            "a.output is a text and has no field x; a step with",
        ),
        (
            A + "  b: {llm: m, template: x, schema: name}\n  c: {filter: b.parsed.nam == 'x'}",
            r"line 5, step c: filter: b.parsed has no field nam; did you mean name\?; it has name",
        ),
        (
            A + "  e: {explode: tags}\n  f: {explode: tags}\n"
            "  g: {llm: m, template: '{{ e.item }}{{ f.item }}'}",
            "line 6, step g: e.item is one of each row of e and f.item of each row of f",
        ),
        (
            A + "  e: {explode: tags}\n  g: {reduce: e, items: {x: e.item}, by: [genre]}\n"
            "  h: {llm: m, template: '{{ g.items }}{{ title }}'}",
            "step h: g.items is one of each row of g and title of each row of the input",
        ),
        (
            A + "  e: {explode: tags}\n  f: {explode: tags}\n  r: {reduce: e, items: {x: f.item}}",
            "step r: .* and f.item of each row of f, and no row has both",
        ),
        (
            A + "  r: {reduce: a, items: {x: title}}",
            "a makes no rows of its own; what can be reduce",
        ),
        (
            A + "  r: {reduce: q, items: {x: title}}",
            "step r: there is no step q; what can be reduc",
        ),
        (A + "  r: {reduce: input, items: {x: title}}", "nothing is above the rows of the input"),
        (
            A + "  e: {explode: tags}\n  r: {reduce: input, items: {x: e.item}, by: [genre]}",
            "r reads a column of e, which is below the input; reduce e first, or write reduce: e",
        ),
        (
            A + "  p: {python: 'nowhere:x', reads: [], writes: [y]}",
            "its function nowhere:x cannot be imp",
        ),
        (
            A + "  p: {python: 'json:x', reads: [], writes: [y]}",
            "json:x cannot be imported",
        ),
        (
            A + "  p: {python: 'json:__name__', reads: [], writes: [y]}",
            "is no function but 'json'",
        ),
        (
            A + "  p: {python: 'json:dumps', reads: [a], writes: [y]}",
            r"reads\[0\]: a is a step, not",
        ),
        (A + "  s: {sql: d, query: SELECT 1}", "step s: the workflow has no database d"),
        (A + "output: [a]", "f.yaml: output: a is a step, not a column; a makes a.output"),
        (A + "output: {error: a.output}", "every result has a column error; choose another label"),
        (A + "output: {title: a.output}", "the input has a column title; choose another label"),
        (
            A + "  e: {explode: tags}\n  f: {explode: tags}",
            "output: e.index is one of each row of e",
        ),
    ],
)
def test_what_cannot_work_is_told_before_anything_runs(steps: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        lower_text(steps)
    assert str(caught.value).startswith("f.yaml")


@pytest.mark.parametrize(
    ("query", "values", "message"),
    [
        ("SELECT 1; DROP TABLE film", "{}", "query is several statements; make a step of each"),
        ("SELECT :titel", "{title: title}", r"parameter :titel has no value; did you mean title\?"),
        ("SELECT 1", "{title: title}", "line 5, step s: the query has no parameter :title"),
        ("SELECT '12:00', ':a'", "{}", r"has :a within quotes or a comment"),
        ("SELECT '{{ title }}', {{ title }}", "{}", "a query is no template; write :name"),
        ("-- nothing", "{}", "the query is empty"),
        ("SELECT :t", "{t: tags}", "values.t: tags is a list; a query takes single values"),
    ],
)
def test_a_query_that_cannot_work_is_told(query: str, values: str, message: str) -> None:
    head = "databases: {d: 'sqlite:///x.db'}\nsteps:\n"
    steps = f'  s:\n    sql: d\n    values: {values}\n    query: "{query}"\n'
    with pytest.raises(ConfigError, match=message):
        lower_text(steps, head)


def test_queries_that_work_are_let_through() -> None:
    query = "SELECT x::text, 'a;b', ';' /* ; */ FROM t WHERE a = :a AND b = :b OR c = :a; -- ;"
    flow = bp.Workflow(databases={"d": "sqlite:///x.db"})
    flow.sql("s", "d", query, values={"a": "title", "b": 3})
    operator = lowered(flow.flow, INPUTS).graph.by_name["s"]
    assert operator.reads == ("title",)
    assert operator.is_pure


def test_what_no_step_asks_is_told() -> None:
    with pytest.raises(ConfigError, match="no step asks the model k; use it or leave it out"):
        lower_text(A, "models: {m: x, k: y}\nsteps:\n")


def test_a_variable_that_is_not_set_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FILMS_PASSWORD", raising=False)
    flow = bp.Workflow(databases={"d": "postgresql+psycopg://u:${FILMS_PASSWORD}@h/f"})
    flow.sql("s", "d", "SELECT 1")
    with pytest.raises(ConfigError, match="no variable FILMS_PASSWORD"):
        lowered(flow.flow, INPUTS)
    monkeypatch.setenv("FILMS_PASSWORD", "secret")
    assert "secret" not in repr(lowered(flow.flow, INPUTS))


def test_a_model_that_does_not_exist_is_told(model: Path, tmp_path: Path) -> None:
    flow = bp.Workflow(models={"m": model, "k": tmp_path / "none"})
    flow.cascade("c", ["m", "k"], template="x", choices=["a", "b"])
    with pytest.raises(ConfigError, match=r"^model k of the workflow: model .*none cannot be load"):
        check_models(flow.flow)
