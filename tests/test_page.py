"""The page in a real browser: from a disk, without a request or a complaint; sorting, filters, keyboard, dark and narrow."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.report import page
from tests import chromium
from tests.builders import a_row, a_run
from tests.test_report import FAST, HOSTILE, SLOW, hostile_records

pytestmark = [pytest.mark.slow, pytest.mark.skipif(chromium.PROGRAM is None, reason=chromium.WITHOUT)]

SPEEDS = {"alpha": SLOW, "beta": FAST, "gamma": [speed / 20 for speed in SLOW]}
DOUBLE = "alpha:precision=float64"
ROWS = "[...document.querySelectorAll('#t1 table.sortable tbody tr')].filter(r => !r.hidden).map(r => r.cells[0].textContent)"
SECTIONS = "[...document.querySelectorAll('section.result')].filter(s => !s.hidden).map(s => s.id)"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Page]:
    with chromium.opened(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page of two tasks and two precisions, which stand in one table, and in a table of their own."""
    made = [
        *a_run(SPEEDS),
        *a_row("alpha", [speed / 2 for speed in SLOW], name=DOUBLE, precision="float64"),
        *a_run(SPEEDS, precision="float64", id="5678"),
        *a_run({"alpha": FAST, "beta": SLOW}, task="other"),
    ]
    file = tmp_path_factory.mktemp("page") / "report.html"
    file.write_text(page.render(made), encoding="utf-8")
    return file.as_uri()


@pytest.fixture
def shown(browser: chromium.Page, address: str) -> Iterator[chromium.Page]:
    """The page, wide and light; whatever a test does with it, nothing is asked for and nothing is complained about."""
    browser.look(width=1280)
    browser.open(address)
    yield browser
    assert browser.requests() == [address]
    assert browser.complaints() == []


def choose(shown: chromium.Page, name: str, text: str) -> None:
    """What a choice in a filter does."""
    shown.run(f"""{{
      const select = document.forms.filters.elements[{name!r}];
      select.selectedIndex = [...select.options].findIndex(option => option.textContent === {text!r});
      select.dispatchEvent(new Event("change", {{ bubbles: true }}));
    }}""")


def test_a_title_sorts_its_column_by_number_and_back(shown: chromium.Page) -> None:
    assert shown.run(ROWS) == ["beta", "alpha", DOUBLE, "gamma"]
    titles = shown.run("[...document.querySelectorAll('#t1 .sortable th[scope=col]')].map(t => t.textContent)")
    button = f"document.querySelectorAll('#t1 .sortable th button')[{titles.index('images/s')}]"
    for order, rows in (
        ("ascending", ["gamma", DOUBLE, "alpha", "beta"]),
        ("descending", ["beta", "alpha", DOUBLE, "gamma"]),
    ):
        shown.run(f"{button}.click()")
        assert shown.run(ROWS) == rows
        assert shown.run(f"{button}.closest('th').getAttribute('aria-sort')") == order
    shown.run("document.querySelector('#t1 .sortable th button').click()")
    assert shown.run(ROWS) == ["alpha", DOUBLE, "beta", "gamma"]
    assert shown.run("document.querySelectorAll('#t1 [aria-sort]').length") == 1


def test_filters_leave_what_fits_and_say_how_much(shown: chromium.Page) -> None:
    count = "document.getElementById('shown').textContent"
    beside = """[...document.querySelectorAll('#t1 table:not(.sortable):has(tr[data-arm])')]
      .map(table => [...table.querySelectorAll('tr[data-arm]')].filter(row => !row.hidden).length)"""
    assert shown.run(count) == "9 of 9 rows shown"
    assert shown.run(beside) == [4, 4]  # the time for n steps, and the evaluations on the way
    assert shown.run("[...document.querySelectorAll('#filters select')].map(s => s.name)") == [
        "task", "arm", "device", "precision", "preset",
    ]  # fmt: skip
    choose(shown, "precision", "float64")  # a row of one table, and all of another
    assert shown.run(SECTIONS) == ["t1", "t2"]
    assert shown.run(ROWS) == [DOUBLE]
    assert shown.run(beside) == [1, 1]
    assert shown.run(count) == "4 of 9 rows shown"
    choose(shown, "arm", "gamma")
    assert shown.run(SECTIONS) == ["t2"]
    choose(shown, "precision", "all")
    assert shown.run(SECTIONS) == ["t1", "t2"]
    assert shown.run(ROWS) == ["gamma"]
    choose(shown, "device", "cpu")
    assert shown.run(count) == "2 of 9 rows shown"
    choose(shown, "task", "other")
    assert shown.run(SECTIONS) == []
    assert shown.run(count) == "0 of 9 rows shown"
    shown.run("document.querySelector('#filters button').click(); new Promise(done => setTimeout(done, 20))")
    assert shown.run(SECTIONS) == ["t1", "t2", "t3"]
    assert len(shown.run(ROWS)) == 4


def test_the_keyboard_reaches_everything_in_the_order_of_the_page(shown: chromium.Page) -> None:
    where = "(e => e.id || e.name || e.textContent.trim().slice(0, 10))(document.activeElement)"
    seen = []
    for _ in range(14):
        shown.press("Tab")
        seen.append(shown.run(where))
        assert shown.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert seen[:4] == ["Skip to th", "mnist_mlp:", "mnist_mlp:", "other: pre"]
    assert seen[4:10] == ["task", "arm", "device", "precision", "preset", "Show all"]
    assert seen[11:13] == ["arm", "images/s"]  # after the table itself, which scrolls
    shown.run("document.querySelector('#t1 .sortable th:nth-child(2) button').focus()")
    shown.press("Enter")
    assert shown.run(ROWS)[0] == "gamma"


def test_the_first_key_skips_to_the_results(shown: chromium.Page) -> None:
    shown.press("Tab")
    assert shown.run("document.activeElement.getBoundingClientRect().left >= 0")
    shown.press("Enter")
    assert shown.run("document.activeElement.id") == "results"


def test_dark_and_light_follow_the_reader_and_both_can_be_read(shown: chromium.Page, address: str) -> None:
    """Contrast by WCAG 2.2, 1.4.3: at least 4.5 for every text, plots included."""
    contrast = """(() => {
      const parse = (text) => text.match(/[\\d.]+/g).slice(0, 3).map((part) => part / 255);
      const light = (text) => parse(text).map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
      const behind = (e) => !e ? "rgb(255, 255, 255)" : (c => c === "rgba(0, 0, 0, 0)" ? behind(e.parentElement) : c)(
        getComputedStyle(e).backgroundColor);
      const kinds = "p, li, td, th, dt, dd, a, caption, figcaption, h1, h2, h3, label, button, select, output, text";
      return [...document.querySelectorAll(kinds)]
        .filter((e) => e.textContent.trim())
        .map((e) => {
          const ink = getComputedStyle(e)[e.tagName === "text" ? "fill" : "color"];
          const pair = [light(ink), light(behind(e))].sort((a, b) => a - b);
          return [(pair[1] + 0.05) / (pair[0] + 0.05), e.tagName, ink, e.textContent.slice(0, 40)];
        })
        .sort((a, b) => a[0] - b[0])[0];
    })()"""
    papers = []
    for dark in (False, True):
        shown.look(width=1280, dark=dark)
        papers.append(shown.run("getComputedStyle(document.body).backgroundColor"))
        worst = shown.run(contrast)
        assert worst[0] >= 4.5, worst
    assert papers == ["rgb(255, 255, 255)", "rgb(20, 23, 26)"]


@pytest.mark.parametrize("width", [320, 768, 1280])
def test_nothing_is_wider_than_the_window_but_what_scrolls_by_itself(shown: chromium.Page, width: int) -> None:
    shown.look(width=width)
    assert shown.run("document.documentElement.scrollWidth") <= width
    assert shown.run("[...document.querySelectorAll('table')].every(t => t.closest('.scroll').tabIndex === 0)")


def test_without_its_script_the_page_shows_everything(browser: chromium.Page, address: str) -> None:
    browser.send("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(address)
    finally:
        browser.send("Emulation.setScriptExecutionDisabled", value=False)
    assert browser.run("document.getElementById('filters').hidden")
    assert len(browser.run(SECTIONS)) == 3


def test_hostile_records_run_nothing_and_load_nothing(browser: chromium.Page, tmp_path: Path) -> None:
    """Every text as a name in one table and its plots, and the worst ones in every field."""
    pages = {name: hostile_records(HOSTILE[name]) for name in ("html", "link", "quotes", "terminal")}
    pages["all"] = [one for text in HOSTILE.values() for one in a_run({text: FAST})]
    for name, made in pages.items():
        file = tmp_path / f"{name}.html"
        file.write_text(page.render(made), encoding="utf-8")
        browser.open(file.as_uri())
        assert browser.requests() == [file.as_uri()], name
        assert browser.complaints() == [], name
        assert browser.run("document.querySelectorAll('script, img, iframe, object, embed').length") == 1, name
        rows = len({one.cell.arm.name for one in made})
        assert browser.run("document.getElementById('shown').textContent") == f"{rows} of {rows} rows shown", name
