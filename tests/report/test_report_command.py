"""`batchpipe report`: a page of any run, whatever became of it, and nothing foreign runs there."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from harness import Ran, call, ended, spawn, write_lines

from batchpipe.journal.folder import open_folder
from batchpipe.journal.journal import Journal
from batchpipe.journal.lock import hold
from batchpipe.journal.manifest import Manifest, packed
from batchpipe.rows.results import Result

EVIL = "<script>document.title = 'owned'</script>"

WITHOUT_TORCH = """
import sys
from batchpipe.cli import main
try:
    main(sys.argv[1:])
finally:
    print("loaded", {"torch", "transformers"} & set(sys.modules))
"""


class Tags(HTMLParser):
    """What a page would load or run."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.scripts = 0
        self.links: list[str] = []
        self.ids: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        for name, value in attrs:
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "srcset", "action"):
                self.links.append(str(value))
            if name == "id":
                self.ids.append(str(value))


def page_of(run_dir: Path) -> str:
    return (run_dir / "report.html").read_text()


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    """A finished run with foreign text in every place, and two rows that failed."""
    folder = tmp_path_factory.mktemp(f"{EVIL.replace('/', '')} & co")
    rows = [
        {"request_id": f"{EVIL} {n}", "prompt": f"Read {EVIL} and answer: {n}"} for n in range(20)
    ]
    bad = [{"request_id": "too-hot", "prompt": "x", "temperature": -1}, {"prompt": ""}]
    job = write_lines(folder / "job.jsonl", [*rows, *bad])
    ran = call("run", job, "-m", model, "-o", folder / "answers.jsonl", "--max-tokens", 6)
    assert ran.code == 3, ran.err
    return folder / "answers.jsonl.run"


def test_a_report_is_one_page_that_loads_and_runs_nothing_foreign(run_dir: Path) -> None:
    ran = call("report", run_dir)
    assert ran.code == 0, ran.err
    assert "finished, 22 of 22 rows finished, 2 failed" in ran.out
    page = page_of(run_dir)
    tags = Tags(page)
    assert tags.scripts == 2  # its own, and the curves, which are no code
    assert all(link.startswith("#") for link in tags.links)
    assert {link[1:] for link in tags.links} <= set(tags.ids)
    assert EVIL not in page
    assert "&lt;script&gt;document.title" in page
    assert "http://" not in page
    assert "https://" not in page
    assert "Content-Security-Policy" in page


def test_a_report_has_what_a_reader_looks_for(run_dir: Path) -> None:
    assert call("report", run_dir).code == 0
    page = page_of(run_dir)
    summary = json.loads((run_dir / "summary.json").read_text())
    for name in ("prompt_tokens", "computed_prompt_tokens", "completion_tokens"):
        assert f"{summary[name]:,}" in page
    sections = ("outcome", "tokens", "timeline", "sharing", "lengths", "failed", "slow", "how")
    assert set(sections) <= set(Tags(page).ids)
    for words in ("temperature is -1", "too-hot", "max_tokens", "transformers", "Session"):
        assert words in page, words


def test_a_report_loads_no_torch(run_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    ran = ended(spawn("report", run_dir, "-o", out, "--json", script=WITHOUT_TORCH))
    assert ran.code == 0, ran.err
    assert ran.err == ""
    told, loaded = ran.out.splitlines()
    assert loaded == "loaded set()"
    assert json.loads(told)["size_bytes"] == out.stat().st_size


def test_rows_of_a_changed_input_are_left_out_and_that_is_told(tmp_path: Path, model: Path) -> None:
    job = write_lines(tmp_path / "job.jsonl", [{"prompt": "a letter", "note": "secret-note"}])
    out = tmp_path / "a.jsonl"
    assert call("run", job, "-m", model, "-o", out, "--max-tokens", 2).code == 0
    assert call("report", f"{out}.run").code == 0
    assert "secret-note" in page_of(Path(f"{out}.run"))
    job.write_text(job.read_text() + "\n")
    assert call("report", f"{out}.run").code == 0
    page = page_of(Path(f"{out}.run"))
    assert "secret-note" not in page
    assert "it has changed since the run read it" in page
    job.unlink()
    assert call("report", f"{out}.run").code == 0


# ---- runs without a model ------------------------------------------------------------------------


def written(run_dir: Path, rows: int, answered: int) -> Journal:
    folder = open_folder(str(run_dir))
    with hold(folder) as lock:
        journal = Journal.create(folder, Manifest({}, "/out.parquet", {}, rows), lock)
        journal.add(
            Result(row, output=f"answer {row}", finish_reason="stop", prompt_tokens=9)
            if row % 5
            else Result(row, output=f"half {EVIL}", status="invalid_output", error="no JSON")
            for row in range(answered)
        )
        journal.flush()
    return journal


def reported(run_dir: Path) -> tuple[Ran, str]:
    ran = call("report", run_dir, "--json")
    assert ran.code == 0, ran.err
    return ran, page_of(run_dir)


def test_a_run_still_going_says_so(tmp_path: Path) -> None:
    run_dir = tmp_path / "out.run"
    folder = open_folder(str(run_dir))
    with hold(folder) as lock:
        journal = Journal.create(folder, Manifest({}, "/out.parquet", {}, 10), lock)
        journal.add([Result(3, output="yes", finish_reason="stop")])
        journal.flush()
        ran, page = reported(run_dir)
    assert ran.summary["state"] == "running"
    assert "Still running" in page
    assert "9 of 10 rows have no result yet" in page


def test_a_stopped_run_has_what_is_there(tmp_path: Path) -> None:
    written(tmp_path / "out.run", 10, 6)
    ran, page = reported(tmp_path / "out.run")
    assert (ran.summary["state"], ran.summary["finished"], ran.summary["failed"]) == (
        "stopped",
        6,
        2,
    )
    assert "half &lt;script&gt;" in page
    assert "Stopped before its end" in page


@pytest.mark.parametrize("damage", ["missing", "corrupt"])
def test_damaged_parts_are_named(tmp_path: Path, damage: str) -> None:
    run_dir = tmp_path / "out.run"
    written(run_dir, 10, 10)
    part = run_dir / "parts" / "000000.parquet"
    if damage == "missing":
        part.unlink()
    else:
        part.write_bytes(part.read_bytes()[:-1])
    before = call("status", run_dir).code
    ran, page = reported(run_dir)
    assert ran.code == before
    assert list(ran.summary["damaged"]) == ["parts/000000.parquet"]
    assert "parts/000000.parquet" in page
    assert "Damaged: 1 of its files;" in page


def test_a_run_without_a_result_has_a_page(tmp_path: Path) -> None:
    folder = open_folder(str(tmp_path / "out.run"))
    folder.put("manifest.json", packed(Manifest({}, "", {})))
    _, page = reported(tmp_path / "out.run")
    assert "no row yet" in page


def test_text_that_utf8_cannot_hold_or_html_cannot_show_does_no_harm(tmp_path: Path) -> None:
    folder = open_folder(str(tmp_path / "out.run"))
    with hold(folder) as lock:
        journal = Journal.create(folder, Manifest({}, "/out\udcff.parquet", {}, 1), lock)
        journal.add([Result(0, output="a\x00b\x1bc\ud800d", finish_reason="length")])
        journal.flush()
    _, page = reported(tmp_path / "out.run")
    assert not re.search("[\x00-\x08\x0e-\x1f]", page)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("report", "nowhere.run"), "nowhere.run holds no run: give the run directory, OUT.run"),
        (("report", "out.run", "-o", "page.parquet"), "its name must end in .html"),
        (("report", "out.run", "-o", "none/page.html"), "does not exist; make it"),
        (("report", "out.run", "-o", "folder.html"), "it is a directory; name a file"),
    ],
)
def test_what_cannot_be_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.html").mkdir()
    written(tmp_path / "out.run", 2, 2)
    ran = call(*arguments)
    assert ran.code == 2
    assert sentence in ran.sentence
    assert not (tmp_path / "page.parquet").exists()


def test_a_damaged_manifest_is_a_sentence(tmp_path: Path) -> None:
    written(tmp_path / "out.run", 2, 2)
    manifest = tmp_path / "out.run" / "manifest.json"
    manifest.write_text(manifest.read_text().replace("out.parquet", "tuo.parquet"))
    ran = call("report", tmp_path / "out.run")
    assert ran.code == 2
    assert "is damaged" in ran.sentence


def test_a_run_on_other_storage_has_its_page_there() -> None:
    folder = open_folder("memory://runs/out.run")
    with hold(folder) as lock:
        journal = Journal.create(folder, Manifest({}, "memory://out.parquet", {}, 1), lock)
        journal.add([Result(0, output="yes", finish_reason="stop")])
        journal.flush()
    ran = call("report", "memory://runs/out.run")
    assert ran.code == 0, ran.err
    assert b"<!doctype html>" in folder.get("report.html")
    assert call("report", "memory://runs/out.run", "-o", "memory://pages/p.html").code == 0
    assert b"<!doctype html>" in open_folder("memory://pages").get("p.html")
