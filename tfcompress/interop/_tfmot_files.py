"""Files of models that TFMOT has wrapped, read without TFMOT."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfcompress import _checks
from tfcompress.layers import FakeQuantize
from tfcompress.policy import named_layers
from tfcompress.quantization import prepare

__all__ = ["load"]

_WRAPPERS = ("PruneLowMagnitude", "ClusterWeights", "QuantizeWrapperV2")
# Names of TFMOT's range variables -> of our layer behind that layer.
_RANGES = {
    "post_activation": "quantize",
    "output": "quantize",
    "pre_activation": "before_quantize",
}


# The order in which layers create their weights; wrappers mix it up.
_ORDER = (
    "depthwise_kernel",
    "pointwise_kernel",
    "kernel",
    "recurrent_kernel",
    "embeddings",
    "alpha",
    "gamma",
    "beta",
    "moving_mean",
    "moving_variance",
    "bias",
)


def load(path: str | os.PathLike[str]) -> keras.Model:
    """Loads a `.h5` file of a model that TFMOT has wrapped, into Keras 3.

    - A pruned model comes as a plain one, with its masks in its kernels: zeros
      stay zeros with `callbacks.HoldWeights("zeros")`.
    - A clustered model comes as a plain one whose kernels take the values of its
      centroids; `quantization.cluster` finds them again.
    - A model that was quantized (`quantize_model`, `quantize_apply`) comes as what
      `quantization.prepare` makes of it, with the ranges of its activations.

    Wrappers need not be stripped before the model is saved. TFMOT is not needed to
    load it.

    Example:

    ```python
    # in tf_keras: pruned.save("pruned.h5")
    model = tfc.interop.tfmot.load("pruned.h5")
    ```

    Args:
        path: a file that `model.save` of tf_keras has written in the HDF5 format.

    Returns:
        A new model, not compiled.

    Raises:
        TypeError: if `path` is not a path.
        ValueError: if the file is not such a file, or has no layer of TFMOT.
    """
    import h5py

    if not isinstance(path, str | os.PathLike):
        raise TypeError(_checks.invalid("path", "the path of a .h5 file", path))
    try:
        with h5py.File(path, "r") as file:
            config = json.loads(file.attrs["model_config"])
            groups = file["model_weights"]
            weights = {
                name: _arrays(groups[name]) for name in _names(groups, "layer_names")
            }
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(
            _checks.invalid(
                "path",
                "a model that tf_keras has saved in the HDF5 format",
                f"{path!s} ({error})",
            )
        ) from error
    found = _Found()
    _refuse_nested(config["config"], path)
    _unwrap(config["config"], found)
    if not found.inner and not found.inputs:
        raise ValueError(
            _checks.invalid(
                "path", "a file with layers of TFMOT's", f"{path!s} without any"
            )
        )
    plain = _plain(config, found, weights)
    return _with_ranges(plain, found, weights) if found.quantized else plain


@dataclass
class _Found:
    """The layers that TFMOT has added to a model.

    Attributes:
        inner: name of a wrapper -> of the layer inside.
        inputs: names of layers that quantize inputs.
        quantized: whether there are layers of quantization.
    """

    inner: dict[str, str] = field(default_factory=dict)
    inputs: list[str] = field(default_factory=list)
    quantized: bool = False


def _names(group: Any, attribute: str) -> list[str]:
    """Names in the order of the model, which that of the file is not."""
    names = group.attrs[attribute]
    return [name.decode() if isinstance(name, bytes) else name for name in names]


def _arrays(group: Any) -> dict[str, np.ndarray]:
    """The weights of a layer by name, in their order."""
    return {name: np.asarray(group[name]) for name in _names(group, "weight_names")}


def _refuse_nested(config: dict[str, Any], path: Any) -> None:
    """Raises if a model inside of the model has wrapped layers."""
    for entry in config["layers"]:
        inside = entry["config"].get("layers")
        if isinstance(inside, list) and _has_wrapper(inside):
            raise ValueError(
                _checks.invalid(
                    "path",
                    "a file with wrapped layers in the outermost model alone: strip "
                    "them (strip_pruning, strip_clustering) before you save, and load "
                    "the file with keras.saving.load_model",
                    f"{path!s} with some inside of {entry['config'].get('name')!r}",
                )
            )


def _has_wrapper(part: Any) -> bool:
    if isinstance(part, list):
        return any(map(_has_wrapper, part))
    if isinstance(part, dict):
        named = part.get("class_name") in (*_WRAPPERS, "QuantizeLayer")
        return named or _has_wrapper(list(part.values()))
    return False


def _unwrap(config: dict[str, Any], found: _Found) -> None:
    """Replaces wrappers by the layers inside them."""
    # A wrapper's entry has the layer inside it in its config:
    #   {"class_name": "PruneLowMagnitude",
    #    "config": {"name": "prune_conv1", "layer": {"class_name": "Conv2D", …}}}
    # The entry becomes the inner one, and every reference by the wrapper's name, in
    # inbound nodes, inputs and outputs, gets the inner name.
    layers = []
    for entry in config["layers"]:
        kind, own = entry["class_name"], entry["config"]
        if kind == "QuantizeLayer":
            found.quantized = True
            found.inputs.append(own["name"])
            if "inbound_nodes" not in entry:
                continue  # in a Sequential: nothing refers to it
            name = own["name"]
            entry.update(class_name="Activation")
            entry["config"] = {"name": name, "activation": "linear", "dtype": "float32"}
        elif kind in _WRAPPERS:
            found.quantized |= kind == "QuantizeWrapperV2"
            inside = own["layer"]
            found.inner[own["name"]] = inside["config"]["name"]
            entry["class_name"], entry["config"] = (
                inside["class_name"],
                inside["config"],
            )
            if "name" in entry:
                entry["name"] = inside["config"]["name"]
            activation = entry["config"].get("activation")
            if isinstance(activation, dict):
                entry["config"]["activation"] = _activation(activation)
        if entry["class_name"] not in ("Conv1D", "Conv2D", "Conv3D"):
            entry["config"].pop("groups", None)  # which tf_keras writes for its kin
        layers.append(entry)
    config["layers"] = layers
    for entry in layers:
        if "inbound_nodes" in entry:
            entry["inbound_nodes"] = _renamed(entry["inbound_nodes"], found.inner)
    for ends in ("input_layers", "output_layers"):
        if ends in config:
            config[ends] = _renamed(config[ends], found.inner)


def _activation(config: dict[str, Any]) -> Any:
    """The activation that TFMOT has wrapped to quantize it."""
    if config.get("class_name") == "NoOpActivation":
        return "linear"
    inside = config.get("config", {})
    inside = inside.get("activation", inside) if isinstance(inside, dict) else inside
    return _activation(inside) if isinstance(inside, dict) else inside


def _renamed(value: Any, names: dict[str, str]) -> Any:
    if isinstance(value, list):
        return [_renamed(part, names) for part in value]
    return names.get(value, value) if isinstance(value, str) else value


def _plain(
    config: dict[str, Any], found: _Found, weights: dict[str, dict[str, np.ndarray]]
) -> keras.Model:
    """The model without TFMOT, through the file that tf_keras would have saved."""
    import h5py

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plain.h5"
        with h5py.File(path, "w") as file:
            file.attrs["model_config"] = json.dumps(config)
            file.attrs["keras_version"] = "2.15.0"
            file.attrs["backend"] = "tensorflow"
            root = file.create_group("model_weights")
            root.attrs["keras_version"] = "2.15.0"
            root.attrs["backend"] = "tensorflow"
            names = []
            for name, arrays in weights.items():
                if name in found.inputs:
                    continue
                inner = found.inner.get(name, name)
                names.append(inner)
                group = root.create_group(inner)
                own = _own(name, arrays) if name in found.inner else arrays
                group.attrs["weight_names"] = list(own)
                for key, array in own.items():
                    group[key] = array
            root.attrs["layer_names"] = names
        return keras.saving.load_model(path, compile=False)


def _own(wrapper: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The weights of the layer inside a wrapper, as the wrapper computes with them."""
    beside, own = {}, {}
    for key, array in arrays.items():
        parts = key.split("/")
        if wrapper in parts[-2:-1]:
            beside[parts[-1].removesuffix(":0")] = array
        else:
            own[key] = array
    for key, array in own.items():
        name = key.split("/")[-1].removesuffix(":0")
        centroids = beside.get(f"cluster_centroids_{name}")
        if centroids is not None:
            # The file has the weights as they train. TFMOT replaces each by the nearest
            # centroid in every call, and so it is done here: `middles` are the limits
            # between neighbors.
            middles = (np.sort(centroids)[1:] + np.sort(centroids)[:-1]) / 2
            own[key] = np.sort(centroids)[np.searchsorted(middles, array)]
        elif "mask" in beside and beside["mask"].shape == array.shape:
            own[key] = array * beside["mask"]

    def position(key: str) -> int:
        name = key.split("/")[-1].removesuffix(":0")
        return _ORDER.index(name) if name in _ORDER else len(_ORDER)

    return {key: own[key] for key in sorted(own, key=position)}


def _with_ranges(
    plain: keras.Model, found: _Found, weights: dict[str, dict[str, np.ndarray]]
) -> keras.Model:
    """What `prepare` makes of a model, with the ranges that TFMOT has learned."""
    model = prepare(plain)
    grids = {
        name.rsplit("/", 1)[-1]: layer
        for name, layer in named_layers(model).items()
        if isinstance(layer, FakeQuantize) and layer.fixed is None
    }
    for name, arrays in weights.items():
        values = {key.split("/")[-1].removesuffix(":0"): a for key, a in arrays.items()}
        for theirs, ours in _RANGES.items():
            grid = grids.get(f"{found.inner.get(name, name)}_{ours}")
            if grid is not None and f"{theirs}_min" in values:
                _learned(grid, values[f"{theirs}_min"], values[f"{theirs}_max"])
        for key in [key for key in values if key.endswith("_min")]:
            if name not in found.inputs:
                continue
            # One input: TFMOT has one layer for each.
            inputs = [tensor.name for tensor in model.inputs]
            place = found.inputs.index(name)
            if place < len(inputs):
                grid = grids.get(f"{inputs[place]}_quantize")
                if grid is not None:
                    _learned(grid, values[key], values[key.removesuffix("min") + "max"])
    return model


def _learned(grid: FakeQuantize, low: Any, high: Any) -> None:
    grid.low.assign(np.minimum(float(low), 0.0))
    grid.high.assign(np.maximum(float(high), 0.0))
    grid.seen.assign(1.0)
