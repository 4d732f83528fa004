"""The reports on five kinds of models run, and show what they should."""

import runpy
from pathlib import Path

import pytest

import tfcompress as tfc

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "reports"

# What each report has to show: metrics, and sections of the page.
EXPECTED = {
    "classifier": ({"accuracy", "loss"}, {"Classes", "Wrong samples", "Training"}),
    "regression": ({"mae", "loss"}, set()),
    "autoencoder": ({"mae", "loss"}, set()),
    "two_heads": (
        {"digit_accuracy", "ink_mae", "digit_loss", "ink_loss", "loss"},
        {"Classes", "Wrong samples"},
    ),
    "segmentation": ({"pixel_accuracy", "loss"}, {"Classes"}),
}
DECIDING = {"Classes", "Wrong samples"}


def test_every_example_is_tried():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(EXPECTED)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda p: p.stem)
def test_people_can_copy_it(path):
    text = path.read_text("utf-8")
    assert text.startswith('# %% [markdown]\n"""A report on')
    assert len(text.splitlines()) <= 66
    assert "tfc._" not in text and "tfcompress._" not in text


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name == "regression" else pytest.mark.slow)
        for name in EXPECTED
    ],
)
def test_the_report_is_right(name, tmp_path, monkeypatch, request):
    monkeypatch.setenv("EPOCHS", "2")
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    report = tfc.report.load(tmp_path / f"{name}.json")
    metrics, sections = EXPECTED[name]
    for model in report.models:
        assert set(model.metrics) == metrics
        assert set(model.files["int8"].metrics) == metrics
        assert model.files["int8"].agreement
        assert (model.classes is not None) == ("Classes" in sections)
    assert report.verdict.rule
    browser = request.getfixturevalue("browser")
    for width in (390, 768, 1280, 1920):
        browser.show(tmp_path / f"{name}.html", width)
        assert browser.errors() == []
        assert browser.run("return document.documentElement.scrollWidth") <= width
    shown = set(
        browser.run(
            "return [...document.querySelectorAll('h2')].map(e => e.textContent)"
        )
    )
    assert sections <= shown
    assert (DECIDING - sections) & shown == set()
    assert browser.run(
        "return [...document.querySelectorAll('[data-chart]')]"
        ".every(e => e.dataset.state === 'drawn')"
    )
