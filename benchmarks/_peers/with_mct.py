"""Sony's Model Compression Toolkit on TensorFlow 2.15: filters, and int8 afterwards."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import model_compression_toolkit as mct
from _common import Task
from tensorflow import keras


def batches(task, count=20):
    for start in range(0, count * 16, 16):
        yield [task.train[0][start : start + 16]]


def filters(task):
    model = task.network(keras)
    size = 4 * task.parameters["filters"]
    # user code
    model, _ = mct.pruning.keras_pruning_experimental(
        model,
        mct.core.ResourceUtilization(weights_memory=size),
        lambda: batches(task),
        mct.pruning.PruningConfig(num_score_approximations=1),
    )
    # end
    seconds = task.fit(task.compiled(keras, model))
    import tensorflow as tf
    from _common import convert

    files = {
        "float32": convert(tf, model, task.out / "filters.float32.tflite"),
        "int8": convert(
            tf, model, task.out / "filters.int8.tflite", task.train[0][:300]
        ),
    }
    return {"seconds": seconds, "accuracy": task.accuracy(model), "files": files}


def int8(task):
    model = task.network(keras)
    # user code
    model, _ = mct.ptq.keras_post_training_quantization(model, lambda: batches(task))
    # end
    path = task.out / "int8.tflite"
    mct.exporter.keras_export_model(
        model,
        str(path),
        serialization_format=mct.exporter.KerasExportSerializationFormat.TFLITE,
        quantization_format=mct.exporter.QuantizationFormat.INT8,
    )
    return {"accuracy": task.accuracy(model), "files": {"int8": str(path)}}


task = Task()
keras.utils.set_random_seed(task.seed)
task.time_plain(keras)
for method in (filters, int8):
    task.run(method.__name__, method)
