"""Draws docs/figures/*.svg: what each method removes, and when, in a real run.

Every figure shows one short training run on scikit-learn's digits. A figure carries
its own background and follows the reader's light or dark scheme.

Usage: python scripts/draw_methods.py            # all of them, about three minutes
       python scripts/draw_methods.py gates admm # some
"""

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import tfcompress as tfc

FIGURES = Path(__file__).resolve().parents[1] / "docs" / "figures"
MOST_BYTES = 60_000
LEVELS = 16  # shades of a cell: with more, the files grow and nobody sees it

STYLE = """
.paper{fill:#fff}.text,.small,.title{fill:#24292f;font-family:system-ui,sans-serif}
.text{font-size:13px}.small{font-size:11px}.title{font-size:14px;font-weight:600}
.a{fill:#00796b}.b{fill:#c75000}.none{fill:#e4e7ea}
.line{stroke:#00796b;stroke-width:2;fill:none}.axis{stroke:#6e7781;fill:none}
@media(prefers-color-scheme:dark){.paper{fill:#1b1f24}
.text,.small,.title{fill:#e6edf3}.a{fill:#4db6ac}.b{fill:#ff9d5c}.none{fill:#343b44}
.line{stroke:#4db6ac}.axis{stroke:#8b949e}}
"""


class Figure:
    """A picture in SVG: coordinates in pixels, colors by class."""

    def __init__(self, width: int, height: int, description: str) -> None:
        self.width, self.height = width, height
        self.description = description
        self.parts: list[str] = []

    def text(self, x, y, text, kind="text", anchor="start") -> None:
        """A line of text; y is its base line."""
        self.parts.append(
            f'<text class="{kind}" x="{x:g}" y="{y:g}" text-anchor="{anchor}">'
            f"{escape(text)}</text>"
        )

    def rect(self, x, y, width, height, kind="a") -> None:
        """A filled rectangle."""
        self.parts.append(
            f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{width:g}" '
            f'height="{height:g}"/>'
        )

    def line(self, points: Iterable[tuple[float, float]], kind="line") -> None:
        """A line through points."""
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self.parts.append(f'<polyline class="{kind}" points="{path}"/>')

    def cells(self, x, y, values: np.ndarray, size: tuple[int, int], kind="a") -> None:
        """A matrix of shades: 0 … 1, from pale to full; NaN is what has been removed.

        Cells of one shade are one path, and neighbors in a row are one rectangle of
        it, which keeps a figure of thousands of cells small.
        """
        wide, high = size
        shades = np.where(np.isnan(values), -1, np.ceil(np.clip(values, 0, 1) * LEVELS))
        for shade in np.unique(shades):
            path = []
            for row, line in enumerate(shades):
                same = np.flatnonzero(line == shade)
                for run in np.split(same, np.flatnonzero(np.diff(same) > 1) + 1):
                    if run.size:
                        left, top = x + run[0] * wide, y + row * high
                        gap = min(1, wide - 1)
                        path.append(
                            f"M{left:g} {top:g}h{run.size * wide - gap}"
                            f"v{max(high - 1, 1)}h-{run.size * wide - gap}z"
                        )
            opacity = 0.15 + 0.85 * shade / LEVELS
            look = (
                'class="none"'
                if shade < 0
                else f'class="{kind}" opacity="{opacity:.2f}"'
            )
            self.parts.append(f'<path {look} d="{"".join(path)}"/>')

    def key(self, x, y, entries: Sequence[tuple[str, str]]) -> None:
        """Colors and what they mean, side by side."""
        for kind, text in entries:
            self.rect(x, y - 10, 12, 12, kind)
            self.text(x + 18, y, text, "small")
            x += 34 + 6.1 * len(text)

    def __str__(self) -> str:
        body = "\n".join(self.parts)
        size = f'width="{self.width}" height="{self.height}"'
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" role="img" '
            f'viewBox="0 0 {self.width} {self.height}" {size}>\n'
            f"<title>{escape(self.description)}</title>\n<style>{STYLE}</style>\n"
            f'<rect class="paper" {size} rx="6"/>\n{body}\n</svg>\n'
        )


class Record(keras.callbacks.Callback):
    """Keeps what a function says of the model at the end of each epoch."""

    def __init__(self, look: Callable[[keras.Model], object]) -> None:
        super().__init__()
        self.look = look
        self.seen: list = []

    def on_epoch_end(self, epoch, logs=None) -> None:
        """Looks."""
        self.seen.append(self.look(self.model))


def digits():
    return tfc.data.load("digits")


def lenet(data, width=1.0) -> keras.Model:
    keras.utils.set_random_seed(0)
    model = tfc.zoo.lenet5(width, data.classes, data.input_shape)
    compile_for_classes(model)
    return model


def compile_for_classes(model: keras.Model) -> None:
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])


def stream(data):
    return data.pipeline("train", batch_size=32)


def accuracy(model: keras.Model, data) -> float:
    x, y = data.test.images, data.test.labels
    compile_for_classes(model)
    return float(model.evaluate(x, y, verbose=0)[1])


def epochs_below(figure, x, y, count, wide, every=5) -> None:
    """Numbers of epochs under the columns of a matrix."""
    for epoch in range(0, count, every):
        figure.text(x + (epoch + 0.5) * wide, y, str(epoch + 1), "small", "middle")
    figure.text(x + count * wide + 8, y, "epoch", "small")


def filter_pruning() -> Figure:
    data, epochs = digits(), 30
    model = lenet(data)
    names = ("conv1", "conv2")

    def norms(model):
        return [
            np.abs(model.get_layer(n).kernel.numpy()).mean(axis=(0, 1, 2))
            for n in names
        ]

    seen = Record(norms)
    ramp = tfc.schedules.Linear(0.0, 0.6, begin=0, end=20)
    pruning = tfc.callbacks.FilterPruning(ramp)
    history = model.fit(
        stream(data),
        validation_data=data.pipeline("validation"),
        epochs=epochs,
        callbacks=[pruning, seen],
        verbose=0,
    )
    small = tfc.finalize(model)
    before, after = model.count_params(), small.count_params()
    figure = Figure(
        760,
        540,
        "Filters of LeNet-5 while it is pruned: a row a filter, a column an epoch",
    )
    figure.text(20, 28, "Which filters go, and when", "title")
    wide, left, top = 18, 90, 62
    for index, (name, high) in enumerate(zip(names, (6, 4), strict=True)):
        values = np.array([row[index] for row in seen.seen]).T  # (filters, epochs)
        alive = values > 0
        order = np.lexsort((-values[:, -1], -alive.sum(axis=1)))
        shown = np.where(alive, values / values.max(), np.nan)[order]
        figure.text(20, top + 12, name)
        figure.text(20, top + 28, f"{len(values)} filters", "small")
        figure.text(20, top + 43, f"{alive[:, -1].sum()} stay", "small")
        figure.cells(left, top, shown, (wide, high))
        top += high * len(values) + 14
    scores = history.history["val_accuracy"]
    base, high = top + 70, 60
    figure.text(20, top + 24, "validation")
    figure.text(20, top + 40, "accuracy")
    figure.line([(left, base), (left + epochs * wide, base)], "axis")
    figure.line(
        [
            (left + (i + 0.5) * wide, base - high * max(0, 2 * s - 1))
            for i, s in enumerate(scores)
        ]
    )
    figure.text(left + epochs * wide + 8, base - high + 8, "100 %", "small")
    figure.text(left + epochs * wide + 8, base + 3, "50 %", "small")
    epochs_below(figure, left, base + 18, epochs, wide)
    figure.key(
        280, 28, [("a", "a filter; fuller: larger mean |w|"), ("none", "removed")]
    )
    figure.text(
        20,
        top + 112,
        f"LeNet-5 on digits: {before:,} → {after:,} parameters, test accuracy "
        f"{accuracy(small, data):.1%}. The epochs after the last removal recover.",
        "small",
    )
    figure.height = top + 128
    return figure


def magnitude_pruning() -> Figure:
    data, epochs = digits(), 20
    model = lenet(data)
    train = stream(data)
    steps = epochs * len(train)

    def kernel(model):
        return np.abs(model.get_layer("fc1").kernel.numpy()[:28, :36])

    seen = Record(kernel)
    every = Record(lambda m: float(np.mean(m.get_layer("fc1").kernel.numpy() == 0)))
    ramp = tfc.schedules.Polynomial(0.0, 0.9, begin=steps // 4, end=3 * steps // 4)
    model.fit(
        train,
        epochs=epochs,
        callbacks=[
            tfc.callbacks.MagnitudePruning(ramp, exclude=["conv1", "classifier"]),
            seen,
            every,
        ],
        verbose=0,
    )
    figure = Figure(
        760, 330, "A corner of a kernel at four epochs: small weights become zero"
    )
    figure.text(20, 28, "Single weights become zero, the smallest first", "title")
    figure.key(430, 28, [("a", "a weight; fuller: larger |w|"), ("none", "zero")])
    most = max(float(values.max()) for values in seen.seen) * 0.6
    for place, epoch in enumerate((5, 8, 11, 20)):
        values = seen.seen[epoch - 1]
        shown = np.where(values == 0, np.nan, values / most)
        x = 20 + place * 184
        figure.text(x, 56, f"epoch {epoch}: {every.seen[epoch - 1]:.0%} zeros")
        figure.cells(x, 66, shown, (4, 4))
    left, base, wide, high = 90, 280, 27, 70
    figure.text(20, base - 50, "zeros")
    figure.line([(left, base), (left + epochs * wide, base)], "axis")
    figure.line(
        (left + (i + 0.5) * wide, base - high * s) for i, s in enumerate(every.seen)
    )
    figure.text(left + epochs * wide + 8, base - high * 0.9 + 4, "90 %", "small")
    figure.text(left + epochs * wide + 8, base + 3, "0 %", "small")
    epochs_below(figure, left, base + 16, epochs, wide)
    figure.text(
        20,
        322,
        f"28 × 36 of the weights of LeNet-5's fc1, digits. Test accuracy "
        f"{accuracy(model, data):.1%}. The kernel keeps its shape.",
        "small",
    )
    return figure


def histogram(figure, x, y, values, limit, size=(168, 110), kind="a") -> None:
    """Bars of the non-zero values between ±limit, and how many there are."""
    wide, high = size
    left = values[values != 0]
    counts, _ = np.histogram(left, bins=56, range=(-limit, limit))
    # Square roots: next to thousands of small weights a few large ones stay visible.
    bars = np.sqrt(counts / max(counts.max(), 1)) * high
    for index, bar in enumerate(bars):
        if bar > 0:
            figure.rect(x + index * 3, y + high - bar, 2.4, max(bar, 1), kind)
    figure.line([(x, y + high), (x + wide, y + high)], "axis")
    figure.text(x + wide / 2, y + high + 14, "0", "small", "middle")
    figure.text(x, y + high + 14, f"−{limit:.2f}", "small")
    figure.text(x + wide, y + high + 14, f"{limit:.2f}", "small", "end")


def admm() -> Figure:
    data, name = digits(), "fc1"
    model = lenet(data)
    train = stream(data)
    few, levels = tfc.constraints.Cardinality(fraction=0.1), tfc.constraints.Levels(3)
    shown = []

    def look(title):
        kernel = model.get_layer(name).kernel.numpy().ravel()
        shown.append((title, kernel, accuracy(model, data)))

    def train_for(epochs, *callbacks):
        compile_for_classes(model)
        model.fit(train, epochs=epochs, callbacks=list(callbacks), verbose=0)

    train_for(12)
    look("trained")
    train_for(8, tfc.callbacks.ADMM(few, rho=3e-2))
    look("pulled to the set")
    tfc.training.hard_prune(model, few)
    train_for(6, tfc.callbacks.HoldWeights())
    look("projected, retrained")
    train_for(8, tfc.callbacks.HoldWeights(), tfc.callbacks.ADMM(levels, rho=3e-2))
    tfc.training.fix_levels(model, 3)
    train_for(2, tfc.callbacks.HoldWeights("values"))  # biases
    look("on 8 levels")
    figure = Figure(
        760, 250, "Histograms of a kernel's weights in four phases of ADMM-NN"
    )
    figure.text(20, 28, "Where the weights of a kernel are, phase by phase", "title")
    limit = max(float(np.quantile(np.abs(kernel), 0.999)) for _, kernel, _ in shown)
    for place, (title, kernel, score) in enumerate(shown):
        x = 20 + place * 184
        figure.text(x, 56, title)
        left = kernel[kernel != 0]
        what = f"{left.size:,} weights"
        if np.unique(left).size <= 16:
            what += f", {np.unique(left).size} values"
        figure.text(x, 72, what, "small")
        histogram(figure, x, 84, kernel, limit)
        figure.text(x, 226, f"test accuracy {score:.1%}", "small")
    figure.text(
        20,
        244,
        "LeNet-5's fc1 on digits. Height: square root of the number of weights. "
        "Zeros are not drawn.",
        "small",
    )
    return figure


def gates() -> Figure:
    data, epochs = digits(), 16
    keras.utils.set_random_seed(0)
    dense = tfc.zoo.resnet20(
        width=0.25, input_shape=data.input_shape, classes=data.classes
    )
    model = tfc.gates.add_layer_gates(dense, seed=0)
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    penalty = tfc.callbacks.GatePenalty(polarization=3.0, activation=1.0)
    train = data.pipeline("train", batch_size=64)
    model.fit(train, epochs=epochs, callbacks=[penalty], verbose=0)
    small = tfc.finalize(model, data.train.images, threshold=0.5)
    macs = [tfc.cost.count(m).macs for m in (dense, small)]
    figure = Figure(
        760, 330, "How often each gate of ResNet-20 is open, epoch by epoch"
    )
    figure.text(20, 28, "Which residual branches stay", "title")
    figure.key(
        300,
        28,
        [("a", "open; paler: for fewer images"), ("none", "closed for all images")],
    )
    left, top, wide, high = 170, 46, 28, 24
    measured = tfc.gates.measure(model, data.train.images)
    for row, (name, ratios) in enumerate(penalty.openings.items()):
        values = np.array([float(np.mean(r)) for r in ratios])[None]
        y = top + row * high
        figure.text(20, y + 16, name, "small")
        figure.cells(left, y, np.where(values < 0.005, np.nan, values), (wide, high))
        kept = float(np.mean(measured.ratios[name])) >= 0.5
        figure.text(left + epochs * wide + 12, y + 16, "stays" if kept else "removed")
    bottom = top + len(penalty.openings) * high + 16
    epochs_below(figure, left, bottom, epochs, wide)
    figure.text(
        20,
        bottom + 26,
        f"ResNet-20 at quarter width on digits: {macs[0]:,} → {macs[1]:,} "
        f"multiply–accumulates, test accuracy {accuracy(small, data):.1%}.",
        "small",
    )
    return figure


def activation_density() -> Figure:
    data = digits()
    keras.utils.set_random_seed(0)
    conv = keras.layers.Conv2D
    layers = [
        conv(24, 3, padding="same", activation="relu", name=f"conv{i}")
        for i in range(1, 5)
    ]
    model = keras.Sequential(
        [
            keras.Input(data.input_shape),
            *layers,
            keras.layers.Flatten(),
            keras.layers.Dense(64, activation="relu", name="hidden"),
            keras.layers.Dense(data.classes, activation="softmax", name="classes"),
        ]
    )
    compile_for_classes(model)
    result = tfc.training.resize_by_density(
        model,
        stream(data),
        validation_data=data.pipeline("validation"),
        epochs=20,
        round_epochs=14,
        max_rounds=1,
        weights="inherit",
        seed=0,
        verbose=0,
    )
    wide_net, narrow = result.nets[0], result.nets[-1]
    figure = Figure(
        760,
        330,
        "Density of each layer's activations by epoch, and the widths it gives",
    )
    figure.text(20, 28, "How active a layer is decides how wide it gets", "title")
    figure.key(
        410, 28, [("a", "share of activations that are not zero: fuller is more")]
    )
    left, top, wide, high = 90, 70, 16, 30
    epochs = len(wide_net.curve)
    figure.text(left, 58, "first network, epoch by epoch", "small")
    bars = left + epochs * wide + 100
    figure.text(bars, 58, "width before and after", "small")
    scale = 150 / max(wide_net.widths.values())
    for row, (name, values) in enumerate(wide_net.densities.items()):
        y = top + row * high
        figure.text(20, y + 19, name)
        figure.cells(left, y, np.array([values]), (wide, high - 2))
        end = left + epochs * wide
        figure.text(end + 8, y + 19, f"{values[-1]:.0%}")
        before, after = wide_net.widths[name], narrow.widths[name]
        figure.rect(bars, y + 4, before * scale, 20, "none")
        figure.rect(bars, y + 4, after * scale, 20, "a")
        figure.text(bars + before * scale + 8, y + 19, f"{before} → {after}")
    bottom = top + len(wide_net.densities) * high + 16
    epochs_below(figure, left, bottom, epochs, wide)
    figure.text(
        20,
        bottom + 30,
        f"A network of five layers on digits: {wide_net.macs:,} → {narrow.macs:,} "
        f"multiply–accumulates, test accuracy {accuracy(result.model, data):.1%}.",
        "small",
    )
    figure.height = bottom + 46
    return figure


def cross_stack() -> Figure:
    data, epochs = digits(), (8, 8, 10)
    model = lenet(data)
    train = stream(data)
    names = ("conv2", "fc1")
    back: list[float] = []

    def shares(model):
        """Fractions of the weights that are exact, approximate and pruned."""
        pruned = approximate = total = 0
        for layer in map(model.get_layer, names):
            free = chosen = None
            while isinstance(layer, tfc.layers.KernelWrapper):
                if isinstance(layer, tfc.layers.MaskedKernel):
                    free = layer.masks[0].mask.numpy()
                if isinstance(layer, tfc.layers.DrumMultiply):
                    chosen = layer.approximated.numpy()
                layer = layer.layer
            free = np.ones(layer.kernel.shape, bool) if free is None else free
            chosen = np.zeros_like(free) if chosen is None else chosen
            total += free.size
            pruned += free.size - np.count_nonzero(free)
            approximate += np.count_nonzero(free & chosen)
        return np.array([total - pruned - approximate, approximate, pruned]) / total

    seen = Record(shares)
    scores = []

    def train_for(count, *callbacks):
        compile_for_classes(model)
        history = model.fit(
            train, epochs=count, callbacks=[*callbacks, seen], verbose=0
        ).history
        back.extend(history.get("surgery_spliced", [0] * count))
        scores.append(accuracy(model, data))

    train_for(epochs[0])
    model = tfc.layers.wrap_kernels(model, tfc.layers.MaskedKernel)
    train_for(epochs[1], tfc.callbacks.DynamicSurgery("aggressive"))
    model = tfc.layers.wrap_kernels(model, lambda x: tfc.layers.DrumMultiply(x, 2, 6))
    train_for(epochs[2], tfc.callbacks.IncrementalApproximation(5, epochs=8))
    figure = Figure(
        760, 340, "Shares of exact, approximate and pruned weights, epoch by epoch"
    )
    figure.text(20, 28, "Surgery first, then approximation step by step", "title")
    figure.key(
        20,
        52,
        [
            ("a", "exact product"),
            ("b", "approximate product"),
            ("none", "pruned: no product"),
        ],
    )
    left, top, wide, high = 60, 70, 25, 180
    for column, (exact, approximate, _) in enumerate(seen.seen):
        x = left + column * wide
        figure.rect(x, top, wide - 2, high, "none")
        figure.rect(x, top + high * (1 - exact), wide - 2, high * exact, "a")
        low = 1 - exact - approximate
        figure.rect(x, top + high * low, wide - 2, high * approximate, "b")
    figure.text(left - 8, top + 10, "100 %", "small", "end")
    figure.text(left - 8, top + high, "0 %", "small", "end")
    bottom = top + high + 16
    epochs_below(figure, left, bottom, sum(epochs), wide)
    begin = left
    titles = ("training", "dynamic surgery", "incremental approximation")
    for title, count, score in zip(titles, epochs, scores, strict=True):
        end = begin + count * wide - 4
        figure.line([(begin, bottom + 12), (end, bottom + 12)], "axis")
        figure.text(begin, bottom + 30, title)
        figure.text(begin, bottom + 46, f"test accuracy {score:.1%}", "small")
        begin = end + 4
    figure.text(
        20,
        bottom + 68,
        f"conv2 and fc1 of LeNet-5 on digits. Surgery put {sum(back):,.0f} masked "
        "weights back; DRUM keeps 2 and 6 significant bits.",
        "small",
    )
    return figure


DRAW = {
    "filter_pruning": filter_pruning,
    "magnitude_pruning": magnitude_pruning,
    "admm": admm,
    "gates": gates,
    "activation_density": activation_density,
    "cross_stack": cross_stack,
}


def main() -> None:
    wanted = sys.argv[1:] or list(DRAW)
    if unknown := set(wanted) - set(DRAW):
        raise SystemExit(f"error: no figure {sorted(unknown)}; there are {list(DRAW)}")
    FIGURES.mkdir(exist_ok=True)
    for name in wanted:
        text = str(DRAW[name]())
        size = len(text.encode())
        if size > MOST_BYTES:
            raise SystemExit(f"error: {name} has {size:,} bytes, not {MOST_BYTES:,}")
        (FIGURES / f"{name}.svg").write_text(text, "utf-8")
        print(f"docs/figures/{name}.svg: {size:,} bytes", flush=True)


if __name__ == "__main__":
    main()
