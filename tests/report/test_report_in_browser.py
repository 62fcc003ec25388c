"""The page in a real browser: it works offline, at any width, by mouse and by keyboard."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import call, write_lines

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
EVIL = "<script>document.title = 'owned'</script>"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium to look with")


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    """The report of a run with enough of everything, and foreign text in all places."""
    folder = tmp_path_factory.mktemp("browser")
    rows: list[dict[str, object]] = [
        {"request_id": f"{EVIL} {n}", "prompt": f"Read the letter {EVIL} of parcel {n % 40}."}
        for n in range(60)
    ]
    rows += [{"request_id": f"too-hot-{n}", "prompt": "x", "temperature": -n} for n in (1, 2, 10)]
    job = write_lines(folder / "job.jsonl", [*rows, {"request_id": "empty", "prompt": ""}])
    out = folder / "answers.jsonl"
    assert call("run", job, "-m", model, "-o", out, "--max-tokens", 12).code == 3
    assert call("report", f"{out}.run", "-o", folder / "page.html").code == 0
    return folder / "page.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[sync_api.Browser]:
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def page(browser: sync_api.Browser, page_file: Path) -> Iterator[sync_api.Page]:
    """The page, open; what it complains of or asks the network for fails the test."""
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    opened = context.new_page()
    wrong: list[str] = []
    opened.on("console", lambda message: wrong.append(message.text))
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("request", lambda request: wrong.append(request.url))
    opened.goto(page_file.as_uri())
    yield opened
    context.close()
    assert wrong == [page_file.as_uri()]


def column(page: sync_api.Page, table: str, number: int) -> list[str]:
    return page.locator(f"{table} tbody tr td:nth-child({number})").all_inner_texts()


def test_nothing_foreign_runs(page: sync_api.Page) -> None:
    assert page.title() == "answers.jsonl – batchpipe report"
    assert EVIL in page.locator("#slow-rows").inner_text()
    assert page.locator("script").count() == 2


def test_a_press_on_a_columns_name_sorts_by_it(page: sync_api.Page) -> None:
    head = page.locator("#slow-rows th").nth(0)
    head.get_by_role("button").click()
    rows = [int(text) for text in column(page, "#slow-rows", 1)]
    assert rows == sorted(rows)
    assert head.get_attribute("aria-sort") == "ascending"
    head.get_by_role("button").press("Enter")
    assert [int(text) for text in column(page, "#slow-rows", 1)] == rows[::-1]
    page.locator("#failed-rows th").nth(1).get_by_role("button").click()
    assert column(page, "#failed-rows", 2) == ["empty", "too-hot-1", "too-hot-10", "too-hot-2"]
    assert head.get_attribute("aria-sort") == "descending"  # another table is another order


def test_what_is_typed_filters_the_failed_rows(page: sync_api.Page) -> None:
    search = page.get_by_role("searchbox", name="Filter")
    search.fill("HOT-1")
    shown = page.locator("#failed-rows tbody tr:visible")
    assert shown.count() == 2
    assert page.locator("#failed output").inner_text() == "2 of 4 rows shown"
    search.fill("")
    assert shown.count() == 4
    assert page.locator("#failed output").inner_text() == "4 rows"


def test_the_plots_over_time_are_read_by_pointer_and_by_keys(page: sync_api.Page) -> None:
    group = page.locator("#timelines")
    assert group.locator(".cursor").first.get_attribute("visibility") == "hidden"
    group.locator(".canvas").first.hover()
    assert group.locator(".cursor").first.get_attribute("visibility") == "visible"
    said = page.locator("#now").inner_text()
    assert said.endswith(" s")
    group.focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#now").inner_text() != said
    assert all(group.locator("[data-layer]").all_inner_texts())


def test_folded_parts_open(page: sync_api.Page) -> None:
    for place in page.locator("details:not([open])").all()[::-1]:
        summary = place.locator("summary").first
        if summary.is_visible():
            summary.click()
    assert page.get_by_role("cell", name="min_p").count() == 0
    assert page.locator("#timeline table").is_visible()
    assert page.locator("#sharing table").is_visible()


@pytest.mark.parametrize("width", [360, 800, 1600])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_every_width_and_follows_the_scheme(
    browser: sync_api.Browser, page_file: Path, width: int, scheme: str
) -> None:
    context = browser.new_context(
        viewport={"width": width, "height": 800}, color_scheme=scheme, offline=True
    )
    page = context.new_page()
    page.goto(page_file.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    darkest = max(int(part) for part in ground[4:-1].split(","))
    assert (darkest < 64) == (scheme == "dark")
    context.close()


def test_every_plot_has_words_for_who_does_not_see_it(page: sync_api.Page) -> None:
    for plot in page.locator("svg[role=img]").all():
        assert len(plot.get_attribute("aria-label") or "") > 20
    assert page.locator("h1").count() == 1
    assert page.locator("html").get_attribute("lang") == "en"
    unnamed = page.evaluate(
        "[...document.querySelectorAll('button, input, summary')].filter("
        "e => !(e.textContent.trim() || e.labels?.length)).length"
    )
    assert unnamed == 0
