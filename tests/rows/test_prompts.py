"""Prompts: one source for the whole job, and a sentence for each row without a prompt."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from row_jobs import cut_small, lines_of, table_of

from batchpipe.errors import ConfigError
from batchpipe.planner.request import Prompts
from batchpipe.rows.prompts import PromptReader, PromptTable
from batchpipe.rows.source import Rows, Source, open_source
from batchpipe.rows.template import Template
from batchpipe.rows.token_ids import read_token_ids

Make = Callable[[list[dict[str, Any]]], Source]
CHAT = [{"role": "user", "content": "hi"}]


@pytest.fixture
def jsonl(tmp_path: Path) -> Make:
    return lambda rows: lines_of(tmp_path, rows)


@pytest.fixture(params=[lines_of, table_of])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    return lambda rows: request.param(tmp_path, rows)


def tables(source: Source, **options: Any) -> list[tuple[Rows, PromptTable]]:
    """Every batch and its prompts."""
    reader = PromptReader(source, **options)
    return [(rows, reader.read(rows)) for rows in source.batches()]


def only_table(source: Source, **options: Any) -> PromptTable:
    [(_, table)] = tables(source, **options)
    return table


def prompts(source: Source, **options: Any) -> list[object]:
    """What became of each row: kind and prompt, or the sentence."""
    found: dict[int, object] = {}
    for rows, table in tables(source, **options):
        assert not table.faults.keys() & set(table.rows.tolist())
        found |= {rows.first + place: why for place, why in table.faults.items()}
        for place, prompt in zip(table.rows.tolist(), table.prompts, strict=True):
            value = prompt.tolist() if isinstance(prompt, np.ndarray) else prompt
            found[rows.first + place] = (table.kind, value)
    return [found[ordinal] for ordinal in range(len(source))]


def test_texts(either: Make) -> None:
    rows = either([{"prompt": "a"}, {"prompt": None}, {"prompt": ""}, {"prompt": " "}])
    assert prompts(rows) == [("text", "a"), "prompt is null", "prompt is empty", ("text", " ")]


def test_a_prompt_that_is_no_text_is_a_fault(jsonl: Make) -> None:
    rows = jsonl([{"prompt": 7}, {"prompt": ["a"]}, {"x": 1}, {"prompt": "a\ud800"}])
    assert prompts(rows) == [
        "prompt is 7, not a text",
        "prompt is ['a'], not a text",
        "prompt is null",
        "prompt has half a surrogate pair (\\ud800) at character 2",
    ]


def test_a_numeric_prompt_column_in_parquet_is_a_fault_a_row(tmp_path: Path) -> None:
    assert prompts(table_of(tmp_path, [{"prompt": 1}])) == ["prompt is 1, not a text"]


def test_bad_lines_keep_their_place(tmp_path: Path) -> None:
    (tmp_path / "jobs.jsonl").write_text('{"prompt": "a"}\nnope\n{"prompt": "b"}\n')
    rows = open_source(str(tmp_path / "jobs.jsonl"))
    assert prompts(rows) == [
        ("text", "a"),
        "jobs.jsonl line 2 column 1: not JSON (Expecting value)",
        ("text", "b"),
    ]


def test_input_without_a_readable_row_asks_for_no_column(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text("nope\n")
    assert len(prompts(open_source(str(tmp_path / "bad.jsonl")))) == 1
    (tmp_path / "none.jsonl").write_text("")
    rows = open_source(str(tmp_path / "none.jsonl"))
    assert prompts(rows) == []
    assert prompts(rows, template=Template("{{ x }}")) == []
    pq.write_table(pa.table({"x": pa.array([], pa.int64())}), tmp_path / "none.parquet")
    assert prompts(open_source(str(tmp_path / "none.parquet"))) == []


def test_messages(either: Make) -> None:
    chats: list[list[dict[str, Any]]] = [
        [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}],
        [{"role": "user", "content": "u", "name": "Ada"}],
        [],
    ]
    rows = either([{"messages": chat} for chat in chats] + [{"messages": None}])
    assert prompts(rows) == [
        ("messages", chats[0]),
        ("messages", chats[1]),
        "messages is empty",
        "messages is null",
    ]


def test_nulls_that_arrow_added_are_dropped(tmp_path: Path) -> None:
    call = {"id": "1", "function": {"name": "f", "arguments": "{}"}}
    chat = [
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "r", "tool_call_id": "1"},
    ]
    assert prompts(table_of(tmp_path, [{"messages": chat}])) == [("messages", chat)]


def test_messages_as_json_text(either: Make) -> None:
    rows = either([{"messages": json.dumps(CHAT)}, {"messages": "hi"}, {"messages": "{}"}])
    good, no_json, no_list = prompts(rows)
    assert good == ("messages", CHAT)
    assert str(no_json).startswith("messages is 'hi', neither a list nor its JSON (Expecting value")
    assert no_list == "messages is '{}', not a list of {role, content}"


def test_bad_messages_are_faults(jsonl: Make) -> None:
    part = [{"type": "text", "text": "t"}]
    rows = jsonl(
        [
            {"messages": ["hi"]},
            {"messages": [{"content": "x"}]},
            {"messages": [*CHAT, {"role": "user"}]},
            {"messages": [{"role": "user", "content": 5}]},
            {"messages": 5},
            {"messages": [{"role": "user", "content": part}]},
        ]
    )
    assert prompts(rows) == [
        "messages[0] is 'hi', not an object with role and content",
        "messages[0] has the role None; it must be a text such as 'user'",
        "messages[1] has the content None; it must be a text",
        "messages[0] has the content 5; it must be a text",
        "messages is 5, not a list of {role, content}",
        ("messages", [{"role": "user", "content": part}]),
    ]


def test_token_ids(either: Make) -> None:
    big = 2**31
    cells: list[list[int] | None] = [[1, 2, 3], [], None, [0], [4, -1], [5, big], [big - 1]]
    rows = either([{"prompt_token_ids": cell} for cell in cells])
    allowed = "a token id is a whole number from 0 to 2147483647"
    assert prompts(rows) == [
        ("token_ids", [1, 2, 3]),
        "prompt_token_ids is empty",
        "prompt_token_ids is null",
        ("token_ids", [0]),
        f"prompt_token_ids[1] is -1; {allowed}",
        f"prompt_token_ids[1] is {big}; {allowed}",
        ("token_ids", [big - 1]),
    ]
    found = only_table(rows).prompts
    assert isinstance(found, Prompts)
    assert found.token_ids.dtype == np.int32


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.uint16()),
        pa.large_list(pa.int64()),
        pa.list_(pa.int32(), 2),
    ],
)
def test_token_ids_of_any_arrow_list(tmp_path: Path, kind: pa.DataType) -> None:
    cells = pa.array([[1, 2], None, [3, 4], [5, 6]], kind)
    pq.write_table(pa.table({"prompt_token_ids": cells}), tmp_path / "a.parquet", row_group_size=3)
    assert prompts(open_source(str(tmp_path / "a.parquet"))) == [
        ("token_ids", [1, 2]),
        "prompt_token_ids is null",
        ("token_ids", [3, 4]),
        ("token_ids", [5, 6]),
    ]


def test_token_ids_of_several_groups_lie_in_order_in_one_array(tmp_path: Path) -> None:
    big = 2**32 + 7  # would be 7 in 32 bits
    cells = pa.array([[1], [2, big], None, [3, 4], [], [5]], pa.list_(pa.uint64()))
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"prompt_token_ids": cells}), path, row_group_size=2)
    rows = open_source(str(path)).read()
    table = PromptReader(open_source(str(path))).read(rows)
    assert isinstance(table.prompts, Prompts)
    assert table.rows.tolist() == [0, 3, 5]
    assert [ids.tolist() for ids in table.prompts] == [[1], [3, 4], [5]]
    assert table.prompts.token_ids.dtype == np.int32
    assert sorted(table.faults) == [1, 2, 4]
    assert table.faults[1].startswith(f"prompt_token_ids[1] is {big}; a token id is")


def test_what_lies_under_a_null_is_no_prompt() -> None:
    hidden = pa.array([9, 9, -1, 4], pa.int32())
    null = pa.array([False, True, False])
    lists = pa.ListArray.from_arrays(pa.array([0, 1, 3, 4], pa.int32()), hidden, mask=null)
    table = pa.table({"prompt_token_ids": lists})
    found = read_token_ids(Rows(("prompt_token_ids",), table=table), "prompt_token_ids")
    assert [ids.tolist() for ids in found.prompts] == [[9], [4]]
    assert found.rows.tolist() == [0, 2]
    assert found.faults == {1: "prompt_token_ids is null"}


def test_token_ids_with_a_null_inside_are_one_fault(tmp_path: Path) -> None:
    rows = table_of(tmp_path, [{"prompt_token_ids": [1, None]}, {"prompt_token_ids": [2]}])
    bad, good = prompts(rows)
    assert str(bad).startswith("prompt_token_ids[1] is None; a token id is")
    assert good == ("token_ids", [2])


def test_token_ids_that_are_no_whole_numbers_are_faults(jsonl: Make) -> None:
    cells: list[Any] = [[1, 2.0], [True], ["a"], "text", 5, [[1]]]
    faults = prompts(jsonl([{"prompt_token_ids": cell} for cell in cells]))
    assert [str(fault).split(";")[0] for fault in faults] == [
        "prompt_token_ids[1] is 2.0",
        "prompt_token_ids[0] is True",
        "prompt_token_ids[0] is 'a'",
        "prompt_token_ids is 'text', not a list of token ids",
        "prompt_token_ids is 5, not a list of token ids",
        "prompt_token_ids[0] is [1]",
    ]


def test_no_prompt_column_names_those_there_are(either: Make) -> None:
    with pytest.raises(ConfigError, match=r"its columns are text, id: choose one with --prompt-c"):
        prompts(either([{"text": "a", "id": 1}]))


def test_rows_without_any_column_have_no_prompt(jsonl: Make) -> None:
    with pytest.raises(ConfigError, match=r"its columns are none"):
        prompts(jsonl([{}]))


def test_two_prompt_columns_need_a_choice(either: Make) -> None:
    rows = either([{"prompt": "a", "messages": CHAT, "prompt_token_ids": [1]}])
    with pytest.raises(ConfigError, match=r"has the columns prompt, messages, prompt_token_ids, a"):
        prompts(rows)
    assert prompts(rows, prompt_column="prompt") == [("text", "a")]
    assert prompts(rows, prompt_column="messages") == [("messages", CHAT)]
    assert prompts(rows, prompt_column="prompt_token_ids") == [("token_ids", [1])]
    assert prompts(rows, template=Template("{{ prompt }}!")) == [("text", "a!")]


def test_prompt_column_by_any_name(either: Make) -> None:
    rows = either([{"text": "a", "chat": CHAT, "ids": [1]}])
    assert prompts(rows, prompt_column="text") == [("text", "a")]
    assert prompts(rows, prompt_column="chat") == [("messages", CHAT)]
    assert prompts(rows, prompt_column="ids") == [("token_ids", [1])]
    with pytest.raises(ConfigError, match=r"no column 'nope' for --prompt-column; its columns are"):
        prompts(rows, prompt_column="nope")
    with pytest.raises(ConfigError, match=r"--template and --prompt-column exclude each other"):
        prompts(rows, prompt_column="text", template=Template("{{ text }}"))


def test_template_over_rows(either: Make) -> None:
    rows = either([{"a": "x", "b": 0}, {"a": "", "b": 2}, {"a": "{{ b }}", "b": 4}])
    template = Template("{{ a }}{% if b %}{{ 8 // b }}{% endif %}")
    assert prompts(rows, template=template) == [("text", "x"), ("text", "4"), ("text", "{{ b }}2")]
    assert prompts(rows, template=Template("{{ 1 / b }}"))[0] == (
        "template line 1 failed: division by zero"
    )
    assert prompts(rows, template=Template("{{ a }}"))[1] == "the rendered template is empty"
    assert prompts(rows, template=Template("same")) == [("text", "same")] * 3
    with pytest.raises(ConfigError, match=r"does not have: c; its columns are a, b"):
        prompts(rows, template=Template("{{ c }}"))


def test_a_line_without_the_templates_column_is_a_fault(jsonl: Make) -> None:
    rows = jsonl([{"a": "x"}, {"b": 1}])
    assert prompts(rows, template=Template("{{ a }}")) == [
        ("text", "x"),
        "template line 1 failed: 'a' is undefined",
    ]
    optional = Template("{{ a if a is defined else 'none' }}")
    assert prompts(rows, template=optional) == [("text", "x"), ("text", "none")]


def test_batches_have_the_prompts_of_the_whole(
    either: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = either(
        [{"a": "x", "c": CHAT, "ids": [1, 2]}, {"a": None, "c": None, "ids": None}] * 3
        + [{"a": "y", "c": [], "ids": [3]}]
    )
    asked: list[dict[str, Any]] = [
        {"prompt_column": "a"},
        {"prompt_column": "c"},
        {"prompt_column": "ids"},
        {"template": Template("{{ a }}")},
    ]
    whole = [prompts(rows, **options) for options in asked]
    for size in (1, 2, 3):
        cut_small(monkeypatch, rows=size)
        assert [prompts(rows, **options) for options in asked] == whole


def test_the_first_value_of_the_job_decides_what_a_json_column_holds(
    jsonl: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_small(monkeypatch, rows=1)
    rows = jsonl([{"c": None}, {"x": 1}, {"c": [1]}, {"c": "text"}])
    assert prompts(rows, prompt_column="c") == [
        "c is null",
        "c is null",
        ("token_ids", [1]),
        "c is 'text', not a list of token ids",
    ]
    reader = PromptReader(rows, prompt_column="c")
    last = list(rows.batches())[-1]
    assert reader.read(last).kind == "token_ids"


def test_rows_that_are_not_wanted_have_neither_prompt_nor_fault(either: Make) -> None:
    source = either(
        [{"prompt": p, "ids": i} for p, i in (("a", [1]), (None, None), ("b", [2]), ("", []))]
    )
    rows = source.read()
    wanted = np.array([False, False, True, True])
    reader = PromptReader(source, prompt_column="prompt")
    table = reader.read(rows, wanted)
    assert (table.rows.tolist(), table.prompts) == ([2], ["b"])
    assert table.faults == {3: "prompt is empty"}
    table = PromptReader(source, prompt_column="ids").read(rows, wanted)
    assert table.rows.tolist() == [2]
    assert [ids.tolist() for ids in table.prompts] == [[2]]  # type: ignore[union-attr]
    assert table.faults == {3: "ids is empty"}
    table = reader.read(rows, np.zeros(4, dtype=np.bool_))
    assert (table.rows.tolist(), table.prompts, table.faults) == ([], [], {})
    assert wanted.tolist() == [False, False, True, True]


def test_unwanted_rows_are_not_rendered(jsonl: Make) -> None:
    source = jsonl([{"n": 0}, {"n": 1}])
    reader = PromptReader(source, template=Template("{{ 1 // n }}"))
    table = reader.read(source.read(), np.array([False, True]))
    assert (table.rows.tolist(), table.prompts, table.faults) == ([1], ["1"], {})


def test_a_bad_line_that_is_not_wanted_is_no_fault(tmp_path: Path) -> None:
    (tmp_path / "jobs.jsonl").write_text('nope\n{"prompt": "a"}\nnope\n')
    source = open_source(str(tmp_path / "jobs.jsonl"))
    table = PromptReader(source).read(source.read(), np.array([False, True, True]))
    assert list(table.faults) == [2]
    assert table.prompts == ["a"]
