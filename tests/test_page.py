"""The page: what it says, without a browser; then how it behaves, in headless Chromium where there is one."""

import base64
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from helpers import synthetic

from cab.leaderboard import main
from cab.report import html
from cab.report.analyses import answers
from cab.report.analyses.base import Material
from cab.report.composite import composites
from cab.report.contents import document
from cab.report.document import Cell, Column, Document, Paragraph, Row, Section, Table
from cab.report.efficiency import analyse
from cab.report.efficiency_table import EfficiencyTable
from cab.report.groups import make_groups
from cab.report.load import Loaded
from cab.store.record import Record

HOSTILE = "<script>document.title='taken'</script>"
FAMILIES = ("vanilla", "eager", "none", "lightning", "routing")
SYNTHETIC = "b" * 64


class Reader(HTMLParser):
    """The rows of each table of a page as texts, and every element with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.origins: list[str] = []
        self.section = ""
        self.place = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.elements.append((tag, found))
        if tag == "section":
            self.section, self.place = found.get("id") or "", ""
        elif tag == "tr":
            self.tables.setdefault(self.section, []).append([])
        elif tag in ("td", "th"):
            self.tables[self.section][-1].append("")
            self.place = "cell"
        elif tag == "details":
            self.origins.append("")
            self.place = "origin"
        elif tag == "p" and found.get("class") == "why":
            self.place = "cell"

    def handle_endtag(self, tag: str) -> None:
        if tag in ("table", "details"):
            self.place = ""

    def handle_data(self, data: str) -> None:
        if self.place == "cell":
            self.tables[self.section][-1][-1] += data
        elif self.place == "origin":
            self.origins[-1] += data + " "


def some_records() -> list[Record]:
    """Two tables: real and synthetic data, ties, options, and every way for a row to have no number."""
    made = [synthetic.quality(name, seed) for name in FAMILIES for seed in range(3)]
    made += [synthetic.quality("lightning", s, options={"block": 32}, score=1.95 + s / 100) for s in range(3)]
    made += [synthetic.quality("fit", 0, status="unsupported", reason="the slot is a single layer")]
    made += [synthetic.quality("ssa", 0), synthetic.quality("ssa", 1, status="diverged", reason="loss is not finite")]
    made += [synthetic.quality(HOSTILE, 0, status="error", reason='<img src=x onerror=alert(1)> & "it\'s"')]
    made += [synthetic.quality(n, 0, task="recall", real=False, data=SYNTHETIC) for n in ("vanilla", "none")]
    made += [synthetic.efficiency(name, phases=("train", "decode")) for name in FAMILIES]
    return [*made, synthetic.efficiency("routing", level="mixer", status="out_of_memory", reason="17 GiB asked")]


def render(records: list[Record]) -> str:
    """The page without figures."""
    quality, efficiency = ([r for r in records if r.kind == kind] for kind in ("quality", "efficiency"))
    groups = make_groups(quality, EfficiencyTable(map(analyse, efficiency)))
    indices = composites(groups)
    answered = answers(Material(groups, indices))
    nowhere = Path("nowhere")
    return html.render(document(groups, indices, answered, Loaded(quality, efficiency), nowhere, False), nowhere)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """leaderboard/ as the command makes it, with figures and one damaged record."""
    results = tmp_path_factory.mktemp("results")
    paths = synthetic.write(results, *some_records(), synthetic.quality("vanilla", 9))
    paths[-1].write_text(paths[-1].read_text()[:-40])
    assert main(["--results", str(results)]) == 0
    return results / "leaderboard"


@pytest.fixture(scope="module")
def text(made: Path) -> str:
    return (made / "index.html").read_text()


def test_tables_are_those_of_leaderboard_md(made, text):
    """Same rows, same columns in which any row has something, same texts."""
    tables = Reader(text).tables
    for number, part in enumerate((made / "leaderboard.md").read_text().split("\n## ")[1:3]):
        lines = [line for line in part.splitlines() if line.startswith("|") and not line.startswith("|--")]
        head, *body = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
        shown = [i for i in range(len(head)) if any(row[i] != "-" for row in body)]
        found = tables[f"table-{number}"]
        assert found[0] == [head[i] for i in shown]
        for row, numbers, below in zip(body, found[1::2], found[2::2], strict=True):
            assert numbers[:-1] == [row[i] for i in shown[:-1]]
            status = row[-1]  # a reason stands below the row
            assert status.startswith(numbers[-1])
            assert status == "ok" or status in below[0]


def test_an_index_is_marked_as_sorted_by_it(text):
    section = text.partition("<section id=index-0")[2].partition("</thead>")[0]
    assert re.findall(r"aria-sort=(\w+)>(\w+)", section) == [("descending", "index")]


def test_ties_and_gaps_are_shown(text):
    rows = Reader(text).tables["table-0"]
    assert next(row for row in rows if "vanilla" in row)[0] == "1 (tie)"
    fit = next(row for row in rows if "fit" in row)
    assert fit[0] == "-"
    assert fit[3] == "-"
    assert "No row has: rank, std" in text  # of the table with one seed
    assert any("17 GiB asked" in row[0] for row in rows + Reader(text).tables["efficiency"])


def test_every_row_says_where_it_comes_from(text):
    about = [origin for origin in Reader(text).origins if origin.startswith("origin")]
    rows = [row for name in ("table-0", "table-1", "efficiency") for row in Reader(text).tables[name][1::2]]
    assert len(about) == len(rows)
    for origin in about:
        assert "python -m cab." in origin
        assert "1ec352d7a1" in origin
        assert "a CPU, 2 threads" in origin
        assert "torch 2.13.0" in origin
        assert re.search(r"\b[0-9a-f]{16}\b", origin)
    lightning = next(origin for origin in about if "attention=lightning attention.block=32" in origin)
    assert "seed=0,1,2" in lightning
    assert synthetic.DATA[:16] in lightning
    for seed in range(3):
        score = synthetic.quality("lightning", seed, options={"block": 32}, score=0.0)
        assert f"seed {seed}: {1.95 + seed / 100:.4g}" in lightning
        assert score.hash in lightning
    measured = next(origin for origin in about if f"{synthetic.quality('lightning', 0).hash} " in origin)
    assert synthetic.efficiency("lightning").hash in measured


def test_synthetic_data_is_called_so(text):
    found = re.findall(r"<section id=(table-\d).*?<h2>(.*?)</h2>", text, re.DOTALL)
    kinds = {re.sub(r"<.*?>", "", title) for _, title in found}
    assert kinds == {"lm, causal self, smoke real data", "recall, causal self, smoke synthetic data"}


def test_what_was_left_out_is_named(text):
    assert re.search(r"<h2>Left out: 1</h2><ul><li><code>runs/quality/[0-9a-f]{16}/result.json</code>: ", text)


def test_nothing_is_loaded_and_nothing_of_a_record_becomes_html(text):
    elements = Reader(text).elements
    assert [tag for tag, _ in elements].count("script") == 1
    for tag, attributes in elements:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href"):
            if name in attributes:
                assert (attributes[name] or "").startswith(("data:", "#")), tag
    assert HOSTILE not in text
    assert "&lt;img src=x onerror=alert(1)&gt; &amp; &quot;it&#x27;s&quot;" in text


def test_all_that_a_table_shows_is_text():
    row = Row([Cell("<i>"), Cell("1 (<i>)", 1.0)], note="<i>", origin={"<i>": "`<i>`"})
    tables = [
        Table("<i>", [Column("<i>"), Column("score (<i>)")], [row]),
        Table("", [Column("a"), Column("<i>")], [Row([Cell("b"), Cell("-")])]),
    ]
    section = Section("<i>", "a", [*tables, Paragraph("<i> `<i>`")], remark="<i>", best="<i>", tag="<i>")
    made = html.render(Document("<i>", [], [], [section]), Path("nowhere"))
    assert "<i>" not in made
    assert made.count("&lt;i&gt;") > 14


def test_only_its_own_style_and_script_may_run(text):
    policy = next(a["content"] for t, a in Reader(text).elements if t == "meta" and "http-equiv" in a) or ""
    assert policy.startswith("default-src 'none'; img-src data:;")
    for tag in ("style", "script"):
        inside = re.search(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert inside
        code = base64.b64encode(hashlib.sha256(inside[1].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{code}'" in policy


def test_figures_stand_beside_their_table(made, text):
    names = {path.stem for path in (made / "plots").glob("*.svg")}
    assert len(names) == 10  # two of each table, one of efficiency, five of analyses
    for name in names:
        assert f"plots/{name}.svg" in text.replace("<wbr>", "")
    parts = re.split("<section id=(?:table-1|analyses|efficiency)", text)
    assert [part.count("<img") for part in parts] == [2, 2, 5, 1]


def test_measurements_alone_make_a_page():
    made = render([synthetic.efficiency("lightning")])
    assert "no quality records: nothing to rank" in made
    assert "Measurements that belong to no row above: 1" in made


def test_bounds_have_a_tie_break(text):
    """In the order of the page: at most 128, then a number, then more than 2,048."""
    cells = re.findall(r"<td( data-number=[^>]*)>([^<]*)", text)
    assert (" data-number=128 data-tie=-1", "&lt;= 128") in cells
    assert (" data-number=2048 data-tie=1", "&gt; 2,048") in cells
    assert all("data-tie" not in key for key, shown in cells if shown[0].isdigit())


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_have_contrast(scheme):
    """WCAG AA: 4.5 for text of any size."""
    style = Path(html.__file__).with_name("page.css").read_text()
    blocks = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", blocks[scheme == "dark"]))

    def luminance(colour: str) -> float:
        parts = (int(colours[colour][i : i + 2], 16) / 255 for i in (1, 3, 5))
        red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    for ink in ("ink", "muted", "link", "bad", "warn"):
        for ground in ("warn-paper",) if ink == "warn" else ("paper", "soft"):
            low, high = sorted((luminance(ink), luminance(ground)))
            assert (high + 0.05) / (low + 0.05) >= 4.5, (ink, ground)


def test_analyses_are_explained(text):
    parts = text.partition("<section id=analyses>")[2].partition("<section id=efficiency>")[0]
    for name in ("gain", "noise", "state", "time"):
        assert f"<code>analyses/{name}.csv</code>" in parts
    time = parts.partition("<section id=about-time>")[2]
    assert time.count("<figure>") == 2
    assert "Without an answer in these records: " in parts
    assert "<a href=#analyses>Analyses</a>" in text
    assert "id=about-options" not in parts
    assert "<section id=analyses>" not in render([synthetic.quality("fit", 0, status="unsupported", reason="no")])


# In a browser

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if not (CHROMIUM and DRIVER):
        pytest.skip("no Chromium with its driver here (Debian: apt-get install chromium chromium-driver)")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("headless=new", "disable-dev-shm-usage", *(["no-sandbox"] if os.geteuid() == 0 else [])):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def view(browser: Any, made: Path) -> Iterator[Any]:
    """The page, freshly opened; nothing may have been complained about in the end."""
    show(browser, made, 1280)
    yield browser
    assert browser.get_log("browser") == []


def show(browser: Any, made: Path, width: int, scheme: str = "light") -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get((made / "index.html").as_uri())


def header(view: Any, title: str) -> Any:
    for found in view.find_elements("css selector", "#table-0 thead th"):
        if found.text.startswith(title):
            return found
    raise AssertionError(title)


def names(view: Any) -> list[str]:
    return [found.text for found in view.find_elements("css selector", "#table-0 tbody th") if found.is_displayed()]


def says(view: Any) -> str:
    return view.find_element("css selector", "output").text


def test_a_click_on_a_header_sorts(view):
    assert header(view, "bits per byte").get_attribute("aria-sort") == "ascending"
    assert names(view)[0] == "vanilla"
    scored = names(view)[:6]
    title = header(view, "train time")
    button = title.find_element("tag name", "button")
    button.click()
    assert title.get_attribute("aria-sort") == "ascending"
    assert header(view, "bits per byte").get_attribute("aria-sort") is None
    assert names(view)[:5] == ["control: none", "lightning", "vanilla", "routing", "eager"]
    button.click()
    assert title.get_attribute("aria-sort") == "descending"
    assert names(view)[:5] == [
        "eager",
        "routing",
        "vanilla",
        "lightning",
        "control: none",
    ]  # what is missing stays last
    header(view, "bits per byte").find_element("tag name", "button").click()
    assert names(view)[:6] == scored


def test_numbers_with_units_and_bounds_sort_by_size(view):
    header(view, "state").find_element("tag name", "button").click()
    assert set(names(view)[:3]) == {"control: none", "lightning", "routing"}  # 48 KiB before 6 MiB
    header(view, "faster than vanilla").find_element("tag name", "button").click()
    assert names(view)[:4] == ["control: none", "lightning", "eager", "routing"]  # <= 128, a number, > 1,024, > 2,048


def test_sorting_by_keyboard_keeps_rows_together(view):
    from selenium.webdriver.common.keys import Keys

    header(view, "attention").find_element("tag name", "button").send_keys(Keys.ENTER)
    assert names(view) == sorted(names(view), key=str.lower)
    for body in view.find_elements("css selector", "#table-0 tbody"):
        if "predictor" in body.text:
            continue
        name = body.find_element("tag name", "th").text.split(" (")[0].removeprefix("control: ").replace("'", "")
        body.find_element("tag name", "summary").send_keys(Keys.SPACE)
        assert f"attention={name}" in body.find_element("tag name", "code").text.replace("'", "")


def test_typing_filters_rows(view):
    total = says(view)
    box = view.find_element("name", "text")
    box.send_keys("lightning lm")
    assert names(view) == ["lightning (block=32)", "lightning"]
    assert not view.find_element("id", "table-1").is_displayed()
    assert not view.find_element("css selector", "[data-for=table-1]").is_displayed()
    assert re.fullmatch(r"2 of \d+ rows, in 1 of \d+ tables", says(view))
    box.clear()
    box.send_keys("single layer")
    assert names(view) == ["fit"]
    box.clear()
    box.send_keys(synthetic.quality("routing", 2).hash)
    assert names(view) == ["routing"]
    box.clear()
    box.send_keys("no such row")
    assert says(view).startswith("0 of ")
    view.find_element("css selector", "form button").click()
    assert len(names(view)) == 10  # with the best predictor
    assert says(view) == total


def test_choosing_a_task_shows_its_tables(view):
    from selenium.webdriver.support.ui import Select

    Select(view.find_element("name", "task")).select_by_value("recall")
    assert not view.find_element("id", "table-0").is_displayed()
    assert view.find_element("id", "table-1").is_displayed()
    assert says(view).startswith("3 of ")


def test_hostile_names_stay_text(view):
    assert view.title == "CAB leaderboard"
    assert HOSTILE in names(view)
    assert view.find_elements("css selector", "#table-0 table img") == []


def test_figures_are_drawn(view):
    script = "return [...document.images].map(i => (i.loading = 'eager', i.decode().then(() => i.naturalWidth)))"
    widths = view.execute_async_script(f"Promise.all((() => {{{script}}})()).then(arguments[0])")
    assert len(widths) == 10
    assert min(widths) > 500


@pytest.mark.parametrize("width", [390, 1280])
def test_only_tables_and_figures_scroll_sideways(view, made, width):
    show(view, made, width)
    view.execute_script("for (const each of document.querySelectorAll('details')) each.open = true")
    assert view.execute_script("return document.documentElement.scrollWidth") <= width
    inside = "[...document.querySelectorAll('td dl, .why')].every(e => e.getBoundingClientRect().right <= innerWidth)"
    assert view.execute_script(f"return {inside}")
    boxes = view.execute_script("return [...document.querySelectorAll('section .scroll')].map(e => e.tabIndex)")
    assert boxes
    assert set(boxes) == {0}


@pytest.mark.parametrize(("scheme", "dark"), [("light", False), ("dark", True)])
def test_it_follows_the_colour_scheme(view, made, scheme, dark):
    show(view, made, 1280, scheme)
    ground = view.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (max(map(int, re.findall(r"\d+", ground)[:3])) < 60) is dark
    figure = view.execute_script("return getComputedStyle(document.querySelector('figure .scroll')).backgroundColor")
    assert figure == "rgb(255, 255, 255)"


def test_the_type_of_all_figures_is_of_one_size(made, text):
    """Each as wide on the page as it was drawn."""
    found = re.findall(r'<img loading=lazy width=(\d+) alt="[^"]*" src="data:image/png;base64,([^"]*)"', text)
    assert len(found) == 10
    scales = {round(int.from_bytes(base64.b64decode(data)[16:20], "big") / int(width), 1) for width, data in found}
    assert len(scales) == 1


BROKEN = """
const broken = [];
const walker = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const node = walker.currentNode;
  if (node.parentElement.closest("details:not([open]) > :not(summary), select")) continue; // not to be seen
  for (const found of node.data.matchAll(/[\\p{L}\\p{N}]+/gu)) {
    const range = document.createRange();
    range.setStart(node, found.index);
    range.setEnd(node, found.index + found[0].length);
    if (new Set([...range.getClientRects()].map((each) => Math.round(each.top))).size > 1) broken.push(found[0]);
  }
}
return broken;
"""


def test_no_word_is_broken_on_a_phone(view, made):
    show(view, made, 390)
    view.execute_script("document.querySelectorAll('figure').forEach(each => each.scrollIntoView())")
    assert [word for word in view.execute_script(BROKEN) if len(word) < 20] == []
    widths = view.execute_script("return [...document.querySelectorAll('figure img')].map(e => e.clientWidth)")
    assert min(widths) > 500  # legible, to be swiped
