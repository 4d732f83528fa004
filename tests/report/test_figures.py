"""The report as text, JSON and Markdown."""

import dataclasses
import json
import math
import os
from pathlib import Path

import pytest

import tfcompress as tfc
from tfcompress.report._json import schema
from tfcompress.report._rows import rows_of
from tfcompress.report._words import quantity, short_names, shorten

ROOT = Path(__file__).resolve().parents[2]


class TestQuantity:
    @pytest.mark.parametrize(
        ("value", "unit", "text"),
        [
            (0, "J", "0 J"),
            (4.3e-7, "J", "430 nJ"),
            (9.996e-4, "s", "1 ms"),
            (999.4, "", "999"),
            (999.9, "", "1 k"),
            (43_210, "", "43.2 k"),
            (1_234_567, "B", "1.23 MB"),
            (5e-19, "J", "0.0005 fJ"),
            (0.25, "", "0.25"),
        ],
    )
    def test_three_digits_and_a_prefix(self, value, unit, text):
        assert quantity(value, unit) == text


class TestText:
    def test_table_has_figures_and_factors(self, report):
        rows = {
            line.split("  ")[0]: line
            for line in str(report).splitlines()
            if "  " in line
        }
        assert "98.00 %" in rows["Accuracy"]
        assert "97.50 % (−0.50 points)" in rows["Accuracy"]
        assert "3,000" in rows["Parameters"]
        assert "750 (4.0× fewer)" in rows["Parameters"]
        assert "12 µJ" in rows["Modeled energy"]
        assert "3 µJ (4.0× less)" in rows["Modeled energy"]
        assert "500 µs" in rows["Latency int8, this computer"]
        assert "125 µs (4.0× faster)" in rows["Latency int8, this computer"]

    def test_columns_are_aligned(self, report):
        lines = str(report).splitlines()
        rules = [line for line in lines if set(line) == {"─"}]
        table = lines[lines.index(rules[0]) + 1 : len(lines) - 2]
        assert {len(line) for line in table} == {len(rules[0])}

    def test_missing_figures_are_dashes(self, report):
        empty = tfc.report.ModelFigures("nothing known")
        text = str(dataclasses.replace(report, models=(report.models[0], empty)))
        rows = rows_of(dataclasses.replace(report, models=(report.models[0], empty)))
        assert text.count("–\n") == len(rows)
        assert " 0" not in text.replace(" 0.", "")

    def test_larger_is_said_to_be_larger(self, report):
        text = str(dataclasses.replace(report, models=report.models[::-1]))
        assert "3,000 (4.0× more)" in text
        assert "12 kB (4.0× larger)" in text
        assert "+0.50 points" in text

    def test_small_changes_are_in_per_cent(self, report):
        first = report.models[0]
        other = dataclasses.replace(first, name="b", parameters=2_910)
        assert "2,910 (3.0 % fewer)" in str(
            dataclasses.replace(report, models=(first, other))
        )

    def test_sparse_models_show_their_nonzero_parameters(self, report):
        assert "Non-zero" not in str(report)
        sparse = dataclasses.replace(report.models[1], nonzero=75)
        text = str(dataclasses.replace(report, models=(report.models[0], sparse)))
        assert "75 (40× fewer)" in text

    def test_measured_energy_is_shown_where_there_is_any(self, report):
        assert "Energy float32" not in str(report)
        first = report.models[0]
        file = dataclasses.replace(first.files["float32"], energy=2e-3)
        first = dataclasses.replace(first, files={"float32": file})
        text = str(dataclasses.replace(report, models=(first, report.models[1])))
        row = next(line for line in text.splitlines() if "Energy float32" in line)
        assert row.split("  ")[-1].strip() == "–"
        assert "2 mJ" in row

    def test_hostile_names_do_not_break_lines(self, hostile_report):
        lines = str(hostile_report).splitlines()
        assert all(len(line) < 320 for line in lines)
        assert "<script>" in lines[0]


class TestNames:
    def test_middle_is_left_out(self):
        assert shorten("a" * 50 + "end", 10) == "a" * 6 + "…" + "end"
        assert len(shorten("x" * 10_000, 17)) == 17

    def test_control_characters_become_spaces(self):
        assert shorten("a\nb\x1b[31m\u202ec", 40) == "a b [31m c"

    def test_short_names_stay_different(self):
        names = ["x" * 50 + "1" + "y" * 50, "x" * 50 + "2" + "y" * 50, ""]
        shorts = short_names(names, 20)
        assert len(set(shorts.values())) == 3
        assert all(0 < len(short) <= 20 for short in shorts.values())


class TestJson:
    def test_load_restores_an_equal_report(self, report, hostile_report, tmp_path):
        for original in (report, hostile_report):
            assert tfc.report.load(original.to_json()) == original
            path = original.save(tmp_path / "report.json")
            assert tfc.report.load(path) == original
            assert tfc.report.load(str(path)) == original

    def test_schema_is_named_and_numbers_are_plain(self, report):
        data = json.loads(report.to_json())
        assert data["schema"] == "tfcompress-report/2"
        assert data["models"][1]["parameters"] == 750
        assert data["models"][1]["files"]["int8"]["latency"]["median"] == 0.125
        assert data["models"][0]["layers"][0]["energy"] == {
            "arithmetic": 3e-6,
            "memory": 1e-6,
        }

    def test_missing_figures_are_null_not_zero(self, report):
        empty = dataclasses.replace(report, models=(tfc.report.ModelFigures("m"),))
        model = json.loads(empty.to_json())["models"][0]
        assert model["metrics"] == {}
        assert model["energy"] is model["macs"] is model["packed"] is None
        assert tfc.report.load(empty.to_json()) == empty

    def test_numbers_that_are_not_finite_become_null(self, report):
        figure = tfc.report.MetricFigure(math.nan, "up", "fraction")
        model = dataclasses.replace(report.models[0], metrics={"accuracy": figure})
        text = dataclasses.replace(report, models=(model,)).to_json()
        assert tfc.report.load(text).models[0].metrics["accuracy"].value is None

    @pytest.mark.parametrize(
        "source",
        ["absent.json", "{", "[]", "{}", '{"schema": "tfcompress-report/99"}'],
    )
    def test_other_sources_are_refused(self, source):
        with pytest.raises(ValueError, match="`source`"):
            tfc.report.load(source)

    def test_reports_of_schema_1_are_read(self, report):
        old = json.loads(report.to_json())
        old["schema"] = "tfcompress-report/1"
        del old["verdict"]
        for model, accuracy in zip(old["models"], (0.98, None), strict=True):
            files = {
                kind: {k: file[k] for k in ("bytes", "latency", "parity", "energy")}
                for kind, file in model["files"].items()
            }
            known = ("name", "parameters", "nonzero", "macs", "energy", "layers")
            kept = {key: model[key] for key in known}
            model.clear()
            model.update(kept, accuracy=accuracy, files=files)
        first, second = tfc.report.load(json.dumps(old)).models
        assert first.metrics == report.models[0].metrics
        assert second.metrics == {}
        assert first.layers == report.models[0].layers
        assert first.files["int8"].parity.top1_agreement == 0.995
        assert "99.50 %" in str(tfc.report.load(json.dumps(old)))

    @pytest.mark.parametrize(
        ("path", "value"),
        [
            ("title", 3),
            ("title", None),
            ("models", {}),
            ("models", "dense"),
            ("notes", [1]),
            ("provenance", []),
            ("models.0", []),
            ("models.0.parameters", "many"),
            ("models.0.parameters", 1.5),
            ("models.0.parameters", True),
            ("models.0.metrics", [0.5]),
            ("models.0.metrics.accuracy.value", "high"),
            ("models.0.files.int8.latency", 3),
            ("models.0.layers.0.energy", {"arithmetic": "low"}),
            ("models.0.unknown", 1),
            ("histories", [1]),
            ("curves.0.series", {"a": [[1, 2, 3]]}),
            ("heatmaps.0.values", [[1.0]]),
        ],
    )
    def test_values_of_a_wrong_kind_are_named(self, report, path, value):
        data = json.loads(report.to_json())
        *parts, last = [int(p) if p.isdigit() else p for p in path.split(".")]
        place = data
        for part in parts:
            place = place[part]
        place[last] = value
        with pytest.raises(ValueError, match="`source`") as error:
            tfc.report.load(json.dumps(data))
        assert path.split(".")[0] in str(error.value)
        assert len(str(error.value)) < 500

    @pytest.mark.parametrize(
        "text",
        ['{"a":' * 100_000, '{"schema": ' + "[" * 100_000, '{"schema": NaN}', "{}\0"],
    )
    def test_hostile_text_gives_one_clear_error(self, text):
        with pytest.raises(ValueError, match="`source`"):
            tfc.report.load(text)
        with pytest.raises(TypeError, match="`source`"):
            tfc.report.load(3)

    def test_the_schema_is_published_and_describes_what_is_written(
        self, report, hostile_report
    ):
        published = json.loads(
            (ROOT / "docs" / "report.schema.json").read_text("utf-8")
        )
        assert published == schema()
        jsonschema = pytest.importorskip("jsonschema")
        for original in (report, hostile_report):
            jsonschema.validate(json.loads(original.to_json()), published)
        wrong = json.loads(report.to_json())
        wrong["models"][0]["parameters"] = "many"
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, published)

    def test_incomplete_reports_are_refused(self, report):
        data = json.loads(report.to_json())
        del data["models"]
        with pytest.raises(ValueError, match="models"):
            tfc.report.load(json.dumps(data))


class TestMarkdown:
    def test_it_has_every_part(self, report):
        text = report.to_markdown()
        for heading in (
            "# Digits",
            "## Models",
            "## Layers of small",
            "## Training of dense",
            "## Sensitivity",
            "## Density",
            "## Provenance",
        ):
            assert f"{heading}\n" in text
        assert "| Parameters | 3,000 | 750 (4.0× fewer) |" in text
        assert "| conv2 | 0.3 | – |" in text
        assert "- Something to keep in mind." in text

    def test_hostile_names_stay_text(self, hostile_report):
        text = hostile_report.to_markdown()
        assert "<script>" not in text
        assert "&lt;script&gt;" in text
        tables = [line for line in text.splitlines() if line.startswith("| ")]
        # An escaped bar is part of a name, any other one ends a cell.
        layers = [
            line for line in tables if "&lt;script&gt;" in line and "Conv" in line
        ]
        assert {line.replace("\\|", "").count("|") for line in layers} == {7}


class TestSave:
    def test_ending_chooses_the_format(self, report, tmp_path):
        assert report.save(tmp_path / "r.md").read_text() == report.to_markdown()
        assert report.save(tmp_path / "r.JSON").read_text() == report.to_json()
        page = report.save(str(tmp_path / "new" / "r.html")).read_text()
        assert page.startswith("<!DOCTYPE html>")

    def test_other_endings_are_refused(self, report, tmp_path):
        with pytest.raises(ValueError, match=r"\.html or \.json or \.md"):
            report.save(tmp_path / "report.pdf")

    def test_unwritable_place_is_refused(self, report, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(ValueError, match="can be written"):
            report.save(tmp_path / "file" / "report.html")

    def test_interrupted_write_leaves_the_old_file(self, report, tmp_path, monkeypatch):
        path = report.save(tmp_path / "report.json")
        before = path.read_text()

        def power_cut(source, target):
            raise OSError("interrupted")

        monkeypatch.setattr(os, "replace", power_cut)
        with pytest.raises(OSError, match="interrupted"):
            dataclasses.replace(report, title="other").save(path)
        assert path.read_text() == before
        assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


def test_heatmap_rows_must_fit_the_columns():
    with pytest.raises(ValueError, match="`values`"):
        tfc.report.Heatmap("t", "x", "y", "v", ["a", "b"], ["r"], [[1.0]])
