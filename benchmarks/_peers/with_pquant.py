"""PQuantML: zeros by its method PDP, and fixed-point weights and activations.

It drops the softmax at the end of a model, so that the loss is one on logits here.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import pquant
import tensorflow as tf
from _common import Task, convert
from pquant.core.keras.train import PQuantCallback


def zeros(task):
    model = task.network(keras)
    # user code
    config = pquant.pdp_config()
    config.pruning_parameters.sparsity = task.sparsity
    config.pruning_parameters.epsilon = 2 / task.epochs  # full in half of the epochs
    config.quantization_parameters.enable_quantization = False
    config.quantization_parameters.quantize_input = False
    model = pquant.add_compression_layers(model, config)
    compression = PQuantCallback(
        config,
        pretraining_epochs=0,
        epochs=task.epochs - task.epochs // 2,
        fine_tuning_epochs=task.epochs // 2,
    )
    # end
    return trained(task, model, compression, "zeros")


def int8(task):
    model = task.network(keras)
    # user code
    config = pquant.pdp_config()
    config.pruning_parameters.enable_pruning = False
    bits = config.quantization_parameters
    bits.default_data_keep_negatives = 1.0
    bits.default_data_integer_bits = 3.0
    bits.default_data_fractional_bits = 4.0
    model = pquant.add_compression_layers(model, config)
    compression = PQuantCallback(
        config, pretraining_epochs=0, epochs=task.epochs, fine_tuning_epochs=0
    )
    # end
    return trained(task, model, compression, "int8")


def trained(task, model, compression, name):
    """Result of a training run of the compressed model."""
    seconds = task.fit(task.compiled(keras, model, from_logits=True), [compression])
    path = task.out / f"{name}.keras"
    model.save(path, include_optimizer=False)
    files, note = {".keras": str(path)}, "for FPGAs: its layers hold float32"
    try:
        files["float32"] = convert(tf, model, task.out / f"{name}.float32.tflite")
    except Exception as error:
        note += f"; no .tflite: {type(error).__name__} in the converter"
    kernels = [
        keras.ops.convert_to_numpy(variable)
        for variable in model.trainable_variables
        if len(variable.shape) > 1
    ]
    nonzero = sum(int((kernel != 0).sum()) for kernel in kernels)
    share = 1 - nonzero / sum(kernel.size for kernel in kernels)
    return {
        "seconds": seconds,
        "accuracy": task.accuracy(model),
        "files": files,
        "note": f"{note}; {100 * share:.0f} % zeros",
    }


task = Task()
keras.utils.set_random_seed(task.seed)
task.time_plain(keras)
for method in (zeros, int8):
    task.run(method.__name__, method)
