"""Reports made by hand, whose figures are known, and a browser to show them."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tfcompress.export import Latency, Parity
from tfcompress.report import (
    Curves,
    FileFigures,
    Heatmap,
    History,
    LayerFigures,
    MetricFigure,
    ModelFigures,
    Report,
)

HOSTILE = "<script>alert(1)</script>\"'&|`*_ 日本語"
LONG = "x" * 10_000


def model_figures(name, divisor, accuracy, layers=("conv1", "conv2", "dense")):
    """Figures that are `divisor` times smaller than 1,000 parameters a layer etc."""
    rows = tuple(
        LayerFigures(
            layer,
            "Conv2D",
            macs=60_000 // divisor,
            parameters=1_000 // divisor,
            energy={"arithmetic": 3e-6 / divisor, "memory": 1e-6 / divisor},
        )
        for layer in layers
    )
    count = len(layers)
    return ModelFigures(
        name=name,
        metrics={}
        if accuracy is None
        else {"accuracy": MetricFigure(accuracy, "up", "fraction")},
        parameters=count * 1_000 // divisor,
        nonzero=count * 1_000 // divisor,
        macs=count * 60_000 // divisor,
        energy={
            "arithmetic": count * 3e-6 / divisor,
            "memory": count * 1e-6 / divisor,
        },
        files={
            "float32": FileFigures(
                12_000 // divisor,
                Latency(1.0 / divisor, 0.9 / divisor, 1.2 / divisor, 50),
                Parity(1e-7, 1.0, 1.0, 100, "given"),
            ),
            "int8": FileFigures(
                4_000 // divisor,
                Latency(0.5 / divisor, 0.4 / divisor, 0.6 / divisor, 50),
                Parity(0.01, 1.0, 0.995, 100, "given"),
            ),
        },
        layers=rows,
    )


def history(*losses):
    return History(
        tuple(range(len(losses))),
        {"loss": losses, "val_loss": tuple(2 * loss for loss in losses)},
    )


@pytest.fixture
def report():
    return Report(
        title="Digits",
        models=(model_figures("dense", 1, 0.98), model_figures("small", 4, 0.975)),
        histories={"dense": history(1.0, 0.5, 0.25), "small": history(0.3, 0.2)},
        curves=(
            Curves(
                "Sensitivity",
                "fraction removed",
                "accuracy",
                {"conv1": [(0.0, 0.98), (0.5, 0.7)], "conv2": [(0.0, 0.98)]},
                "One layer at a time.",
            ),
        ),
        heatmaps=(
            Heatmap(
                "Density",
                "epoch",
                "layer",
                "density",
                ["1", "2"],
                ["conv1", "conv2"],
                [[0.5, 0.4], [0.3, None]],
            ),
        ),
        provenance={"seed": "0", "Energy": "modeled"},
        notes=("Something to keep in mind.",),
    )


@pytest.fixture
def hostile_report():
    layers = (HOSTILE, LONG, "ünï|`code`")
    return Report(
        title=HOSTILE,
        models=(
            model_figures(HOSTILE, 1, 0.9, layers),
            model_figures(LONG, 2, None, layers),
            model_figures(LONG + "y", 4, 0.8, layers),
        ),
        histories={HOSTILE: history(1.0, 0.5), LONG: history(0.3)},
        curves=(Curves(HOSTILE, LONG, LONG, {HOSTILE: [(0.0, 1.0)], LONG: []}),),
        heatmaps=(
            Heatmap(
                LONG, LONG, LONG, LONG, [HOSTILE, LONG], [LONG, LONG], [[1, 2]] * 2
            ),
        ),
        provenance={LONG: HOSTILE, HOSTILE: LONG},
        notes=(HOSTILE, LONG),
    )


# The browser ------------------------------------------------------------------

PHONE = 390


class _Browser:
    def __init__(self, driver):
        self._driver = driver
        self.run = driver.execute_script
        self.run_async = driver.execute_async_script

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


@pytest.fixture(scope="module")
def axe():
    """The script of axe-core, where npm has installed it."""
    root = Path(__file__).resolve().parents[2]
    places = [root / "node_modules", Path(os.environ.get("NODE_PATH", "") or root)]
    if npm := shutil.which("npm"):
        done = subprocess.run([npm, "root", "-g"], capture_output=True, text=True)
        places.append(Path(done.stdout.strip() or root))
    for place in places:
        script = place / "axe-core" / "axe.min.js"
        if script.exists():
            return script.read_text("utf-8")
    pytest.skip("needs axe-core (npm install --no-save axe-core)")
