"""TensorFlow Model Optimization Toolkit on tf_keras: zeros, and int8 trained for."""

import os

os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras as keras
from _common import Task, convert


def zeros(task):
    model = task.network(keras)
    # user code
    ramp = tfmot.sparsity.keras.PolynomialDecay(
        0.0,
        task.sparsity,
        begin_step=0,
        end_step=task.steps * task.epochs // 2,
        frequency=20,
    )
    model = tfmot.sparsity.keras.prune_low_magnitude(model, ramp)
    update = tfmot.sparsity.keras.UpdatePruningStep()
    # end
    seconds = task.fit(task.compiled(keras, model), [update])
    # user code
    model = tfmot.sparsity.keras.strip_pruning(model)
    # end
    files = {
        "float32": convert(tf, model, task.out / "zeros.float32.tflite"),
        "int8": convert(tf, model, task.out / "zeros.int8.tflite", task.train[0][:300]),
    }
    return {"seconds": seconds, "accuracy": task.accuracy(model), "files": files}


def int8(task):
    model = task.network(keras)
    # user code
    model = tfmot.quantization.keras.quantize_model(model)
    # end
    seconds = task.fit(task.compiled(keras, model))
    file = convert(tf, model, task.out / "int8.tflite", ())
    return {
        "seconds": seconds,
        "accuracy": task.accuracy(model),
        "files": {"int8": file},
    }


task = Task()
keras.utils.set_random_seed(task.seed)
task.time_plain(keras)
for method in (zeros, int8):
    task.run(method.__name__, method)
