"""Training in rounds, after each of which every layer is as wide as it was active."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np

from tfcompress import cost, policy, structure
from tfcompress._checks import whole
from tfcompress._figures import Curves, Heatmap
from tfcompress._files import check_writable, write_atomic
from tfcompress._taps import activation_taps
from tfcompress.callbacks.activation_density import ActivationDensity, Trend, trend
from tfcompress.structure._graph import require_graph
from tfcompress.training._shrinking import fit_shrinking

__all__ = ["DensityNet", "DensityResult", "resize_by_density"]

_OTHER = "is no convolution or dense layer"

Build = Callable[[dict[str, int]], keras.Model]
Stop = Literal["concave", "unchanged", "max_rounds"]


@dataclass(frozen=True, eq=False)
class DensityNet:
    """One of the successively narrower networks.

    Attributes:
        model: the trained model.
        widths: layer name -> number of output channels.
        curve: density of all activations, for each epoch.
        densities: layer name -> its density, for each epoch.
        saturation: number of epochs after which the density had saturated;
            `None` if it had not.
        trend: where the density went until the network was resized or not:
            "convex" (fell), "flat" or "concave" (rose).
        epochs: how long the network was trained.
        history: the logs of each epoch, by name, without densities.
        macs: multiply–accumulates for one sample (the paper's OPS).
        parameters: number of parameters.
    """

    model: keras.Model
    widths: dict[str, int]
    curve: tuple[float, ...]
    densities: dict[str, tuple[float, ...]]
    saturation: int | None
    trend: Trend
    epochs: int
    history: dict[str, list[float]]
    macs: int
    parameters: int

    @property
    def accuracy(self) -> float | None:
        """Accuracy of the last epoch: validation, or training without one.

        `None` if the model logs no accuracy.
        """
        names = sorted(n for n in self.history if "acc" in n)
        names.sort(key=lambda name: not name.startswith("val_"))
        return self.history[names[0]][-1] if names else None


@dataclass(frozen=True, eq=False)
class DensityResult:
    """What `resize_by_density` did; `print` shows a table.

    Attributes:
        nets: the networks, from the one given to the final one.
        stop: why it is the final one: its density rises ("concave"), every layer
            would keep its width ("unchanged"), or "max_rounds".
    """

    nets: tuple[DensityNet, ...]
    stop: Stop

    @property
    def model(self) -> keras.Model:
        """The final model, trained, compiled and with the optimizer's state."""
        return self.nets[-1].model

    @property
    def ops_reductions(self) -> list[float]:
        """For each net, the MACs of the first one divided by its own (eq. 3)."""
        return [self.nets[0].macs / net.macs for net in self.nets]

    @property
    def parameter_reductions(self) -> list[float]:
        """For each net, the parameters of the first one divided by its own."""
        return [self.nets[0].parameters / net.parameters for net in self.nets]

    @property
    def training_complexity(self) -> float:
        """Epochs in units of epochs of the first network (eq. 4)."""
        return cost.training_complexity(
            self.ops_reductions, [net.epochs for net in self.nets]
        )

    @property
    def training_memory_complexity(self) -> float:
        """The same with parameters in place of operations (section IV-D)."""
        return cost.training_memory_complexity(
            self.parameter_reductions, [net.epochs for net in self.nets]
        )

    def curves(self) -> Curves:
        """Density over epochs for a report, as Figure 1, with ρ as points."""
        series: dict[str, list[tuple[float, float | None]]] = {}
        for index, net in enumerate(self.nets):
            series[f"net {index}"] = [*enumerate(net.curve, start=1)]
            if net.saturation is not None:
                point = (net.saturation, net.curve[net.saturation - 1])
                series[f"net {index} settled"] = [point]
        return Curves(
            title="Activation density",
            x_label="epoch",
            y_label="density",
            series=series,
            description="Fraction of activations that are not zero. Points: where it "
            "had settled.",
        )

    def heatmaps(self) -> list[Heatmap]:
        """Density of each layer over epochs for a report, as Figures 2 and 3."""
        return [
            Heatmap(
                title=f"Activation density of the layers: net {index}",
                x_label="epoch",
                y_label="layer",
                value_label="fraction of activations that are not zero",
                columns=[str(epoch) for epoch in range(1, net.epochs + 1)],
                rows=list(net.densities),
                values=[list(values) for values in net.densities.values()],
            )
            for index, net in enumerate(self.nets)
        ]

    def __str__(self) -> str:
        rows = [
            ("net", "widths", "accuracy", "parameters", "MACs", "epochs", "trend"),
        ]
        for index, net in enumerate(self.nets):
            widths = [str(width) for width in net.widths.values()]
            shown = ", ".join(widths if len(widths) <= 20 else [*widths[:19], "…"])
            accuracy = "–" if net.accuracy is None else f"{net.accuracy:.2%}"
            parameters = f"{net.parameters:,} ({self.parameter_reductions[index]:.1f}×)"
            macs = f"{net.macs:,} ({self.ops_reductions[index]:.1f}×)"
            row = (str(index), f"[{shown}]", accuracy, parameters, macs)
            rows.append((*row, str(net.epochs), net.trend))
        columns = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                cell.ljust(width) for cell, width in zip(row, columns, strict=True)
            )
            for row in rows
        ]
        lines.insert(1, "  ".join("-" * width for width in columns))
        lines.append(
            f"training complexity {self.training_complexity:.1f} epochs of net 0, "
            f"stopped: {self.stop}"
        )
        return "\n".join(line.rstrip() for line in lines)


def resize_by_density(
    build_or_model: keras.Model | Build,
    x: Any = None,
    y: Any = None,
    *,
    epochs: int,
    max_rounds: int = 3,
    round_epochs: int | None = None,
    weights: str = "random",
    multiple_of: int = 1,
    sample: Any = None,
    patience: int = 2,
    min_delta: float = 1e-3,
    threshold: float = 0.0,
    layers: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    seed: int | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    backup_dir: str | os.PathLike[str] | None = None,
    verbose: Any = "auto",
    **fit_arguments: Any,
) -> DensityResult:
    """Lets the data size each layer: trains, resizes by density, trains again.

    Algorithm 1 of "Activation Density driven Efficient Pruning in Training"
    (Foldy-Porto, Venkatesha and Panda, 2020). A network is trained until the
    density of its non-zero activations has saturated (criterion ρ). Then every
    layer gets `round(density · width)` channels (equation 2), at least one, and
    the narrower network is trained in turn. That goes on until the density of a
    network rises while it trains (criterion δ), no width changes any more, or
    `max_rounds` is reached; this last network is trained for all `epochs`.

    Layers whose channels are coupled, by residual additions for example, can only
    have one width: it follows from the mean of their densities. A function in
    place of a model builds networks in which every layer has a width of its own,
    as in the paper's residual networks.

    Every network starts its training anew: at epoch 0, with the learning rate
    and the optimizer of a first step.

    Example:

    ```python
    model = tfc.zoo.vgg19(width=0.25)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    result = tfc.training.resize_by_density(
        model, x, y, epochs=100, validation_split=0.1, seed=0
    )
    print(result)
    result.model.save("sized.keras")
    ```

    Args:
        build_or_model: a compiled Functional or Sequential model, which is not
            modified; or a function from a dict, layer name -> number of
            channels, to a compiled model with these widths. It is called with an
            empty dict for the first network.
        x: training data as for `fit`: arrays or a `tf.data.Dataset`. Defaults to
            `None`.
        y: labels as for `fit`. Defaults to `None`.
        epochs: epochs of the final network.
        max_rounds: how often networks are resized at most. Defaults to `3`.
        round_epochs: epochs after which a network that has not saturated counts
            as if it had; `None` for `epochs`. Defaults to `None`.
        weights: "random" initialises resized networks anew, as in the paper;
            "inherit" keeps the channels with the largest filters, with their
            weights. Defaults to "random".
        multiple_of: widths are rounded up to a multiple of this, or stay.
            Defaults to `1`.
        sample: inputs to measure densities on, as `data` of
            `callbacks.ActivationDensity`; `None` counts while training. Defaults
            to `None`.
        patience: see `callbacks.ActivationDensity`. Defaults to `2`.
        min_delta: see there. Defaults to `1e-3`.
        threshold: see there. Defaults to `0.0`.
        layers: names of the layers to resize, together with what is coupled to
            them; `None` for all that can be. Defaults to `None`.
        exclude: names of layers to leave alone. Defaults to `()`.
        seed: makes the initial weights of resized networks reproducible.
            Defaults to `None`.
        callbacks: further callbacks as for `fit`, in a list; all networks are
            trained with the same objects. Defaults to `()`.
        backup_dir: a folder in which finished networks, and the present one at
            the end of each epoch, are kept. A run that finds them there goes on
            where they end; a run that is complete deletes them. Defaults to
            `None`, no backup.
        verbose: as for `fit`. Defaults to `"auto"`.
        **fit_arguments: anything else that `fit` takes, such as
            `validation_data`.

    Returns:
        A `DensityResult`.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if a model is subclassed, not built or not compiled, if a
            number is out of range, if a name is unknown or stands for something
            that cannot be resized, or if `backup_dir` cannot be written or
            belongs to another run.
    """
    whole("epochs", epochs)
    whole("max_rounds", max_rounds, 0)
    whole("multiple_of", multiple_of)
    round_epochs = min(
        epochs, epochs if round_epochs is None else whole("round_epochs", round_epochs)
    )
    sizing = _Sizing(build_or_model, weights, multiple_of, layers, exclude, seed)
    settings = {
        "epochs": epochs,
        "max_rounds": max_rounds,
        "round_epochs": round_epochs,
        "weights": weights,
        "multiple_of": multiple_of,
        "patience": patience,
        "min_delta": min_delta,
        "threshold": threshold,
        "layers": sizing.layers,
        "exclude": sizing.exclude,
        "seed": seed,
    }

    def measure(stop: bool) -> ActivationDensity:
        return ActivationDensity(
            sample, patience, min_delta, stop=stop, threshold=threshold
        )

    measure(stop=True)  # refuses bad arguments before any work is done
    model = sizing.first()
    backup = None if backup_dir is None else _Backup(backup_dir, settings)
    saved = backup.load() if backup else {}

    def train(
        index: int, model: keras.Model, until: int, stop: bool, before: Any = None
    ) -> DensityNet:
        """Trains a network, or trains what `before` describes further."""
        density = measure(stop)
        begun = 0
        if before is not None:
            begun = before.epochs
            density.set_state(_state(before))
        phase = f"net{index}" if before is None else f"net{index}-final"
        if verbose not in (0, "0"):
            print(f"net {index}: {model.count_params():,} parameters", flush=True)
        model = fit_shrinking(
            model,
            x,
            y,
            epochs=until,
            initial_epoch=begun,
            callbacks=[density, *callbacks],
            backup_dir=backup.folder / phase if backup else None,
            verbose=verbose,
            **fit_arguments,
        )
        net = _net(model, density, before)
        if backup:
            backup.save(index, net)
        return net

    nets: list[DensityNet] = []
    stop: Stop | None = None
    while stop is None:
        index = len(nets)
        last = index == max_rounds
        net = saved.get(index)
        if net is None:
            net = train(index, model, epochs if last else round_epochs, stop=not last)
        if last:
            stop = "max_rounds"
        elif net.trend == "concave":
            stop = "concave"
        else:
            changes = sizing.changes(net)
            if changes:
                model = sizing.resized(net, changes, index + 1)
            else:
                stop = "unchanged"
        if stop and not last and net.epochs < epochs:
            net = train(index, net.model, epochs, stop=False, before=net)
        nets.append(net)
    if backup:
        backup.delete()
    return DensityResult(tuple(nets), stop)


class _Sizing:
    """Makes networks of given widths, and knows which widths to give."""

    def __init__(
        self,
        source: keras.Model | Build,
        weights: str,
        multiple_of: int,
        layers: Sequence[str] | None,
        exclude: Sequence[str],
        seed: int | None,
    ) -> None:
        self.builds = not isinstance(source, keras.Model)
        if self.builds and not callable(source):
            raise TypeError(
                "Invalid value for argument `build_or_model`. Expected a keras.Model "
                f"or a function that returns one. Received: {source!r}"
            )
        allowed = ("random",) if self.builds else ("random", "inherit")
        if weights not in allowed:
            raise ValueError(
                f"Invalid value for argument `weights`. Expected {' or '.join(allowed)}"
                f"{' for a function' if self.builds else ''}. Received: "
                f"weights={weights!r}"
            )
        self.source: Any = source
        self.weights = weights
        self.multiple_of = multiple_of
        self.layers = None if layers is None else policy.check_list(layers, "layers")
        self.exclude = policy.check_list(exclude, "exclude")
        self.seed = seed
        self.rate: float | None = None

    def first(self) -> keras.Model:
        """The network to begin with, checked."""
        model = self._build({}, 0) if self.builds else self.source
        require_graph(model, "build_or_model")
        if not model.compiled:
            raise ValueError(
                "Invalid value for argument `build_or_model`. Expected a compiled "
                f"model. Received: {model.name!r}; call model.compile first."
            )
        self._selected(model)
        if self.builds:
            return model
        rate = model.optimizer.get_config()["learning_rate"]
        self.rate = rate if isinstance(rate, float) else None  # or a schedule
        return structure.resize(model, {}, verify=False)

    def changes(self, net: DensityNet) -> dict[str, int]:
        """Layer or group name -> width by density (equation 2), where it differs."""
        members: dict[str, list[float]] = {}
        owner = self._owners(net.model, net.densities)
        for name, values in net.densities.items():
            members.setdefault(owner[name], []).append(values[-1])
        sizes = self._selected(net.model)
        widths = {
            name: self._width(size, float(np.mean(members[name])))
            for name, size in sizes.items()
        }
        return {name: w for name, w in widths.items() if w != sizes[name]}

    def resized(
        self, net: DensityNet, changes: Mapping[str, int], index: int
    ) -> keras.Model:
        """The next network."""
        if self.builds:
            return self._build({**net.widths, **changes}, index)
        seed = None if self.seed is None else self.seed + index
        model = structure.resize(
            net.model, changes, weights=self.weights, seed=seed, carry_optimizer=False
        )
        if self.rate is not None:
            # A callback may have changed it.
            model.optimizer.learning_rate = self.rate
        return model

    def _build(self, widths: Mapping[str, int], index: int) -> keras.Model:
        if self.seed is not None:
            keras.utils.set_random_seed(self.seed + index)
        model = self.source(dict(widths))
        if not isinstance(model, keras.Model):
            raise TypeError(
                "Invalid value for argument `build_or_model`. Expected a function "
                f"that returns a keras.Model. Received from it: {model!r}"
            )
        return model

    def _selected(self, model: keras.Model) -> dict[str, int]:
        """Widths of what may be resized: of layers for a function, else of groups."""
        taps, reasons = activation_taps(model)
        options: Any = {"layers": self.layers, "exclude": self.exclude}
        groups = structure.channel_groups(model)
        if self.builds:
            named = policy.named_layers(model)
            refused = {id(layer): reasons.get(n, _OTHER) for n, layer in named.items()}
            refused |= {id(named[name]): "" for name in taps}
            chosen = policy.select_layers(
                model, lambda layer: refused[id(layer)] or None, **options
            ).chosen
            return {name: groups.labels(name).size for name in chosen}
        selected = policy.select_groups(groups, model, **options).chosen
        measured = set(self._owners(model, taps).values())
        for name, group in selected.items():
            if self.layers is not None and name not in measured:
                raise ValueError(
                    "Invalid value for argument `layers`. Expected layers that an "
                    f"activation function follows. Received: {group.producers}: "
                    f"{reasons.get(group.producers[0], _OTHER)}"
                )
        return {n: group.size for n, group in selected.items() if n in measured}

    def _owners(self, model: keras.Model, layers: Iterable[str]) -> dict[str, str]:
        """What each layer is resized with: itself, or its channel group."""
        if self.builds:
            return {name: name for name in layers}
        groups = structure.channel_groups(model)
        return {name: _group(groups, name) for name in layers}

    def _width(self, size: int, density: float) -> int:
        width = max(1, math.floor(density * size + 0.5))
        return min(size, math.ceil(width / self.multiple_of) * self.multiple_of)


class _Backup:
    """Finished networks on disk, each complete or absent."""

    def __init__(
        self, folder: str | os.PathLike[str], settings: Mapping[str, Any]
    ) -> None:
        self.state_file = check_writable(
            Path(folder) / "rounds.json", argument="backup_dir"
        )
        self.folder = self.state_file.parent
        self.state: dict[str, Any] = {"settings": json.loads(json.dumps(settings))}
        if self.state_file.exists():
            state = json.loads(self.state_file.read_text())
            if state["settings"] != self.state["settings"]:
                raise ValueError(
                    "Invalid value for argument `backup_dir`. Expected a folder "
                    f"without a run of other settings. Received: {str(folder)!r} with "
                    f"a run of {state['settings']}"
                )
            self.state = state

    def load(self) -> dict[int, DensityNet]:
        """The networks that are there, by number."""
        return {
            int(index): self._net(**record)
            for index, record in self.state.get("nets", {}).items()
        }

    def _net(self, file: str, curve: Any, densities: Any, **record: Any) -> DensityNet:
        return DensityNet(
            model=keras.saving.load_model(self.folder / file),
            curve=tuple(curve),
            densities={name: tuple(values) for name, values in densities.items()},
            **record,
        )

    def save(self, index: int, net: DensityNet) -> None:
        """Adds a network, or replaces it by one that was trained further."""
        file = f"net{index}-{net.epochs}.keras"
        net.model.save(self.folder / file)
        fields = dataclasses.fields(net)
        record = {f.name: getattr(net, f.name) for f in fields if f.name != "model"}
        self.state.setdefault("nets", {})[str(index)] = {**record, "file": file}
        write_atomic(self.state_file, json.dumps(self.state, default=float))

    def delete(self) -> None:
        """Deletes what was saved, and the folder if nothing else is in it."""
        self.state_file.unlink(missing_ok=True)
        for old in self.folder.glob("net*.keras"):
            old.unlink()
        if not any(self.folder.iterdir()):
            shutil.rmtree(self.folder)


def _net(
    model: keras.Model, density: ActivationDensity, before: DensityNet | None
) -> DensityNet:
    history = {
        name: [float(value) for value in values]
        for name, values in model.history.history.items()
        if not name.startswith("density")
    }
    if before is not None:
        history = {
            name: before.history[name] + values for name, values in history.items()
        }
    counted = cost.count(model)
    return DensityNet(
        model=model,
        widths=_widths(structure.channel_groups(model), density.layers),
        curve=tuple(density.curve),
        densities={name: tuple(values) for name, values in density.layers.items()},
        saturation=density.saturation,
        # Of the epochs that decided; those that follow are the final training.
        trend=before.trend if before else trend(density.curve),
        epochs=len(density.curve),
        history=history,
        macs=counted.macs,
        parameters=counted.parameters,
    )


def _state(net: DensityNet) -> dict[str, Any]:
    return {
        "curve": net.curve,
        "layers": net.densities,
        "saturation": net.saturation,
    }


def _group(groups: structure.ChannelGroups, layer: str) -> str:
    """Name of the channel group of a layer; empty where it is in none or several."""
    try:
        return groups.of(layer).name
    except ValueError:
        return ""


def _widths(groups: structure.ChannelGroups, layers: Iterable[str]) -> dict[str, int]:
    """Number of output channels of each layer that has channels."""
    widths = {}
    for name in layers:
        with contextlib.suppress(ValueError):  # inside TimeDistributed, for example
            widths[name] = groups.labels(name).size
    return widths
