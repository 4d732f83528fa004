"""Trains on JAX, on the devices of one process or of two; prints JSON.

    on_jax_devices.py FOLDER RUN,RUN,… [--processes=N --process=I --port=P]

A run is a case of the contract or one of those below. Each leaves the weights that it
ends with in FOLDER. One device alone trains without any distribution.

The environment says how many devices a process has:
KERAS_BACKEND=jax JAX_PLATFORMS=cpu XLA_FLAGS=--xla_force_host_platform_device_count=2
"""

import argparse
import json
import sys
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import jax
import keras
import numpy as np

import tfcompress as tfc
from tests.callbacks.contract import BATCH, CASES, EPOCHS, data, network

ARGUMENTS = argparse.ArgumentParser()
ARGUMENTS.add_argument("folder", type=Path)
ARGUMENTS.add_argument("runs")
ARGUMENTS.add_argument("--processes", type=int, default=1)
ARGUMENTS.add_argument("--process", type=int, default=0)
ARGUMENTS.add_argument("--port", type=int)
FLAGS = ARGUMENTS.parse_args()

if FLAGS.processes > 1:
    keras.distribution.initialize(
        f"localhost:{FLAGS.port}", FLAGS.processes, FLAGS.process
    )
if jax.device_count() > 1:
    keras.distribution.set_distribution(
        keras.distribution.DataParallel(auto_shard_dataset=False)
    )

HALF = tfc.schedules.Linear(0.0, 0.5, 0, 2)


def own(array):
    """What this process reads of each batch."""
    size = BATCH // FLAGS.processes
    batches = array.reshape(-1, BATCH, *array.shape[1:])
    rows = slice(FLAGS.process * size, (FLAGS.process + 1) * size)
    return batches[:, rows].reshape(-1, *array.shape[1:])


def compiled(model):
    model.compile(
        keras.optimizers.SGD(0.05, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model


def arguments(*callbacks):
    return {
        "x": own(data()[0]),
        "y": own(data()[1]),
        "batch_size": BATCH // FLAGS.processes,
        "epochs": EPOCHS,
        "callbacks": list(callbacks),
        "shuffle": False,
        "verbose": 0,
    }


class Stop(keras.callbacks.Callback):
    """Ends a run by an exception, in the middle of its second epoch."""

    now = 0

    def on_epoch_begin(self, epoch, logs=None):
        self.now = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.now == 1 and batch == 3:
            raise KeyboardInterrupt


def files(pattern):
    return sorted(path.name for path in FLAGS.folder.glob(pattern))


def interrupted(run, pattern):
    """Runs until it is stopped, and again; returns the model and files in between."""
    try:
        run(Stop())
    except KeyboardInterrupt:
        found = files(pattern)
        return run(), {"files": found}
    raise AssertionError("nothing was stopped")


# Runs ------------------------------------------------------------------------------


def contract(case):
    model, method = compiled(case.model()), case.method()
    history = model.fit(**arguments(method))
    logs = {name: values[-1] for name, values in history.history.items()}
    case.check(method, model, logs)
    return model, {}


def mean_activation():
    """Activations of the whole batch decide, not those of a process."""
    model = compiled(network())
    pruning = tfc.callbacks.FilterPruning(HALF, criterion="mean_activation")
    model.fit(**arguments(pruning))
    return tfc.finalize(model), {}


def measured_on_data():
    """Every process is given the same samples."""
    model, samples = compiled(network()), data()[0][:16]
    pruning = tfc.callbacks.FilterPruning(HALF, tfc.criteria.MeanActivation(samples))
    density = tfc.callbacks.ActivationDensity(samples, stop=False)
    model.fit(**arguments(pruning, density))
    return model, {"curve": density.curve}


def gates_resolved():
    model, _ = contract(CASES["GatePenalty"])
    return tfc.finalize(model, data=data()[0], threshold=0.5), {}


def fit_resumed():
    def run(*more):
        method = CASES["ADMM"].method()
        method.state_path = FLAGS.folder / "admm.npz"
        # Keras knows nothing of processes: each keeps a backup of its own.
        keep = keras.callbacks.BackupAndRestore(FLAGS.folder / f"keras-{FLAGS.process}")
        model = compiled(network())
        model.fit(**arguments(keep, method, *more))
        return model

    return interrupted(run, "admm*")


def shrunk(folder, *more):
    pruning = tfc.callbacks.FilterPruning(HALF, layers=["a", "h"])
    return tfc.training.fit_shrinking(
        compiled(network()),
        backup_dir=folder,
        **arguments(pruning, CASES["ADMM"].method(), *more),
    )


def shrinking_resumed():
    folder = FLAGS.folder / "shrinking"
    return interrupted(lambda *more: shrunk(folder, *more), "shrinking/*.keras")


def folders_of_their_own():
    """What each process writes, and that nothing goes on from it."""
    name = f"own-{FLAGS.process}"
    model, refused = None, None
    try:
        model, found = interrupted(
            lambda *more: shrunk(FLAGS.folder / name, *more), f"{name}/*"
        )
    except ValueError as error:
        found, refused = {"files": files(f"{name}/*")}, str(error)
    return model or network(), found | {"refused": refused}


RUNS = {name: lambda case=case: contract(case) for name, case in CASES.items()} | {
    each.__name__: each
    for each in (
        mean_activation,
        measured_on_data,
        gates_resolved,
        fit_resumed,
        shrinking_resumed,
        folders_of_their_own,
    )
}
results = {}
for name in FLAGS.runs.split(","):
    try:
        model, found = RUNS[name]()
        weights = {v.path: keras.ops.convert_to_numpy(v) for v in model.weights}
        np.savez(FLAGS.folder / f"{name}-{FLAGS.process}.npz", **weights)
        results[name] = {"error": None, **found}
    except Exception:
        results[name] = {"error": traceback.format_exc()[-3000:]}
print(json.dumps({"devices": jax.device_count(), "runs": results}))
