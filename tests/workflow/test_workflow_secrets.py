"""Keys and passwords come from the environment, reach the host, and stand in no file of the run."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import Ran, call, read, write_lines
from http_host import Host, Reply, http_host

import batchpipe as bp
from batchpipe.errors import ConfigError
from batchpipe.workflow.authoring.names import Fault
from batchpipe.workflow.authoring.variables import Hidden, with_variables
from batchpipe.workflow.lowering.lower import lowered

KEY = 'open "sesame" {{ 7 }}/ä'
SECRETS = (KEY, json.dumps(KEY)[1:-1], "sesame", "open%20", "open+%22")

YAML = """
steps:
  page:
    http: GET {url}/{{{{ title | urlencode }}}}?key=${{FILMS_KEY}}
    headers: {{X-Key: "${{FILMS_TOKEN}}", X-Kind: "{{{{ title }}}} ${{FILMS_KIND:-plain}}"}}
    attempts: 1
output: {{said: page.json, text: page.text}}
"""
TOKEN = "one two sesame three"


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setenv("FILMS_KEY", KEY)
    monkeypatch.setenv("FILMS_TOKEN", TOKEN)
    with http_host() as host:
        yield host


@pytest.fixture
def flow_file(host: Host, tmp_path: Path) -> Path:
    path = tmp_path / "flow.yaml"
    path.write_text(YAML.format(url=host.url))
    return path


def bytes_below(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def files_of(folder: Path) -> str:
    """Everything that the run left, also what Parquet has packed."""
    import pyarrow.parquet as pq

    told = bytes_below(folder).decode(errors="replace")
    for path in folder.rglob("*.parquet"):
        told += json.dumps(pq.read_table(path).to_pylist(), default=str, ensure_ascii=False)
    return told


def assert_hidden(ran: Ran, *folders: Path) -> None:
    told = ran.out + ran.err + "".join(map(files_of, folders))
    for form in SECRETS:
        assert form not in told, form


def test_the_host_gets_the_values_and_no_file_has_them(
    host: Host, flow_file: Path, tmp_path: Path
) -> None:
    echo = json.dumps({"key": KEY, "token": TOKEN, "ok": 1}).encode()
    host.says("/a", Reply(body=echo))
    host.says("/b", Reply(403, body=b"no " + echo))
    host.says("/c", Reply(500, body=b"x" * 190 + TOKEN.encode()))
    inputs = write_lines(tmp_path / "in.jsonl", [{"title": title} for title in "abc"])
    out = tmp_path / "out" / "out.jsonl"
    out.parent.mkdir()
    ran = call("run", inputs, "--workflow", flow_file, "-o", out, "--json")
    assert ran.code == 3
    for came in host.came:
        assert came.path.partition("?")[2].startswith("key=open%20%22sesame%22%20")
        assert came.headers["X-Key"] == TOKEN
    assert {came.headers["X-Kind"] for came in host.came} == {"a plain", "b plain", "c plain"}
    said = [row["said"] for row in read(out)]
    assert said == [{"key": "${FILMS_KEY}", "token": "${FILMS_TOKEN}", "ok": 1}, None, None]
    assert "403" in read(out)[1]["error"]
    assert call("report", f"{out}.run").code == 0
    planned = call("plan", inputs, "--workflow", flow_file)
    assert planned.code == 0
    assert_hidden(ran, out.parent)
    assert_hidden(planned)


def test_another_value_does_not_make_it_another_run(
    host: Host, flow_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.says("/a", Reply())
    inputs = write_lines(tmp_path / "in.jsonl", [{"title": "a"}])
    out = tmp_path / "out.jsonl"
    first = call("run", inputs, "--workflow", flow_file, "-o", out)
    assert first.code == 0
    monkeypatch.setenv("FILMS_KEY", "another one")
    out.unlink()
    again = call("run", inputs, "--workflow", flow_file, "-o", out)
    assert again.code == 0
    assert len(host.came) == 1  # what was answered is known by what was asked, as it is written


@pytest.mark.parametrize("command", ["run", "plan"])
def test_a_missing_variable_is_told_before_anything_runs(
    command: str, host: Host, flow_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FILMS_TOKEN")
    inputs = write_lines(tmp_path / "in.jsonl", [{"title": "a"}])
    out = ("-o", tmp_path / "out.jsonl") if command == "run" else ()
    ran = call(command, inputs, "--workflow", flow_file, *out)
    assert ran.code == 2
    assert ran.sentence == (
        f"batchpipe: {flow_file} line 5, step page: headers.X-Key: the environment has no variable "
        f"FILMS_TOKEN; set it"
    )
    assert not host.came


def test_a_missing_variable_of_a_database_is_told_with_its_step() -> None:
    flow = bp.Workflow(databases={"d": "postgresql+psycopg://u:${NO_SUCH_ONE}@h/f"})
    flow.sql("s", "d", "SELECT 1")
    with pytest.raises(ConfigError, match="step s: sql: the environment has no variable NO_SUCH_O"):
        lowered(flow.flow, ())


def test_a_cell_never_names_a_variable(host: Host, tmp_path: Path) -> None:
    """Neither what it says is looked up, nor is it taken for what an author's text looks up."""
    flow = bp.Workflow()
    flow.http("p", f"GET {host.url}/x?q={{{{ a }}}}${{FILMS_KEY}}{{{{ b }}}}", attempts=1)
    host.says("/x", Reply())
    cells = [("${FILMS_KEY}", ""), ("", "${FILMS_KEY}"), ("${FILMS_KEY}", "")]
    inputs = write_lines(tmp_path / "in.jsonl", [{"a": a, "b": b} for a, b in cells])
    summary = flow.run(inputs, out=tmp_path / "out.jsonl")
    assert (summary.failed, summary.by_step["p"]["calls"]) == (0, 2)
    queries = {came.path for came in host.came}
    assert len(queries) == 2
    for query in queries:
        assert query.count("sesame") == 1
        assert query.count("FILMS_KEY") == 1


def test_a_variable_within_an_expression_is_refused(host: Host) -> None:
    flow = bp.Workflow().http("p", host.url.join(("GET ", "/{{ '${FILMS_KEY}' | urlencode }}")))
    with pytest.raises(ConfigError, match=r"step p: http: write \$\{FILMS_KEY\} outside of \{\{"):
        lowered(flow.flow, ())


def test_a_prompt_keeps_what_looks_like_one() -> None:
    flow = bp.Workflow(models={"m": "x"}).llm("p", "m", template="echo ${NO_SUCH_ONE} {{ a }}")
    assert "${NO_SUCH_ONE}" in lowered(flow.flow, ("a",)).graph.operators[0].blocks[0]


def test_the_host_itself_may_come_from_the_environment(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FILMS_HOST", host.url)
    host.says("/x", Reply(body=json.dumps({"next": host.url}).encode()))
    flow = bp.Workflow().http("p", "GET ${FILMS_HOST}/{{ a }}", attempts=1).output(j="p.json")
    inputs = write_lines(tmp_path / "in.jsonl", [{"a": "x"}, {"a": "y"}])
    flow.run(inputs, out=tmp_path / "out.jsonl")
    known, missing = read(tmp_path / "out.jsonl")
    assert known["j"] == {"next": host.url}
    assert missing["error"].startswith("step p failed: GET ${FILMS_HOST}/y: 404")


def test_a_database_never_tells_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("psycopg")
    monkeypatch.setenv("FILMS_KEY", "sesame")
    flow = bp.Workflow(databases={"d": "postgresql+psycopg://u:${FILMS_KEY}@127.0.0.1:1/sesame"})
    flow.sql("s", "d", "SELECT :a", values={"a": "a"}, attempts=1)
    inputs = write_lines(tmp_path / "in.jsonl", [{"a": "x"}])
    (tmp_path / "o").mkdir()
    with contextlib.suppress(ConfigError):
        flow.run(inputs, out=tmp_path / "o" / "out.jsonl")
    found = read(tmp_path / "o" / "out.jsonl")
    assert "does not answer" in found[0]["error"]
    assert "u:sesame" not in files_of(tmp_path / "o")


def test_values_are_hidden_in_whatever_form(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {"A_KEY": KEY, "A_LONGER_KEY": f"{KEY}{KEY}", "AN_EMPTY": ""}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    hidden = Hidden(["${A_LONGER_KEY} ${A_KEY}", "${AN_EMPTY}"])
    assert hidden.out_of(f"{KEY}{KEY} and {KEY}") == "${A_LONGER_KEY} and ${A_KEY}"
    assert hidden.out_of("nothing") == "nothing"
    with pytest.raises(Fault, match="no variable NO_SUCH_ONE"):
        with_variables("${NO_SUCH_ONE}")
    assert with_variables("${NO_SUCH_ONE:-${A} x}") == "${A x}"
