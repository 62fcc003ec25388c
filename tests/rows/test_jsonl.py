"""JSON lines: a bad one is a sentence in its own place, and the rest is read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from batchpipe.errors import ConfigError
from batchpipe.rows.source import read_rows

LINES = b'{"prompt": "a", "n": 1}\n{"prompt": "b", "tag": [1, "x"]}\n'


def write(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


def test_bad_lines_are_faults_in_their_place(tmp_path: Path) -> None:
    content = b"\n".join(
        [
            b'{"prompt": "first"}',
            b"",
            b'{"prompt": "x" "y"}',
            b"[1, 2]",
            b'{"prompt": "\xff"}',
            b"   ",
            b'"text"',
            b"null",
            b'{"prompt": "last"}',
            b"",
        ]
    )
    rows = read_rows(write(tmp_path / "jobs.jsonl", content))
    assert rows.values("prompt") == ["first", None, None, None, None, None, "last"]
    assert dict(rows.faults) == {
        1: "jobs.jsonl line 3 column 16: not JSON (Expecting ',' delimiter)",
        2: "jobs.jsonl line 4: an array, not an object with columns as keys",
        3: "jobs.jsonl line 5 byte 13: not UTF-8 (byte 0xff)",
        4: "jobs.jsonl line 7: a string, not an object with columns as keys",
        5: "jobs.jsonl line 8: null, not an object with columns as keys",
    }


def test_faults_of_later_files_count_on(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", LINES)
    write(tmp_path / "b.jsonl", b"{}\nnope\n")
    rows = read_rows(str(tmp_path))
    assert list(rows.faults) == [3]
    assert rows.faults[3].startswith("b.jsonl line 2 column 1: not JSON")


def test_a_line_cut_off_is_one_fault(tmp_path: Path) -> None:
    rows = read_rows(write(tmp_path / "jobs.jsonl", LINES[:-10]))
    assert list(rows.faults) == [1]


@pytest.mark.parametrize(
    "line", [b'{"a":' * 5000 + b"1" + b"}" * 5000, b'{"a": ' + b"[" * 300 + b"]" * 300 + b"}"]
)
def test_endless_nesting_is_a_fault(tmp_path: Path, line: bytes) -> None:
    rows = read_rows(write(tmp_path / "jobs.jsonl", line))
    assert rows.faults == {0: "jobs.jsonl line 1: nested deeper than 200 levels"}


def test_brackets_in_texts_are_no_nesting(tmp_path: Path) -> None:
    line = json.dumps({"prompt": '[{"\\' * 300}).encode()
    assert not read_rows(write(tmp_path / "jobs.jsonl", line)).faults


def test_endless_number_is_a_fault(tmp_path: Path) -> None:
    rows = read_rows(write(tmp_path / "jobs.jsonl", b'{"a": ' + b"9" * 5000 + b"}"))
    assert rows.faults[0].startswith("jobs.jsonl line 1: not readable (Exceeds the limit")


def test_json_array_file_is_refused_with_the_fix(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"jobs.json is one JSON array.*jq -c"):
        read_rows(write(tmp_path / "jobs.json", b'[\n {"prompt": "a"}\n]\n'))


def test_lenient_json_lines(tmp_path: Path) -> None:
    content = b'\xef\xbb\xbf{"a": 1, "a": 2}\r\n{"a": NaN}\r\n{"a": "\xe2\x80\xa8"}\r\n\r\n'
    rows = read_rows(write(tmp_path / "jobs.jsonl", content))
    two, nan, separator = rows.values("a")
    assert two == 2
    assert nan != nan
    assert separator == "\u2028"
    assert not rows.faults
