"""Speed of the structure engine, as JSON.

Measures, on networks of keras.applications at 224×224:

* `analysis`: `channel_groups`;
* `removal`: `remove_channels` of 40 % of random channels, without self-check;
* `checked`: the same with the self-check;
* `construction`: the time that Keras takes to construct the network, the floor
  for any rebuild.

`difference` is the largest difference between the outputs (logits) of masked and
smaller model on random input, relative to the largest output.

Rounds are interleaved; times are medians in seconds (`wall`, and `cpu`: processor
time of all threads, which other programs disturb less), ratios are medians of the
ratios of a round. With torch, torchvision and torch-pruning installed, the same
is measured for Torch-Pruning (dependency graph; whole pruning call).

Usage: python benchmarks/structure.py [--networks=ResNet50,...] [--rounds=5]
"""

import functools
import gc
import importlib.util
import json
import os
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from absl import app, flags

import tfcompress as tfc

_NETWORKS = flags.DEFINE_list(
    "networks", ["ResNet50", "MobileNetV2", "DenseNet121"], "Networks to measure."
)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Interleaved rounds.", lower_bound=1)
_RATE = flags.DEFINE_float("rate", 0.4, "Part of the channels to remove.", 0.0, 0.9)

_TORCH = {
    "ResNet50": "resnet50",
    "MobileNetV2": "mobilenet_v2",
    "DenseNet121": "densenet121",
}


def seconds(function: Callable[[], object]) -> dict[str, float]:
    gc.collect()
    clocks = {"wall": time.perf_counter, "cpu": time.process_time}
    start = {name: clock() for name, clock in clocks.items()}
    function()
    return {name: clock() - start[name] for name, clock in clocks.items()}


def medians(times: dict[str, list[dict[str, float]]]) -> dict:
    return {
        job: {
            clock: round(statistics.median(t[clock] for t in values), 3)
            for clock in ("wall", "cpu")
        }
        for job, values in times.items()
    }


def random_channels(groups: tfc.structure.ChannelGroups, rate: float) -> dict:
    rng = np.random.default_rng(0)
    return {
        group.name: rng.choice(group.size, round(rate * group.size), replace=False)
        for group in groups
        if group.prunable
    }


def randomize_statistics(model: keras.Model) -> None:
    """Moves normalization parameters away from 0 and 1, where errors would hide."""
    rng = np.random.default_rng(0)
    for variable in model.weights:
        if variable.name in ("gamma", "moving_variance"):
            variable.assign(rng.uniform(0.8, 1.2, variable.shape))
        elif variable.name in ("beta", "moving_mean"):
            variable.assign(rng.uniform(-0.2, 0.2, variable.shape))


def difference(masked: keras.Model, small: keras.Model) -> float:
    shape = (1, *(size or 224 for size in masked.input_shape[1:]))
    x = np.random.default_rng(1).normal(size=shape).astype("float32")
    expected, received = (np.asarray(m(x, training=False)) for m in (masked, small))
    return float(np.abs(expected - received).max() / np.abs(expected).max())


def measure(name: str, rounds: int, rate: float) -> dict:
    constructor = functools.partial(
        getattr(keras.applications, name), weights=None, classifier_activation=None
    )
    model = constructor()
    randomize_statistics(model)
    channels = random_channels(tfc.structure.channel_groups(model), rate)
    remove = tfc.structure.remove_channels
    jobs = {
        "construction": constructor,
        "analysis": lambda: tfc.structure.channel_groups(model),
        "removal": lambda: remove(model, channels, verify=False),
        "checked": lambda: remove(model, channels),
    }
    times: dict[str, list[dict[str, float]]] = {job: [] for job in jobs}
    for number in range(rounds + 1):
        for job, function in jobs.items():
            elapsed = seconds(function)
            if number:  # the first round warms up
                times[job].append(elapsed)
    floor = times["construction"]
    ratios = {
        f"{job}_to_construction": {
            clock: round(
                statistics.median(
                    a[clock] / b[clock] for a, b in zip(times[job], floor, strict=True)
                ),
                2,
            )
            for clock in ("wall", "cpu")
        }
        for job in ("removal", "checked")
    }
    small = remove(model, channels, verify=False)
    masked = tfc.structure.zero_channels(model, channels)
    return {
        **medians(times),
        **ratios,
        "groups": sum(g.prunable for g in tfc.structure.channel_groups(model)),
        "difference": float(f"{difference(masked, small):.1e}"),
        "parameters": [model.count_params(), small.count_params()],
    }


def measure_peer(name: str, rounds: int, rate: float) -> dict:
    missing = [
        package
        for package in ("torch", "torchvision", "torch_pruning")
        if importlib.util.find_spec(package) is None
    ]
    if missing:
        return {"skipped": f"not installed: {', '.join(missing)}"}
    if name not in _TORCH:
        return {"skipped": "no definition of this network"}
    import torch
    import torch_pruning
    import torchvision

    example = torch.zeros(1, 3, 224, 224)
    times: dict[str, list[dict[str, float]]] = {"graph": [], "pruning_call": []}
    for _ in range(rounds):
        model = getattr(torchvision.models, _TORCH[name])()
        graph = torch_pruning.DependencyGraph()
        build = functools.partial(graph.build_dependency, model, example)
        times["graph"].append(seconds(build))

        def prune(network: object = model) -> None:
            torch_pruning.pruner.MetaPruner(
                network,
                example,
                importance=torch_pruning.importance.RandomImportance(),
                pruning_ratio=rate,
                ignored_layers=[list(network.modules())[-1]],
            ).step()

        times["pruning_call"].append(seconds(prune))
    return medians(times)


def main(_: list[str]) -> None:
    results = {}
    for name in _NETWORKS.value:
        results[name] = {
            "tfcompress": measure(name, _ROUNDS.value, _RATE.value),
            "torch_pruning": measure_peer(name, _ROUNDS.value, _RATE.value),
        }
        keras.backend.clear_session()
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    app.run(main)
