"""tfcompress: zeros, filters and int8, each trained for."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
from _common import Task

import tfcompress as tfc


def zeros(task):
    model = task.network(keras)
    # user code
    ramp = tfc.schedules.Polynomial(
        0.0, task.sparsity, begin=0, end=task.steps * task.epochs // 2, every=20
    )
    pruning = tfc.callbacks.MagnitudePruning(ramp)
    # end
    seconds = task.fit(model, [pruning])
    # user code
    model = tfc.finalize(model)
    # end
    return {"seconds": seconds, **written(task, model, "zeros")}


def filters(task):
    model = task.network(keras)
    # user code
    ramp = tfc.schedules.Linear(0.0, task.filters, begin=0, end=task.epochs / 2)
    pruning = tfc.callbacks.FilterPruning(ramp)
    fit = tfc.training.fit_shrinking
    # end
    seconds = task.fit(model, [pruning], fit=fit)
    # user code
    model = tfc.finalize(task.returned)
    # end
    return {"seconds": seconds, **written(task, model, "filters")}


def int8(task):
    model = task.network(keras)
    # user code
    model = tfc.quantization.prepare(model, weights=8, activations=8)
    # end
    seconds = task.fit(task.compiled(keras, model))
    path = task.out / "int8.tflite"
    tfc.export.to_tflite(model, path)
    return {
        "seconds": seconds,
        "accuracy": task.accuracy(model),
        "files": {"int8": str(path)},
    }


def written(task, model, name):
    """Files of a finished model: float32, int8 after training, packed."""
    files = {}
    for kind in (None, "int8"):
        path = task.out / f"{name}.{kind or 'float32'}.tflite"
        calibration = task.train[0][:300] if kind else None
        tfc.export.to_tflite(model, path, quantization=kind, calibration=calibration)
        files[kind or "float32"] = str(path)
    files[".tfcz"] = str(tfc.export.pack(model, task.out / f"{name}.tfcz").path)
    return {"accuracy": task.accuracy(model), "files": files}


task = Task()
keras.utils.set_random_seed(task.seed)
task.time_plain(keras)
for method in (zeros, filters, int8):
    task.run(method.__name__, method)
