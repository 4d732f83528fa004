"""The HTML page: as a document, and as a browser shows it."""

import dataclasses
import json
import re
import shutil
import time
from html.parser import HTMLParser
from importlib import resources

import pytest

import tfcompress as tfc
from tfcompress.report._charts import charts
from tfcompress.report._metrics import METRICS, metrics_of, shown

PHONE, DESKTOP = 390, 1280


class TestDocument:
    def test_size_stays_below_five_megabytes(self, report):
        assert len(report.to_html().encode()) < 5e6

    def test_nothing_is_loaded(self, report):
        page = report.to_html()
        assert "default-src 'none'" in page[: page.index("<style>")]
        assert _Outline(page).links == []

    def test_it_carries_the_whole_report(self, report, hostile_report):
        for original in (report, hostile_report):
            page = original.to_html()
            embedded = re.search(r'id="report">(.*?)</script>', page, re.S).group(1)
            assert tfc.report.load(embedded) == original

    def test_every_tag_is_closed(self, report, hostile_report):
        for original in (report, hostile_report):
            assert _Outline(original.to_html()).open == []

    def test_hostile_names_make_no_elements(self, report, hostile_report):
        assert _Outline(hostile_report.to_html()).scripts == (
            _Outline(report.to_html()).scripts
        )

    def test_charts_have_words_and_numbers(self, report):
        outline = _Outline(report.to_html())
        assert outline.charts == len(charts(report)) > 0
        assert all(len(label) > 20 for label in outline.labels)

    def test_cards_show_the_file_to_deploy(self, report):
        page = report.to_html()
        assert "<dt>TFLite int8</dt>" in page
        assert "<dt>Latency int8</dt>" in page
        small = report.models[1]
        slow = dataclasses.replace(
            small.files["int8"], latency=tfc.export.Latency(9.0, 9.0, 9.0, 50)
        )
        small = dataclasses.replace(small, files={**small.files, "int8": slow})
        page = dataclasses.replace(report, models=(report.models[0], small)).to_html()
        assert "<dt>Latency float32</dt>" in page

    def test_missing_figures_leave_dashes_and_no_chart(self):
        empty = tfc.report.Report("Empty", (tfc.report.ModelFigures("m"),))
        page = empty.to_html()
        assert charts(empty) == []
        assert page.count(">–<") == len(metrics_of(empty)) + 6  # table and cards

    def test_one_model_has_no_factors(self, report):
        single = dataclasses.replace(report, models=report.models[:1])
        assert 'class="factor' not in single.to_html()

    def test_lines_beside_those_of_models_have_colours_of_their_own(self, report):
        # In the order in which they are given, models or not.
        series = {name: [(0.0, 1.0)] for name in ("random", "small", "other", "dense")}
        curves = tfc.report.Curves("Frontier", "MACs", "accuracy", series)
        (chart,) = (
            chart
            for chart in charts(dataclasses.replace(report, curves=(curves,)))
            if chart.title == "Frontier"
        )
        assert len(set(chart.legend.values())) == len(chart.legend) == 4

    def test_lines_of_one_point_are_marked(self, report):
        chart = next(c for c in charts(report) if c.title == "Sensitivity")
        single = {v["line"] for v in chart.spec["data"]["values"] if v["single"]}
        assert single == {"conv2"}
        marks = [
            layer
            for layer in chart.spec["layer"]
            if layer.get("transform") == [{"filter": "datum.single"}]
        ]
        assert [layer["mark"]["type"] for layer in marks] == ["point"]

    def test_rows_and_columns_without_numbers_keep_their_place(self, report):
        values = [[0.1, None, 0.2], [None, None, None], [0.3, None, 0.4]]
        names = ["a", "b", "c"]
        grid = tfc.report.Heatmap("Tiles", "x", "y", "value", names, names, values)
        chart = next(
            chart
            for chart in charts(dataclasses.replace(report, heatmaps=(grid,)))
            if chart.title == "Tiles"
        )
        for axis in ("x", "y"):
            assert chart.spec["encoding"][axis]["scale"]["domain"] == names

    def test_large_models_show_their_largest_layers(self, report):
        layers = tuple(
            tfc.report.LayerFigures(f"layer{i}", "Conv2D", 1000 + i, 10)
            for i in range(200)
        )
        model = dataclasses.replace(report.models[0], layers=layers)
        chart = next(
            chart
            for chart in charts(dataclasses.replace(report, models=(model,)))
            if chart.title == "MACs"
        )
        drawn = {value["layer"] for value in chart.spec["data"]["values"]}
        assert drawn == {f"layer{i}" for i in range(176, 200)}
        assert "24 of 200 layers" in chart.description

    def test_a_tie_in_accuracy_looks_like_one(self, report):
        dense, small = report.models
        small = dataclasses.replace(small, accuracy=dense.accuracy - 1e-4)
        chart = charts(dataclasses.replace(report, models=(dense, small)))[0]
        low, high = chart.spec["encoding"]["y"]["scale"]["domain"]
        assert high - low == pytest.approx(0.01)  # one point
        assert low < small.accuracy < dense.accuracy < high

    def test_frontier_joins_what_no_other_model_beats(self, report):
        dense, small = report.models
        worse = dataclasses.replace(dense, name="worse", accuracy=0.9)
        chart = charts(dataclasses.replace(report, models=(dense, worse, small)))[0]
        best = {v["model"] for v in chart.spec["data"]["values"] if v["best"]}
        assert best == {"dense", "small"}


class TestColors:
    """Contrast as WCAG 2 defines it: 4.5 for text, 3 for what carries meaning."""

    @pytest.mark.parametrize("theme", ["light", "dark"])
    def test_contrast(self, theme):
        colors = _theme(theme)
        for background in ("page", "surface"):
            for text in ("ink", "muted", "accent", "better", "worse"):
                assert _contrast(colors[text], colors[background]) >= 4.5, text
        marks = [name for name in colors if name.startswith(("model-", "kind-"))]
        assert len(marks) == 8 + 5
        for mark in marks:
            assert _contrast(colors[mark], colors["surface"]) >= 3, mark


class TestBrowser:
    @pytest.mark.parametrize("width", [PHONE, DESKTOP])
    def test_page_is_drawn_without_errors(self, browser, page, width):
        browser.show(page, width)
        assert browser.errors() == []
        assert set(browser.run(_EACH_CHART.format("e.dataset.state"))) == {"drawn"}
        marks = browser.run(_EACH_CHART.format("e.querySelectorAll(_marks).length"))
        assert all(count > 0 for count in marks)
        assert (
            browser.run("return performance.getEntriesByType('resource').length") == 0
        )

    @pytest.mark.parametrize("width", [PHONE, DESKTOP])
    def test_nothing_sticks_out(self, browser, page, hostile_page, width):
        for path in (page, hostile_page):
            browser.show(path, width)
            assert browser.run("return document.documentElement.scrollWidth") <= width
            assert browser.run("return document.documentElement.scrollHeight") < 12_000

    @pytest.mark.parametrize("width", [PHONE, DESKTOP])
    def test_text_matches_the_json(self, browser, page, report, width):
        browser.show(page, width)
        data = browser.run("return document.getElementById('report').textContent")
        assert json.loads(data) == json.loads(report.to_json())
        rows = browser.run(
            "return [...document.querySelectorAll('.models tbody tr')].map("
            "r => [...r.cells].map(c => c.innerText))"
        )
        for row, model in zip(rows, report.models, strict=True):
            assert row[0].strip() == model.name
            for cell, metric in zip(row[1:], metrics_of(report), strict=True):
                assert shown(metric, model) in cell
        cards = browser.run(
            "return [...document.querySelectorAll('.card .value')].map("
            "e => e.innerText)"
        )
        last = {shown(metric, report.models[-1]) for metric in METRICS}
        assert len(cards) == 6
        assert set(cards) <= last

    def test_hostile_names_are_shown_as_text(
        self, browser, hostile_page, hostile_report
    ):
        browser.show(hostile_page, DESKTOP)
        assert browser.errors() == []
        assert browser.run("return document.title") == hostile_report.title
        names = browser.run(
            "return [...document.querySelectorAll('.models tbody th')].map("
            "e => e.textContent)"
        )
        assert names == [model.name for model in hostile_report.models]

    def test_legend_brings_a_model_forward(self, browser, page):
        browser.show(page, DESKTOP)
        button = "document.querySelector('#chart-2-legend button')"
        faded = (
            "return [...document.querySelectorAll('#chart-2 .mark-rect path')].filter("
            "e => Number(e.getAttribute('opacity')) < 0.5).length"
        )
        assert browser.run(faded) == 0
        browser.run(f"{button}.focus(); {button}.click()")
        assert browser.run(f"return {button}.ariaPressed") == "true"
        assert browser.run(faded) == 3  # the other model's three layers
        browser.run(f"{button}.click()")
        assert browser.run(faded) == 0

    def test_model_of_the_energy_chart_can_be_chosen(self, browser, page):
        browser.show(page, DESKTOP)
        axis_end = (
            "return Math.max(...[...document.querySelectorAll("
            "'#chart-4 .role-axis-label text')].map(e => Number(e.textContent) || 0))"
        )
        assert browser.run(axis_end) <= 1  # a layer of the small model takes 1 µJ
        browser.run(
            "const s = document.querySelector('#chart-4-binding select');"
            "s.value = 'dense'; s.dispatchEvent(new Event('change'))"
        )
        browser.wait_for(f"{axis_end} >= 3")  # and one of the dense model 4 µJ

    def test_charts_follow_the_theme(self, browser, page):
        browser.show(page, DESKTOP)
        browser.theme("dark")
        style = "return getComputedStyle(document.body).{}"
        assert browser.run(style.format("backgroundColor")) == _rgb("dark", "page")
        browser.wait_for(
            "return document.querySelector('#chart-1 .mark-rect path')"
            f".getAttribute('fill') === '{_theme('dark')['kind-0']}'"
        )
        assert browser.errors() == []


_EACH_CHART = (
    "const _marks = '.mark-rect path, .mark-line path, .mark-symbol path';"
    "return [...document.querySelectorAll('[data-chart]')].map(e => {})"
)


# Fixtures -------------------------------------------------------------------


@pytest.fixture
def page(report, tmp_path):
    return report.save(tmp_path / "report.html")


@pytest.fixture
def hostile_page(hostile_report, tmp_path):
    return hostile_report.save(tmp_path / "hostile.html")


class _Browser:
    def __init__(self, driver):
        self._driver = driver
        self.run = driver.execute_script

    def show(self, path, width):
        self.theme("light")
        self._driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {
                "width": width,
                "height": 900,
                "deviceScaleFactor": 1,
                "mobile": width == PHONE,
            },
        )
        self._driver.get(path.as_uri())
        self.wait_for("return document.documentElement.dataset.charts === 'done'")

    def theme(self, name):
        self._driver.execute_cdp_cmd(
            "Emulation.setEmulatedMedia",
            {"features": [{"name": "prefers-color-scheme", "value": name}]},
        )

    def wait_for(self, condition):
        deadline = time.monotonic() + 30
        while not self.run(condition):
            assert time.monotonic() < deadline, f"never true: {condition}"
            time.sleep(0.02)

    def errors(self):
        return [entry["message"] for entry in self._driver.get_log("browser")]


@pytest.fixture(scope="module")
def browser():
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    names = ("chromium", "chromium-browser", "google-chrome")
    binary = next(filter(None, map(shutil.which, names)), None)
    driver = shutil.which("chromedriver")
    if not binary or not driver:
        pytest.skip("needs chromium and chromedriver (apt install chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(executable_path=driver)
    chrome = webdriver.Chrome(options=options, service=service)
    yield _Browser(chrome)
    chrome.quit()


# Helpers --------------------------------------------------------------------


class _Outline(HTMLParser):
    """What a page consists of; `open` lists tags that are not closed."""

    _VOID = frozenset({"meta"})

    def __init__(self, page):
        super().__init__()
        self.open, self.labels, self.links = [], [], []
        self.scripts = self.charts = 0
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        if tag not in self._VOID:
            self.open.append(tag)
        self.scripts += tag == "script"
        attributes = dict(attributes)
        self.links += [
            attributes[name] for name in ("src", "href") if name in attributes
        ]
        if "data-chart" in attributes:
            self.charts += 1
            assert attributes["role"] == "img"
            self.labels.append(attributes["aria-label"])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def _theme(name):
    css = resources.files("tfcompress.report").joinpath("assets/page.css").read_text()
    blocks = re.findall(r":root \{(.*?)\}", css, re.S)
    light, dark = (dict(re.findall(r"--([\w-]+): (#\w{6});", b)) for b in blocks)
    return light if name == "light" else {**light, **dark}


def _channels(color):
    return [int(color[i : i + 2], 16) for i in (1, 3, 5)]


def _rgb(theme, name):
    return "rgb({}, {}, {})".format(*_channels(_theme(theme)[name]))


def _contrast(first, second):
    def luminance(color):
        linear = [
            c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
            for c in (channel / 255 for channel in _channels(color))
        ]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)
