"""Training in rounds, after each of which every layer is as wide as it was active."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np

from tfcompress import _made, _processes, cost, policy, structure
from tfcompress._checks import name_list, whole
from tfcompress._figures import Curves, Heatmap
from tfcompress._meters import DensityMeter
from tfcompress._samples import read
from tfcompress._taps import activation_taps
from tfcompress.callbacks.activation_density import ActivationDensity, Trend, trend
from tfcompress.structure._graph import require_graph
from tfcompress.training._backup import Backup, owned
from tfcompress.training._run import progress, restore_progress, scalars
from tfcompress.training._shrinking import fit_shrinking
from tfcompress.training._stream import lasting

__all__ = ["DensityNet", "DensityResult", "resize_by_density", "widths_by_density"]

_OTHER = "is no convolution or dense layer"
_FROZEN = "it, or a layer that is coupled to it or reads it, is not trainable"

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
        trend: where the density went in the epochs after which it was decided
            whether to resize: "convex" (fell), "flat" or "concave" (rose).
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
        nets: the networks that were trained, beginning with the one given.
        stop: why there are no more: the density of the last one rises ("concave"),
            so that the one before is the final one; every layer would keep its
            width ("unchanged"); or "max_rounds".
        final: number of the final network.
        skipped: layer name -> why it keeps its width.
    """

    nets: tuple[DensityNet, ...]
    stop: Stop
    final: int = -1
    skipped: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "final", range(len(self.nets))[self.final])

    @property
    def model(self) -> keras.Model:
        """The final model, trained, compiled and with the optimizer's state."""
        return self.nets[self.final].model

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
        """Epochs of all networks, in units of epochs of the first one (eq. 4)."""
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
            f"final: net {self.final}, stopped: {self.stop}, training complexity "
            f"{self.training_complexity:.1f} epochs of net 0"
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
    total: str = "activations",
    layers: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    seed: int | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    backup_dir: str | os.PathLike[str] | None = None,
    keep_backup: bool = False,
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
    `max_rounds` is reached. The last network whose density does not rise is the
    final one, as in Table I of the paper; it is trained for all `epochs`. If the
    density of the first network rises already, it is that one.

    Layers whose channels are coupled, by residual additions for example, can only
    have one width: it follows from the mean of their densities. A function in
    place of a model builds networks in which every layer has a width of its own,
    as in the paper's residual networks.

    Layers that do not train (`trainable=False`) keep their widths and weights, and
    so do layers that are coupled to them or that they read, unless `layers` names
    them.

    Every network is trained from the beginning: from epoch 0, with the first learning
    rate and a fresh optimizer.

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
            as if it had; `None` for `epochs`. Only the final network is trained
            further. Defaults to `None`.
        weights: "random" initializes resized networks anew, as in the paper;
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
        total: see there. Defaults to `"activations"`.
        layers: names of the layers to resize, together with what is coupled to
            them; `None` for all that can be. Defaults to `None`.
        exclude: names of layers to leave alone. Defaults to `()`.
        seed: makes the initial weights of resized networks reproducible.
            Defaults to `None`.
        callbacks: further callbacks as for `fit`, in a list; all networks are
            trained with the same objects. Defaults to `()`.
        backup_dir: a folder in which finished networks, and the present one at
            the end of each epoch, are kept. A run that finds them there goes on
            as if it had not been interrupted, see `fit_shrinking`. One run at a time
            may use the folder. Defaults to `None`, no backup.
        keep_backup: whether a run that is complete leaves its backup; the same call
            then returns at once what it returned. Save the result first and delete
            the folder afterwards. Defaults to `False`: it is deleted.
        verbose: as for `fit`. Defaults to `"auto"`.
        **fit_arguments: anything else that `fit` takes, such as
            `validation_data`.

    Returns:
        A `DensityResult`.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if a model is subclassed, not built or not compiled, if a
            number is out of range, if a name is unknown or stands for something
            that cannot be resized, if there are no data, if training has diverged
            (no network is made from such densities; the last backup stays), or if
            `backup_dir` cannot be written, belongs to a run of other settings or is
            used by another run.
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
        "total": total,
        "layers": sizing.layers,
        "exclude": sizing.exclude,
        "seed": seed,
    }

    backup = None
    if backup_dir is not None:
        backup = _Backup(Path(backup_dir), settings, callbacks)
    run = _Rounds(
        sizing=sizing,
        data=(x, y),
        epochs=epochs,
        round_epochs=round_epochs,
        max_rounds=max_rounds,
        density=_Measure(sample, patience, min_delta, threshold, total),
        callbacks=list(callbacks),
        # One generator of validation data goes through all networks.
        fit_arguments=lasting({"verbose": verbose, **fit_arguments}),
        backup=backup,
        settings=settings,
    )
    model = sizing.first()
    with owned(backup_dir):
        result = run.result(model)
        if backup and not keep_backup:
            backup.delete(len(result.nets))
    return result


def widths_by_density(
    model: keras.Model, inputs: Any
) -> tuple[dict[str, int], dict[str, str]]:
    """The widths that `resize_by_density` would give a trained model first.

    Args:
        model: a compiled Functional or Sequential model.
        inputs: samples to measure the densities on.

    Returns:
        Layer or group name -> width, where it differs from that of the model; and
        layer name -> why it keeps its width.

    Raises:
        ValueError: if no layer can be resized.
    """
    sizing = _Sizing(model, "inherit", 1, None, (), None)
    sizing.first()
    meter = DensityMeter(activation_taps(model)[0])
    meter.measure(read(model, inputs))
    return sizing.changes(model, meter.layers()), sizing.skipped


@dataclass(frozen=True)
class _Measure:
    """How densities are measured."""

    sample: Any
    patience: int
    min_delta: float
    threshold: float
    total: str

    def __post_init__(self) -> None:
        self.callback(stop=True)  # refuses bad arguments before any work is done

    def callback(self, stop: bool) -> ActivationDensity:
        return ActivationDensity(
            self.sample,
            self.patience,
            self.min_delta,
            stop=stop,
            threshold=self.threshold,
            total=self.total,
        )


@dataclass
class _Rounds:
    """The rounds of Algorithm 1, each of which can be taken from a backup."""

    sizing: _Sizing
    data: tuple[Any, Any]
    epochs: int
    round_epochs: int
    max_rounds: int
    density: _Measure
    callbacks: list[keras.callbacks.Callback]
    fit_arguments: dict[str, Any]
    backup: _Backup | None
    settings: dict[str, Any]

    def result(self, model: keras.Model) -> DensityResult:
        """Trains networks until one is the final one, and trains that to the end."""
        # A resumed run goes through the same rounds. Networks that are on disk are
        # loaded instead of being trained. The widths that follow from them are the
        # same, so that the run arrives where the earlier one was interrupted.
        first = model
        nets: list[DensityNet] = []
        stop: Stop | None = None
        while stop is None:
            index = len(nets)
            net = self.backup.load(index, first) if self.backup else None
            nets.append(net or self._train(index, model))
            net = nets[-1]
            if net.trend == "concave":
                stop = "concave"
            elif index == self.max_rounds:
                stop = "max_rounds"
            elif changes := self.sizing.changes(
                net.model, {name: values[-1] for name, values in net.densities.items()}
            ):
                model = self.sizing.resized(net, changes, index + 1)
            else:
                stop = "unchanged"
        # A network whose density rises needs what it has: it was made too small.
        final = max(0, len(nets) - 2) if stop == "concave" else len(nets) - 1
        if nets[final].epochs < self.epochs:
            net = nets[final]
            nets[final] = self._train(final, net.model, before=net)
        return DensityResult(tuple(nets), stop, final, self.sizing.skipped)

    def _train(
        self, index: int, model: keras.Model, before: DensityNet | None = None
    ) -> DensityNet:
        """Trains a network until its density has saturated.

        If `before` is given, the network was trained so far already, and is trained on
        to the end.
        """
        density = self.density.callback(stop=before is None)
        if before is not None:
            density.set_state(_state(before))
        if self.fit_arguments["verbose"] not in (0, "0"):
            print(f"net {index}: {model.count_params():,} parameters", flush=True)
        further = before is not None
        model = fit_shrinking(
            model,
            *self.data,
            epochs=self.epochs if further else self.round_epochs,
            initial_epoch=0 if before is None else before.epochs,
            callbacks=[density, *self.callbacks],
            backup_dir=self.backup.run(index, further) if self.backup else None,
            keep_backup=True,
            **self.fit_arguments,
        )
        net = _net(model, density, before)
        _made.note(
            model,
            "resize_by_density",
            config=self.settings,
            net=index,
            epochs=net.epochs - (before.epochs if before else 0),
            parameters=net.parameters,
            trend=net.trend,
        )
        if self.backup:
            self.backup.save(index, net)
        return net


class _Backup:
    """Finished networks on disk, and the backups of the runs that train them.

    A run's backup is deleted when the network that it made is on disk.
    """

    def __init__(
        self, folder: Path, settings: Mapping[str, Any], callbacks: Sequence[Any]
    ) -> None:
        self.folder = folder
        self.callbacks = callbacks
        self.settings = json.loads(json.dumps(settings))

    def run(self, index: int, further: bool) -> Path:
        """Folder for the backup of a run: a round, or the further training."""
        return self.folder / (f"net{index}-final" if further else f"net{index}")

    def save(self, index: int, net: DensityNet) -> None:
        """Adds a network, or replaces it by one that was trained further."""
        fields = [f.name for f in dataclasses.fields(net) if f.name != "model"]
        record = {field: getattr(net, field) for field in fields}
        state = {"settings": self.settings, "net": record}
        state["progress"] = progress(self.callbacks)
        self._file(index).save(net.model, state)
        self._delete_runs(index, net)

    def load(self, index: int, like: keras.Model) -> DensityNet | None:
        """A network that an earlier run has saved."""
        saved = self._file(index).load(like)
        if saved is None:
            return None
        if saved.state["settings"] != self.settings:
            raise ValueError(
                "Invalid value for argument `backup_dir`. Expected a folder without a "
                f"run of other settings. Received: {str(self.folder)!r} with a run of "
                f"{saved.state['settings']}"
            )
        restore_progress(self.callbacks, saved.state.get("progress"))
        record = dict(saved.state["net"])
        densities = record.pop("densities")
        net = DensityNet(
            model=saved.model,
            curve=tuple(record.pop("curve")),
            densities={name: tuple(values) for name, values in densities.items()},
            **record,
        )
        self._delete_runs(index, net)  # a kill may have come before
        return net

    def delete(self, count: int) -> None:
        """Deletes the first `count` networks."""
        for index in range(count):
            self._file(index).delete()

    def _file(self, index: int) -> Backup:
        return Backup(self.folder, f"net{index}")

    def _delete_runs(self, index: int, net: DensityNet) -> None:
        if not _processes.is_first():
            return
        shutil.rmtree(self.run(index, further=False), ignore_errors=True)
        if net.epochs == self.settings["epochs"]:
            shutil.rmtree(self.run(index, further=True), ignore_errors=True)


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
        self.layers = None if layers is None else name_list("layers", layers)
        self.exclude = name_list("exclude", exclude)
        self.seed = seed
        self.rate: float | None = None
        self.skipped: dict[str, str] = {}

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
        # Callbacks may lower the rate while a network trains. The next one begins with
        # the first rate again, so that is noted here.
        rate = model.optimizer.get_config()["learning_rate"]
        self.rate = rate if isinstance(rate, float) else None  # or a schedule
        return structure.resize(model, {}, verify=False)

    def changes(
        self, model: keras.Model, densities: Mapping[str, float]
    ) -> dict[str, int]:
        """Layer or group name -> width by density (equation 2), where it differs."""
        # A group of coupled layers can have one width only: the mean of its members'
        # densities decides. With a function that builds networks, each layer owns
        # itself.
        members: dict[str, list[float]] = {}
        owner = self._owners(model, densities)
        for name, density in densities.items():
            if math.isnan(density):
                raise ValueError(
                    "Training has diverged: activations behind the layer "
                    f"{name!r} are NaN, and say nothing about its width. Try a lower "
                    "learning rate, or clip gradients."
                )
            members.setdefault(owner[name], []).append(density)
        sizes = self._selected(model)
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
            model = self._build({**net.widths, **changes}, index)
            _made.carry(net.model, model)
            return model
        seed = None if self.seed is None else self.seed + index
        model = structure.resize(
            net.model, changes, weights=self.weights, seed=seed, carry_optimizer=False
        )
        _keep_frozen(net.model, model)
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
            self.skipped = dict(reasons)
            return {
                name: groups.labels(name).size
                for name in chosen
                if self._trains(name, [named[name]])
            }
        selection = policy.select_groups(groups, model, **options)
        selected = selection.chosen
        measured = set(self._owners(model, taps).values())
        for name, group in selected.items():
            if self.layers is not None and name not in measured:
                raise ValueError(
                    "Invalid value for argument `layers`. Expected layers that an "
                    f"activation function follows. Received: {group.producers}: "
                    f"{reasons.get(group.producers[0], _OTHER)}"
                )
        frozen = [n for n, r in selection.skipped.items() if r == policy.NOT_TRAINABLE]
        self.skipped = dict(reasons) | dict.fromkeys(frozen, _FROZEN)
        named = policy.named_layers(model)
        return {
            name: group.size
            for name, group in selected.items()
            if name in measured
            and self._trains(name, [named[m.layer_name] for m in group.members])
        }

    def _trains(self, name: str, layers: Iterable[keras.Layer]) -> bool:
        """Whether nothing in a group is frozen, or the user asks for it by name."""
        if self.layers is not None or all(layer.trainable for layer in layers):
            return True
        self.skipped[name] = _FROZEN
        return False

    def _owners(self, model: keras.Model, layers: Iterable[str]) -> dict[str, str]:
        """What each layer is resized with: itself, or its channel group."""
        if self.builds:
            return {name: name for name in layers}
        groups = structure.channel_groups(model)
        return {name: _group(groups, name) for name in layers}

    def _width(self, size: int, density: float) -> int:
        # Halves round up. Python's `round` would take them to the next even number.
        width = max(1, math.floor(density * size + 0.5))
        return min(size, math.ceil(width / self.multiple_of) * self.multiple_of)


def _net(
    model: keras.Model, density: ActivationDensity, before: DensityNet | None
) -> DensityNet:
    history = {
        name: scalars(values)
        for name, values in model.history.history.items()
        if not name.startswith("density")
    }
    if before is not None:
        # One of them may have been too short to be validated.
        history = {
            name: [*before.history.get(name, ()), *history.get(name, ())]
            for name in {**before.history, **history}
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


def _keep_frozen(old: keras.Model, new: keras.Model) -> None:
    """Gives layers that do not train the weights that they had."""
    # `resize(weights="random")` initializes all layers, also those that were frozen
    # because of what they have learned before.
    layers = policy.named_layers(new)
    for name, layer in policy.named_layers(old).items():
        if not layer.trainable and layer.weights and name in layers:
            pairs = zip(layer.weights, layers[name].weights, strict=True)
            for before, after in pairs:
                if before.shape == after.shape:
                    after.assign(before)


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
