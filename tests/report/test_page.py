"""The HTML page: as a document, and as a browser shows it."""

import dataclasses
import json
import re
from html.parser import HTMLParser
from importlib import resources

import pytest

import tfcompress as tfc
from tfcompress.report._charts import charts
from tfcompress.report._rows import rows_of, shown, tone

PHONE, DESKTOP = 390, 1280
WIDTHS = (PHONE, 768, DESKTOP, 1920)


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

    def test_cards_show_the_file_to_ship(self, report):
        for file in ("int8", "float32"):
            verdict = tfc.report.Verdict("small", file, "by hand", 0.01)
            page = dataclasses.replace(report, verdict=verdict).to_html()
            assert f"<dt>TFLite {file}</dt>" in page
            assert f"<dt>Latency {file}, this computer</dt>" in page

    def test_cards_are_those_of_the_model_to_ship(self, report):
        verdict = tfc.report.Verdict("dense", "int8", "by hand", 0.01)
        page = dataclasses.replace(report, verdict=verdict).to_html()
        card = re.search(r"<dt>Parameters</dt><dd>(.*?)</dd>", page).group(1)
        assert "3,000" in card and "750" not in card

    def test_missing_figures_leave_dashes_and_no_chart(self):
        empty = tfc.report.Report("Empty", (tfc.report.ModelFigures("m"),))
        page = empty.to_html()
        assert charts(empty) == []
        assert page.count(">–<") == len(rows_of(empty)) + 6  # table and cards

    def test_one_model_has_no_factors(self, report):
        single = dataclasses.replace(report, models=report.models[:1])
        assert 'class="factor' not in single.to_html()

    def test_the_verdict_leads_the_page_with_its_rule(self, report):
        verdict = tfc.report.Verdict("small", "int8", "a rule <b>", 0.01)
        page = dataclasses.replace(report, verdict=verdict).to_html()
        # 3,000 bytes of int8 against 12,000 of float32, both divided by 4.
        assert (
            "<strong>small</strong> (int8): 12.0× smaller than dense (float32)" in page
        )
        assert "Rule: a rule &lt;b&gt;." in page
        assert 'class="badge ship">to ship<' in page

    def test_a_model_that_is_broken_says_so(self, report):
        broken = dataclasses.replace(
            report.models[1], metrics={}, problem="7 of its weights are not finite"
        )
        page = dataclasses.replace(report, models=(report.models[0], broken)).to_html()
        assert "7 of its weights are not finite" in page
        assert "<td>NaN</td>" in page

    def test_wrong_samples_are_pictures_of_the_page_itself(self, report):
        wrong = (
            tfc.report.WrongSample("iVBORw0KGgo=", "<seven>", "one", 3),
            tfc.report.WrongSample('"onerror="alert(1)', "2", "3", 4),
        )
        model = dataclasses.replace(report.models[1], wrong=wrong)
        page = dataclasses.replace(report, models=(report.models[0], model)).to_html()
        assert 'src="data:image/png;base64,iVBORw0KGgo="' in page
        assert "&lt;seven&gt;" in page
        assert "<img" in page and "onerror=" not in page.split("<script")[0].replace(
            "onerror=alert1", ""
        )

    def test_how_models_were_made_and_where_they_lie(self, report):
        model = dataclasses.replace(
            report.models[1],
            path="out/small model.keras",
            made=({"method": "FilterPruning", "epochs": 30},),
        )
        page = dataclasses.replace(report, models=(report.models[0], model)).to_html()
        assert "FilterPruning, epochs: 30" in page
        assert 'href="out/small%20model.keras"' in page
        hostile = dataclasses.replace(model, path="javascript://alert(1)")
        page = dataclasses.replace(report, models=(hostile,)).to_html()
        assert "javascript" not in re.sub(r"<script.*?</script>", "", page, flags=re.S)

    def test_lines_beside_those_of_models_have_colors_of_their_own(self, report):
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
        value = 0.98 - 1e-4
        figure = tfc.report.MetricFigure(value, "up", "fraction")
        small = dataclasses.replace(small, metrics={"accuracy": figure})
        chart = charts(dataclasses.replace(report, models=(dense, small)))[0]
        low, high = chart.spec["encoding"]["y"]["scale"]["domain"]
        assert high - low == pytest.approx(0.01)  # one point
        assert low < value < 0.98 < high

    def test_frontier_joins_what_no_other_model_beats(self, report):
        dense, small = report.models
        figure = tfc.report.MetricFigure(0.9, "up", "fraction")
        worse = dataclasses.replace(dense, name="worse", metrics={"accuracy": figure})
        chart = charts(dataclasses.replace(report, models=(dense, worse, small)))[0]
        best = {v["model"] for v in chart.spec["data"]["values"] if v["best"]}
        assert best == {"dense", "small"}

    def test_every_pair_of_figures_can_be_shown(self, report):
        chart = charts(report)[0]
        titles = [figure["title"] for figure in chart.axes["figures"]]
        assert titles[chart.axes["y"]] == "Accuracy"
        assert titles[chart.axes["x"]] == "TFLite int8"
        assert {"MACs", "Modeled energy", "Parameters"} <= set(titles)
        count = len(titles)
        assert len(chart.axes["best"]) == count * (count - 1)
        # The small model beats the dense one in size and in work.
        x, y = titles.index("MACs"), titles.index("Parameters")
        assert chart.axes["best"][f"{x},{y}"] == [1]

    def test_size_of_integer_files_is_shown_against_how_well_these_do(self, report):
        figure = tfc.report.MetricFigure(0.97, "up", "fraction")
        models = [
            dataclasses.replace(
                model,
                files={
                    **model.files,
                    "int8": dataclasses.replace(
                        model.files["int8"], metrics={"accuracy": figure}
                    ),
                },
            )
            for model in report.models
        ]
        axes = charts(dataclasses.replace(report, models=tuple(models)))[0].axes
        titles = [figure["title"] for figure in axes["figures"]]
        assert titles[axes["y"]] == "Accuracy, int8 file"

    def test_kinds_of_energy_that_nothing_needs_are_left_out(self, report):
        models = tuple(
            dataclasses.replace(model, energy={**model.energy, "off_chip_memory": 0.0})
            for model in report.models
        )
        chart = charts(dataclasses.replace(report, models=models))[1]
        assert list(chart.legend) == ["arithmetic", "memory"]

    def test_classes_and_what_they_are_taken_for(self, report):
        confusion = ((8, 2), (0, 10))
        classes = tfc.report.ClassFigures("out", ("cat", "dog"), confusion)
        model = dataclasses.replace(report.models[1], classes=classes)
        found = {
            chart.title: chart
            for chart in charts(
                dataclasses.replace(report, models=(report.models[0], model))
            )
            if chart.section == "Classes"
        }
        bars = found["Accuracy by class"].spec["data"]["values"]
        assert {v["class"]: v["value"] for v in bars} == {"cat": 0.8, "dog": 1.0}
        cells = found["Confusion matrix"].spec["data"]["values"]
        shares = {(v["true"], v["taken for"]): v["share"] for v in cells}
        assert shares == {("cat", "cat"): 0.8, ("cat", "dog"): 0.2, ("dog", "dog"): 1.0}


class TestNoise:
    def model(self, name, value, **interval):
        figure = tfc.report.MetricFigure(value, "up", "fraction", **interval)
        return tfc.report.ModelFigures(name, metrics={"accuracy": figure})

    @pytest.mark.parametrize(
        ("value", "noise", "expected"),
        [(0.95, 0.02, "worse"), (0.97, 0.02, "same"), (0.99, 0.005, "better")],
    )
    def test_differences_below_it_are_gray(self, value, noise, expected):
        first = self.model("first", 0.98, low=0.9, high=0.999)
        other = self.model("other", value, low=0.9, high=0.999, noise=noise)
        report = tfc.report.Report("Noise", (first, other))
        row = rows_of(report)[0]
        assert tone(row, other, first) == expected
        assert f'class="factor {expected}"' in report.to_html()

    def test_latencies_that_overlap_are_the_same(self, report):
        first = report.models[0]
        for median, expected in ((0.99, "same"), (0.5, "better")):
            latency = tfc.export.Latency(median, median - 0.05, median + 0.05, 50)
            file = dataclasses.replace(first.files["float32"], latency=latency)
            other = dataclasses.replace(first, name="b", files={"float32": file})
            both = dataclasses.replace(report, models=(first, other))
            row = next(r for r in rows_of(both) if r.key == "float32_latency")
            assert tone(row, other, first) == expected


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

    @pytest.mark.parametrize("width", WIDTHS)
    def test_nothing_sticks_out(self, browser, page, hostile_page, width):
        for path in (page, hostile_page):
            browser.show(path, width)
            assert browser.run("return document.documentElement.scrollWidth") <= width
            assert browser.run("return document.documentElement.scrollHeight") < 12_000

    @pytest.mark.parametrize("width", WIDTHS)
    def test_text_matches_the_json(self, browser, page, report, width):
        browser.show(page, width)
        data = browser.run("return document.getElementById('report').textContent")
        assert json.loads(data) == json.loads(report.to_json())
        columns = browser.run(
            "return [...document.querySelectorAll('.models thead th .full')].map("
            "e => e.innerText)"
        )
        assert columns == [model.name for model in report.models]
        lines = browser.run(
            "return [...document.querySelectorAll('.models tbody tr:not(.group)')].map("
            "r => [...r.cells].map(c => c.innerText))"
        )
        for line, row in zip(lines, rows_of(report), strict=True):
            assert line[0].startswith(row.label)
            for cell, model in zip(line[1:], report.models, strict=True):
                assert shown(row, model) in cell
        cards = browser.run(
            "return [...document.querySelectorAll('.card .value')].map("
            "e => e.innerText)"
        )
        last = {shown(row, report.models[-1]) for row in rows_of(report)}
        assert len(cards) == 6
        assert set(cards) <= last

    @pytest.mark.parametrize("width", WIDTHS)
    def test_names_are_whole(self, browser, report, tmp_path, width):
        name = "MobileNetV2 0.35, filters pruned while training, then int8 (seed 3)"
        long = dataclasses.replace(report.models[1], name=name)
        both = dataclasses.replace(report, models=(report.models[0], long))
        browser.show(both.save(tmp_path / "long.html"), width)
        cut = browser.run(
            "return [...document.querySelectorAll('.models .full, .lead, .rule')]"
            ".filter(e => e.scrollWidth > e.clientWidth + 1 && e.clientWidth > 0)"
            ".length"
        )
        assert cut == 0

    @pytest.mark.parametrize("theme", ["light", "dark"])
    def test_no_serious_barrier(self, browser, page, axe, theme):
        browser.show(page, DESKTOP)
        browser.theme(theme)
        browser.run(axe)
        found = browser.run_async(
            "const done = arguments[0]; axe.run().then(r => done(r.violations.filter("
            "v => ['serious', 'critical'].includes(v.impact)).map(v => v.id + ' ' + "
            "v.nodes[0].html)))"
        )
        assert found == []

    def test_axes_can_be_chosen(self, browser, page):
        browser.show(page, DESKTOP)
        title = (
            "return [...document.querySelectorAll('#chart-0 .role-axis-title text')]"
            ".map(e => e.textContent).join(' / ')"
        )
        assert "TFLite int8" in browser.run(title)
        browser.run(
            "const s = document.querySelector('#chart-0-axes [data-axis=x]');"
            "s.value = [...s.options].findIndex(o => o.text === 'MACs');"
            "s.dispatchEvent(new Event('change'))"
        )
        browser.wait_for(
            "return [...document.querySelectorAll('#chart-0 .role-axis-title text')]"
            ".some(e => e.textContent.includes('MACs'))"
        )
        assert "TFLite int8" not in browser.run(title)
        assert browser.errors() == []

    def test_paper_has_all_tables(self, browser, page):
        browser.show(page, DESKTOP)
        browser.run("window.dispatchEvent(new Event('beforeprint'))")
        closed = browser.run(
            "return document.querySelectorAll('details:not([open])').length"
        )
        assert closed == 0

    def test_hostile_names_are_shown_as_text(
        self, browser, hostile_page, hostile_report
    ):
        browser.show(hostile_page, DESKTOP)
        assert browser.errors() == []
        assert browser.run("return document.title") == hostile_report.title
        names = browser.run(
            "return [...document.querySelectorAll('.models thead .full')].map("
            "e => e.textContent)"
        )
        assert names[0] == hostile_report.models[0].name
        assert all(len(name) <= 160 for name in names)

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


# Helpers --------------------------------------------------------------------


class _Outline(HTMLParser):
    """What a page consists of; `open` lists tags that are not closed."""

    _VOID = frozenset({"meta", "img"})

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
    # The third one is for paper.
    light, dark, _ = (dict(re.findall(r"--([\w-]+): (#\w{6});", b)) for b in blocks)
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
