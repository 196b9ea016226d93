"""LaTeX, JSON, the HTML page and the plots: what they say, the same bytes again, and that nothing in a record runs."""

import base64
import hashlib
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import msgspec
import pytest
from markdown_it import MarkdownIt

from bench.records import files
from bench.records.record import Bytes, Record
from bench.report import compare, figures, grouping, latex, markdown, page, plots, summary, table_csv, table_json
from tests.builders import a_memory, a_record, a_run, changed
from tests.test_report import FAST, HOSTILE, TWO, hostile_records, hostile_texts, in_terminal, many_records

FORMATS = (markdown.render, table_csv.render, latex.render, table_json.render, page.render, in_terminal)


class Reader(HTMLParser):
    """The elements of a page; what is drawn inside of an SVG is kept apart, for it follows the width of the texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, list[str]]] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.drawn: set[str] = set()
        self.open: list[str] = []
        self.scripts: list[str] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if "svg" in self.open:
            self.drawn.add(tag)
        else:
            self.elements.append((tag, [name for name, _ in attrs]))
        if tag not in ("meta", "link", "br", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        (self.scripts if self.open[-1:] == ["script"] else self.texts).append(data)


# What they say.


@pytest.mark.slow
def test_the_page_has_verdicts_table_times_plots_facts_and_parity_in_this_order() -> None:
    text = page.render(a_run(TWO))
    order = [
        "fast trains mnist_mlp 2.005 (1.990-2.021) times as fast as slow (5 rounds).", "<caption", "100.24 (99.55-100.94), n=5",
        "A step is: copy", "Time for n steps", "fast is ahead of slow from the start", "<svg", "A CPU, 2 cores in use",
        "Parity with the NumPy float64 reference",
    ]  # fmt: skip
    places = [text.index(part) for part in order]
    assert places == sorted(places)


@pytest.mark.slow
def test_the_page_is_one_file_that_asks_for_nothing() -> None:
    reader = Reader(page.render(many_records()))
    assert reader.open == []
    for tag, name, value in reader.attributes:
        assert name not in ("src", "srcset", "action", "background", "formaction")
        assert not name.startswith("on")
        assert name != "href" or value.startswith("#"), (tag, value)
        assert "url(" not in value or value.startswith("url(#") or "url(#" in value
    assert "@import" not in page.render([])
    (script,) = reader.scripts
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = [value for _, name, value in reader.attributes if name == "content" and "default-src" in value]
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


@pytest.mark.slow
def test_identifiers_of_the_page_are_unique_and_every_reference_has_one() -> None:
    reader = Reader(page.render(many_records()))
    ids = [value for _, name, value in reader.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    for _, name, value in reader.attributes:
        named = re.findall(r"url\(#([^)]*)\)", value)
        named += [value[1:]] if name == "href" else value.split() if name == "aria-labelledby" else []
        assert set(named) <= set(ids), (name, value)


@pytest.mark.slow
def test_every_table_has_a_caption_and_scopes_and_every_plot_a_name() -> None:
    text = page.render(many_records())
    for table in re.findall(r"<table.*?</table>", text, re.DOTALL):
        assert "<caption" in table
        assert re.search(r'<th scope="col">.*<th scope="row">', table, re.DOTALL)
        assert "<th>" not in table
    for drawn in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        assert 'role="img"' in drawn
        assert re.search(r"<title id=[^>]*>\w", drawn)
    assert '<html lang="en">' in text


@pytest.mark.slow
def test_a_cell_is_sorted_by_the_figure_that_it_shows() -> None:
    """By the value itself, which knows no unit and no rounding; a missing one has no key."""
    made = a_run(TWO)
    made[-1] = changed(made[-1], kind="memory", memory=a_memory(peak=Bytes(None, "no counter")), quality=None)
    (section,) = grouping.sections(made)
    keys = [
        dict(zip(figures.titles(section), [figure.key(section, row) for figure in figures.shown(section)], strict=True))
        for row in section.rows
    ]
    fast, slow = keys
    assert fast["images/s"] == pytest.approx(200.99, abs=0.01)
    assert (fast["relative to the fastest"], slow["relative to the fastest"]) == (1.0, pytest.approx(0.4987, abs=1e-4))
    assert (fast["first step"], fast["import + build"]) == (0.25, 1.5)
    assert fast["host memory peak (after import)"] == 300 * 2**20
    assert fast["test accuracy"] == pytest.approx(0.955)
    for title in ("backend", "cores busy", "of the matrix rate", "device memory peak", "parity"):
        assert fast[title] is None, title
    page_keys = re.findall(r'<td data-key="([^"]*)">', page.render(made))
    assert page_keys[:10] == ["" if key is None else repr(key) for key in list(fast.values())[1:]]


def test_json_holds_the_figures_of_the_csv_and_the_words_of_the_page() -> None:
    made = a_run(TWO)
    (table,) = json.loads(table_json.render(made))["tables"]
    section = grouping.sections(made)[0]
    assert table["verdicts"] == summary.sentences(section)
    fast, slow = table["rows"]
    assert slow["throughput"] == pytest.approx(100.24, abs=0.01)
    assert slow["verdict"] == "slower"
    assert fast["throughput_by_round"] == {str(i): pytest.approx(speed) for i, speed in enumerate(FAST, start=1)}
    assert slow["seconds_for_steps"]["100"] == pytest.approx(1.75 + 99 * 1000 / 100.2 / 50)
    assert slow["shown"]["images/s"] == "100.24 (99.55-100.94), n=5"
    assert table["break_even"] == [{"fast": "fast", "slow": "slow", "steps": 1, "low": 1, "high": 1, "rounds": 5}]
    assert slow["fastest_overtakes_at_step"] == 1
    assert {(pair["first"], pair["decision"]) for pair in table["pairs"]} == {("fast", "faster"), ("slow", "slower")}


def test_latex_has_a_column_for_each_backend() -> None:
    lines = latex.render(a_run(TWO)).splitlines()
    assert lines[0] == r"% needs: \usepackage{booktabs,tabularx}"
    assert r"backend & fast & slow \\" in lines
    assert r"relative to the fastest & 1 & 0.4987 (0.4949-0.5026): slower \\" in lines
    assert r"test accuracy & 95.5 (89.1-100.0) \%, n=2 & 95.5 (89.1-100.0) \%, n=2 \\" in lines
    assert r"\item fast is ahead of slow from the start (5 rounds)." in lines


@pytest.mark.slow
def test_plots_are_files_of_both_kinds_named_by_table_and_plot() -> None:
    made = [changed(r, memory=a_memory(device=Bytes(2**30))) if r.cell.kind == "memory" else r for r in a_run(TWO)]
    found = dict(plots.files(made))
    assert set(found) == {
        f"table1-{name}.{form}" for name in ("throughput", "learning", "memory", "totals") for form in ("svg", "png")
    }
    for name, content in found.items():
        if name.endswith("png"):
            assert content.startswith(b"\x89PNG")
        else:
            texts = {
                "".join(e.itertext()).strip() for e in ElementTree.fromstring(content).iter() if e.tag.endswith("text")
            }
            assert {"fast", "slow"} <= texts
            assert "mnist_mlp: preset quick, float32 on the cpu" in texts
            assert b"date" not in content


def test_what_was_not_measured_has_no_plot() -> None:
    skipped = a_record(status="skipped", reason="not installed", versions={})
    assert list(plots.files([skipped])) == []
    assert "<svg" not in page.render([skipped])
    assert "not installed" in page.render([skipped])


# The same bytes.


@pytest.mark.slow
@pytest.mark.parametrize("render", [latex.render, table_json.render, page.render])
def test_the_same_records_give_the_same_bytes_in_any_order(render: Callable[[list[Record]], str]) -> None:
    made = many_records()
    assert render(made) == render(made[::-1])


@pytest.mark.slow
def test_plots_are_the_same_bytes_whatever_the_users_settings_are() -> None:
    import matplotlib

    made = a_run(TWO)
    expected = dict(plots.files(made))
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.fonttype": "path", "text.usetex": True}):
        assert dict(plots.files(made)) == expected
        assert matplotlib.rcParams["font.size"] == 30


def test_no_records_make_an_empty_report_and_no_error() -> None:
    assert "No records." in page.render([])
    assert json.loads(table_json.render([])) == {"report": table_json.FORMAT, "tables": []}
    assert latex.render([]).startswith("% needs")
    assert list(plots.files([])) == []


# Hostile records.


def harmless(text: str) -> None:
    """Nothing in it that a terminal or the direction of a text would follow."""
    text.encode()
    assert not set(map(ord, text)) & ({*range(32), *range(127, 160)} - {10})
    assert not re.search("[\u2028\u2029\u202a-\u202e\u2066-\u2069\u200b\ufeff]", text)


@hostile_texts()
def test_the_page_keeps_its_structure_whatever_a_record_says(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "plots", lambda *_: [])  # they have a test of their own
    rendered = page.render(hostile_records(text))
    harmless(rendered)
    reader, benign = Reader(rendered), Reader(page.render(hostile_records("x")))
    assert reader.elements == benign.elements
    assert reader.scripts == benign.scripts
    named = [value for _, name, value in reader.attributes if name in ("href", "id", "aria-labelledby")]
    assert all(re.fullmatch(r"#?[\w. -]+", value) for value in named)
    shown = "".join(c if c.isprintable() else " " for c in text)
    assert any(shown in part for part in reader.texts)


@hostile_texts()
def test_latex_sets_a_text_as_it_stands(text: str) -> None:
    escaped = latex.escape(text)
    tokens = [*map(re.escape, latex.SPECIAL.values()), r"-\{\}(?=-)", r"[^\\{}$&#%_^~<>|\"'`\[\]*]"]
    parts = re.findall("|".join(tokens), escaped)
    assert "".join(parts) == escaped
    back = {value: character for character, value in latex.SPECIAL.items()} | {"-{}": "-"}
    assert "".join(back.get(part, part) for part in parts) == "".join(c if c.isprintable() else " " for c in text)
    assert "--" not in escaped
    rendered = latex.render(hostile_records(text))
    harmless(rendered)
    assert len(rendered.splitlines()) == len(latex.render(hostile_records("x")).splitlines())
    assert rendered.count(r"\begin{") == rendered.count(r"\end{") == latex.render(hostile_records("x")).count(r"\end{")


@hostile_texts()
def test_json_keeps_a_text_in_ascii(text: str) -> None:
    rendered = table_json.render(hostile_records(text))
    assert rendered.isascii()
    assert rendered.replace("\n", "").isprintable()
    (table,) = json.loads(rendered, parse_constant=pytest.fail)["tables"]
    assert table["task"] == text
    assert sorted(row["arm"] for row in table["rows"]) == sorted([text, f"{text} 2", f"{text} 3"])


@hostile_texts()
@pytest.mark.slow
def test_a_comparison_keeps_its_structure_whatever_a_record_says(text: str) -> None:
    before, after = hostile_records(text), hostile_records(text)
    after = [changed(r, versions={text: f"{text}2"}, settings={text: 1}) for r in after]
    rendered = compare.render(compare.compare(before, after))
    harmless(rendered)
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(rendered)
    inner = {child.type for token in tokens for child in token.children or []}
    assert inner <= {"text", "softbreak", "text_special"}
    kinds = [token.type for token in tokens]
    assert kinds.count("table_open") == 1
    assert kinds.count("tr_open") == 1 + 3
    with pytest.raises(compare.NotComparable) as refused:
        compare.compare(before, a_run(TWO))
    assert str(refused.value).isprintable()


@pytest.mark.slow
def test_plots_survive_every_hostile_text() -> None:
    """All at once: each text is a backend of one table, in files and in the page."""
    made = [r for text in HOSTILE.values() for r in a_run({text: FAST})]
    for name, content in plots.files(made):
        if name.endswith("svg"):
            root = ElementTree.fromstring(content)
            assert not [e for e in root.iter() if e.tag.endswith(("script", "image", "foreignObject", "}a"))]
            harmless(content.decode())
    reader = Reader(page.render(made))
    assert reader.drawn <= {"title", "defs", "path", "g", "use", "text", "clippath", "rect", "pattern"}
    named = [value for _, name, value in reader.attributes if name in ("href", "id", "aria-labelledby")]
    assert all(re.fullmatch(r"#?[\w. -]+", value) for value in named)


def extremes() -> list[tuple[str, dict[str, Any]]]:
    """Figures at the ends of what a record may hold."""
    most, least = 1e30, 1e-9
    big = 2**63 - 1
    base = msgspec.to_builtins(a_record().outcome.timings)
    return [
        (
            "long",
            base | {"import_s": most, "build_s": most, "first_step_s": most, "window_s": most, "blocks_s": [most]},
        ),
        ("short", base | {"import_s": 0.0, "build_s": 0.0, "first_step_s": 0.0, "window_s": least, "blocks_s": [0.0]}),
        ("many", base | {"items": big, "block_steps": big, "tokens": big, "window_s": least}),
        ("few", base | {"items": 1, "block_steps": 1, "window_s": most}),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("render", FORMATS)
def test_figures_at_the_ends_of_their_ranges_are_shown(render: Callable[[list[Record]], str]) -> None:
    made = []
    for name, timings in extremes():
        for one in a_run({name: [100.0, 101.0, 99.0]}):
            plain = msgspec.to_builtins(one)
            outcome = plain["outcome"]
            if one.cell.kind == "speed":
                window_s = max(1e-9, timings["window_s"] * (1 if one.cell.round > 1 else 0.999999))
                outcome["timings"] = timings | {"window_s": window_s}
                outcome["probe"] = {"error": 1e300, "size": 1, "flops_per_second": 1e30}
                plain["cell"]["step_flops"] = 2**63 - 1
            elif one.cell.kind == "quality":
                value = [1e150, -1e150, 5e-324][one.cell.seed]
                curve = [[2**62, 1e150, 1e150], [-5, -1e150, -1e150]]
                outcome["quality"] |= {"metrics": {"accuracy": value}, "curve": curve}
            made.append(msgspec.convert(plain, Record))  # whether it is possible is not the question here
    render(made).encode()


@pytest.mark.parametrize("spoil", [{"import_s": 1e308}, {"window_s": 1e308}])
def test_figures_beyond_their_ranges_are_refused_when_they_are_read(spoil: dict[str, float]) -> None:
    plain = msgspec.to_builtins(a_record())
    plain["outcome"]["timings"] |= spoil
    with pytest.raises(files.RecordError, match="<= 1e"):
        files.decode(json.dumps(plain).encode())
