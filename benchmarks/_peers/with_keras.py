"""Keras' own `Model.quantize`: int8 after training."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import tensorflow as tf
from _common import Task, convert


def int8(task):
    model = task.network(keras)
    # user code
    model.quantize("int8")
    # end
    path = task.out / "int8.keras"
    model.save(path, include_optimizer=False)
    files, note = {".keras": str(path)}, "convolutions stay in float"
    try:
        files["int8"] = convert(tf, model, task.out / "int8.tflite")
    except Exception as error:
        note += f"; no .tflite: {type(error).__name__} in the converter"
    return {"accuracy": task.accuracy(model), "files": files, "note": note}


task = Task()
keras.utils.set_random_seed(task.seed)
task.run("int8", int8)
