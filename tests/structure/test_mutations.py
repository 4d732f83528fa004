"""Power of the graph tests: wrong rules do not pass them."""

from dataclasses import replace

import keras
import numpy as np
import pytest
from keras import layers as L

from tests.structure import graphs
from tests.structure.test_graphs import test_removing_equals_masking as run
from tfcompress.structure import VerificationError
from tfcompress.structure._labels import Abstract
from tfcompress.structure.rules import _attention, _channelwise, _movement, _producers
from tfcompress.structure.rules import _table as table


@pytest.fixture(autouse=True)
def float64():
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_dtype_policy("float32")


def detected(build):
    """Whether the graph test notices; a mutant that merely crashes proves nothing."""
    try:
        run(build)
    except (AssertionError, VerificationError):
        return True
    except ValueError as error:
        assert "would need shape" in str(error), error
        return True
    return False


def flipped(rule):
    """The rule, reading its input channels in the wrong order."""

    class Flipped(rule):
        def trace(self, trace, op, call, inputs):
            labels = inputs[0].labels[..., ::-1]
            return super().trace(
                trace, op, call, [replace(inputs[0], labels=labels), *inputs[1:]]
            )

    return Flipped


def without_zeroing(rule, role):
    """The rule, forgetting to zero the variables of one role."""

    class Forgetful(rule):
        def trace(self, trace, op, call, inputs):
            results = super().trace(trace, op, call, inputs)
            for key, axis in trace.axes.items():
                if axis.layer is op and axis.role == role:
                    trace.axes[key] = replace(axis, zero=False)
            return results

    return Forgetful


class TiledDepthwise(_producers.DepthwiseConv):
    def weigh(self, trace, op, call, inputs):
        result = super().weigh(trace, op, call, inputs)[0]
        labels = inputs[0].labels.ravel()
        tiled = np.tile(labels, op.depth_multiplier).reshape(result.labels.shape)
        return [replace(result, labels=tiled)]


class RepeatedGates(_producers.Recurrent):
    def weigh(self, trace, op, call, inputs):
        results = super().weigh(trace, op, call, inputs)
        for key, axis in trace.axes.items():
            if axis.layer is op and axis.labels.size == self.gates * op.units:
                labels = np.repeat(axis.labels[: op.units], self.gates)
                trace.axes[key] = replace(axis, labels=labels)
        return results


class FortranFlatten(_movement.Reshape):
    def trace(self, trace, op, call, inputs):
        labels, _ = inputs[0].full()
        moved = np.reshape(labels, (1, -1), order="F")
        zero = np.zeros((1, 1))
        return [Abstract.compact(moved, zero, (None, moved.size))]


class ReversedJoin(_movement.Join):
    def trace(self, trace, op, call, inputs):
        return super().trace(trace, op, call, inputs[::-1])


class SwappedSplit(_movement.Split):
    def trace(self, trace, op, call, inputs):
        return super().trace(trace, op, call, inputs)[::-1]


class UntiedMerge(_channelwise.Merge):
    def trace(self, trace, op, call, inputs):
        return [inputs[0]]


class ZeroPreservingActivation(_channelwise.Activation):
    def trace(self, trace, op, call, inputs):
        return [inputs[0]]


class UngroupedConv(_producers.Conv):
    def weigh(self, trace, op, call, inputs):
        labels, _ = trace.vector(inputs[0], -1, "conv")
        size = op.kernel.shape[-2]
        trace.bind(op, op.kernel, -2, labels[:size], "input")
        out = trace.create(op, op.filters)
        trace.bind(op, op.kernel, -1, out, "kernel", zero=True)
        trace.bind(op, op.bias, 0, out, "bias", zero=True)
        return [trace.produce(op, out, -1, tuple(call.outputs[0].shape))]


class SilentPadding(_producers.Conv):
    """Folds non-zero constants although the padding makes that inexact."""

    def weigh(self, trace, op, call, inputs):
        zero = replace(inputs[0], constant=inputs[0].constant * 0)
        return super().weigh(trace, op, call, [zero])


class HarmlessSoftmax(_producers.Dense):
    def weigh(self, trace, op, call, inputs):
        result = super().weigh(trace, op, call, inputs)
        if result[0].labeled or op.name != "gate":
            return result
        out = trace.create(op, op.units)
        trace.table._frozen.clear()
        return [trace.produce(op, out, -1, tuple(call.outputs[0].shape))]


class WholeAttention(_attention.Attention):
    """Forgets that the output projection reads the heads."""

    def weigh(self, trace, op, call, inputs):
        results = super().weigh(trace, op, call, inputs)
        del trace.axes[id(op._output_dense.kernel), 0]
        return results


class MeanAsSum(_channelwise.Reduce):
    def __init__(self):
        super().__init__(additive=True)


class SwappedTranspose(_producers.ConvTranspose):
    def configure(self, op, call, config, kept):
        config["filters"] = kept.size(op.kernel, -1)


class LayerNormAsBatchNorm(_channelwise.LayerNorm):
    def weigh(self, trace, op, call, inputs):
        labels, _ = trace.vector(inputs[0], -1, "norm")
        trace.bind(op, op.gamma, 0, labels, "scale", zero=True)
        trace.bind(op, op.beta, 0, labels, "offset", zero=True)
        return [inputs[0]]


LAYER_MUTANTS = [
    (L.Conv2D, flipped(_producers.Conv), graphs.conv_stack),
    (L.Conv2D, UngroupedConv, graphs.grouped_conv),
    (L.Conv2D, SilentPadding, graphs.nonzero_constant_padded),
    (L.Conv2D, without_zeroing(_producers.Conv, "bias"), graphs.densely_connected),
    (L.Conv2DTranspose, SwappedTranspose, graphs.transposed),
    (L.SeparableConv2D, flipped(_producers.SeparableConv), graphs.separable),
    (L.DepthwiseConv2D, TiledDepthwise, graphs.depthwise_multiplier),
    (L.Dense, flipped(_producers.Dense), graphs.dense_ranks),
    (L.Dense, HarmlessSoftmax, graphs.softmax_inside),
    (L.LSTM, lambda: RepeatedGates(4), graphs.recurrent),
    (L.MultiHeadAttention, WholeAttention, graphs.attention),
    (
        L.BatchNormalization,
        without_zeroing(_channelwise.BatchNorm, "offset"),
        graphs.residual,
    ),
    (L.BatchNormalization, _channelwise.Identity, graphs.residual),
    (L.LayerNormalization, LayerNormAsBatchNorm, graphs.layer_norm),
    (L.Activation, ZeroPreservingActivation, None),
    (L.Add, lambda: UntiedMerge(np.add), graphs.residual),
    (L.Concatenate, ReversedJoin, graphs.densely_connected),
    (L.Flatten, FortranFlatten, graphs.conv_stack),
    (L.Permute, _channelwise.Identity, graphs.channel_shuffle),
]


def _sigmoid_layer():
    i = graphs._image()
    x = L.Activation("sigmoid")(graphs._conv(6)(i))
    return graphs._model(i, graphs._head(L.Conv2D(5, 3)(x)))


@pytest.mark.parametrize(
    ("layer", "mutant", "build"),
    LAYER_MUTANTS,
    ids=[f"{c.__name__}-{n}" for n, (c, *_) in enumerate(LAYER_MUTANTS)],
)
def test_wrong_layer_rules_fail(monkeypatch, layer, mutant, build):
    if build is None:
        build = _sigmoid_layer
        monkeypatch.setitem(graphs.CASES, build, [6, 5])
    run(build)
    monkeypatch.setitem(table._LAYERS, layer, mutant())
    assert detected(build)


@pytest.mark.parametrize(
    ("name", "mutant", "build"),
    [
        ("Mean", MeanAsSum, graphs.spatial_attention_by_mean),
        ("Stack", lambda: _channelwise.Identity(), graphs.stacked),
        ("Split", SwappedSplit, graphs.split),
    ],
    ids=["mean", "stack", "split"],
)
def test_wrong_operation_rules_fail(monkeypatch, name, mutant, build):
    run(build)
    monkeypatch.setitem(table._OPS, name, mutant())
    assert detected(build)


def test_the_probe_alone_finds_the_same_groups(monkeypatch):
    # Rules of weightless operations and the probe check each other.
    cases = [graphs.residual, graphs.unet, graphs.noise_and_dropout]
    expected = [sizes(build()) for build in cases]
    probed = (
        _channelwise.Activation,
        _channelwise.Spatial,
        _channelwise.Identity,
        _channelwise.Rescaling,
    )
    for layer, rule in list(table._LAYERS.items()):
        if isinstance(rule, probed):
            monkeypatch.delitem(table._LAYERS, layer)
    assert [sizes(build()) for build in cases] == expected


def sizes(model):
    import tfcompress as tfc

    groups = tfc.structure.channel_groups(model)
    return [group.size for group in groups if group.prunable]
