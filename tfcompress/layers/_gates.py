"""Gates that decide, sample by sample, whether a residual branch is added."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress._checks import invalid, number, one_of, positive, whole
from tfcompress.ops import binary_step, gumbel_step, mean_step

__all__ = ["ChannelGate", "Gate", "LayerGate"]

ESTIMATORS = ("ste", "gumbel", "bernoulli")

# Of the statistics that inference uses: they settle within a short run.
_MOMENTUM = 0.9

Shape = tuple[int | None, ...]


class Gate(keras.Layer):
    """What layer and channel gates share: the module, its head, its accounts.

    The module is a small network that ends in one logit for each thing that it
    opens or closes; the head turns logits into zeros and ones.

    Every call adds the gate's share of the penalties to the model's losses, with
    the weights that `set_penalty` has set (0 at first). While the model trains,
    the gate counts how often it opens: `opening`.
    """

    def __init__(
        self,
        units: int = 16,
        estimator: str = "ste",
        temperature: float = 1.0,
        open_bias: float = 1.0,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.units = whole("units", units)
        self.estimator = one_of("estimator", estimator, list(ESTIMATORS))
        self.temperature = positive("temperature", temperature)
        self.open_bias = number("open_bias", open_bias, least=None)
        self.seed = seed
        self.measuring = False  # whether inference is counted as well
        if estimator == "gumbel":
            self._noise = keras.random.SeedGenerator(seed)

    # Penalties and accounts -------------------------------------------------

    def set_penalty(self, polarization: float, activation: float) -> None:
        """Sets the weights of this gate's terms in the loss.

        Args:
            polarization: weight of (1 - ḡ)·ḡ, with ḡ the fraction of the batch
                for which the gate is open; of its mean over the channels.
            activation: weight of ḡ, likewise.
        """
        self._lambda_polar.assign(polarization)
        self._lambda_act.assign(activation)

    @property
    def penalty(self) -> tuple[float, float]:
        """The weights that are in force, as `set_penalty` takes them."""
        return _number(self._lambda_polar), _number(self._lambda_act)

    @property
    def seen(self) -> int:
        """Number of samples counted since the last `reset`, on each replica."""
        return int(_number(self._samples))

    @property
    def opening(self) -> np.ndarray:
        """Fraction of the counted samples for which each output was open.

        A float64 array (outputs,), of NaN where nothing was counted.
        """
        opened = ops.convert_to_numpy(self._opened).astype("float64")
        return opened / self.seen if self.seen else np.full_like(opened, np.nan)

    @property
    def polarity(self) -> float:
        """Mean over the counted batches of the mean of (1 - ḡ)·ḡ; NaN if none."""
        return _number(self._polarity) / self.seen if self.seen else math.nan

    def reset(self) -> None:
        """Forgets what was counted."""
        for variable in (self._opened, self._samples, self._polarity):
            variable.assign(ops.zeros(variable.shape, variable.dtype))

    def cost_macs(
        self, input_shapes: Sequence[Shape], output_shapes: Sequence[Shape]
    ) -> int:
        """Multiply–accumulates of the gate itself, for one sample."""
        layers = [*self._dense, self._logits]
        return sum(math.prod(layer.kernel.shape) for layer in layers)

    # Steps ------------------------------------------------------------------

    def _build_module(self, features: int, depth: int, outputs: int) -> None:
        """`depth` hidden layers and the one that gives the logits."""
        policy = self.dtype_policy
        self._dense = [
            keras.layers.Dense(self.units, dtype=policy, name=f"dense_{index}")
            for index in range(depth)
        ]
        self._norms = [
            keras.layers.BatchNormalization(
                momentum=_MOMENTUM, dtype=policy, name=f"norm_{index}"
            )
            for index in range(depth)
        ]
        width = features
        for dense, norm in zip(self._dense, self._norms, strict=True):
            dense.build((None, width))
            norm.build((None, self.units))
            width = self.units
        self._logits = keras.layers.Dense(
            outputs,
            bias_initializer=keras.initializers.Constant(self.open_bias),
            dtype=policy,
            name="logits",
        )
        self._logits.build((None, width))
        self._lambda_polar = self._state("lambda_polar", ())
        self._lambda_act = self._state("lambda_act", ())
        self._opened = self._state("opened", (outputs,))
        self._samples = self._state("samples", ())
        self._polarity = self._state("polarity", ())
        if self.estimator == "bernoulli":
            self._threshold = self._state("threshold", ())

    def _state(self, name: str, shape: Shape) -> Any:
        # In float32 whatever the policy: these are counts and loss weights. The
        # mean of what replicas count leaves the ratios what they are.
        return self.add_weight(
            name=name,
            shape=shape,
            initializer="zeros",
            dtype="float32",
            trainable=False,
            autocast=False,
            aggregation="mean",
        )

    def _decide(self, features: Any, training: bool | None) -> Any:
        """Zeros and ones (batch, outputs) for features (batch, n)."""
        x = features
        for dense, norm in zip(self._dense, self._norms, strict=True):
            x = ops.relu(norm(dense(x), training=training))
        gate = self._head(self._logits(x), training)
        self._account(gate, training)
        return gate

    def _head(self, logits: Any, training: bool | None) -> Any:
        if self.estimator == "bernoulli":
            return self._above_mean(logits, training)
        if self.estimator == "gumbel" and training:
            return gumbel_step(logits, self.temperature, self._noise)
        # At inference a Gumbel gate takes the more probable side.
        return binary_step(logits)

    def _above_mean(self, logits: Any, training: bool | None) -> Any:
        # As in a batch normalization: the mean of the batch while training, a moving
        # mean at inference, where a sample must not depend on the others of its batch.
        if not training:
            return mean_step(logits, self._threshold)
        mean = ops.mean(ops.cast(logits, "float32"))
        step = 1.0 - _MOMENTUM
        self._threshold.assign(self._threshold * _MOMENTUM + mean * step)
        return mean_step(logits, mean)

    def _account(self, gate: Any, training: bool | None) -> None:
        # `opening` is ḡ of equations 8 to 11, the fraction of the batch for which a
        # gate is open. Its gradient reaches the logits through the straight-through
        # step. What is only counted is cut off from the gradient. Each batch counts by
        # its number of samples, because the last one may be smaller.
        gate = ops.cast(gate, "float32")
        opening = ops.mean(gate, axis=0)
        polarity = ops.mean((1.0 - opening) * opening)
        penalty = self._lambda_polar * polarity
        penalty += self._lambda_act * ops.mean(opening)
        self.add_loss(ops.cast(penalty, keras.config.floatx()))
        if training or self.measuring:
            samples = ops.cast(ops.shape(gate)[0], "float32")
            self._opened.assign_add(ops.stop_gradient(ops.sum(gate, axis=0)))
            self._samples.assign_add(samples)
            self._polarity.assign_add(ops.stop_gradient(polarity * samples))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments as plain Python values."""
        return {
            **super().get_config(),
            "units": self.units,
            "estimator": self.estimator,
            "temperature": self.temperature,
            "open_bias": self.open_bias,
            "seed": self.seed,
        }


@keras.saving.register_keras_serializable(package="tfcompress")
class LayerGate(Gate):
    """Lets a residual branch pass, or not, depending on the block's input.

    The layer gate of Zhi et al., "A New Baseline for GreenAI: Finding the Optimal
    Sub-Network via Layer and Channel Pruning" (2023), Table 1 and Figure 2:
    global average pooling, Dense, BatchNormalization, ReLU, Dense with one
    output, and a head that makes it 0 or 1. It reads what goes into a residual
    block and multiplies the block's branch by its decision. The branch is
    computed in any case until `tfcompress.finalize` has removed the closed
    ones. `tfcompress.gates.add_layer_gates` puts one on every branch of a model.

    The head is one of Table 4, the `estimator`:

    - `"ste"`: 1 where the logit is positive (`tfcompress.ops.binary_step`);
    - `"gumbel"`: random while training (`gumbel_step`), as `"ste"` at inference;
    - `"bernoulli"`: 1 where the logit is above the mean of the batch
      (`mean_step`), at inference above a moving mean. About half of the samples
      are open whatever the penalties are, so it does not polarize; it is here
      for comparison.

    Where an STE gate starts matters: it learns only from logits in [-1, 1]. With
    the default `open_bias` most logits start around 1, that is open and within
    reach of the gradient.

    Example:

    ```python
    shortcut = x
    branch = keras.layers.Conv2D(16, 3, padding="same")(x)
    branch = tfc.layers.LayerGate()([x, branch])
    x = keras.layers.Add()([shortcut, branch])
    ```

    Args:
        units: width of the hidden layer. Defaults to `16`.
        estimator: the head: `"ste"`, `"gumbel"` or `"bernoulli"`. Defaults to
            `"ste"`.
        temperature: of `"gumbel"`. Defaults to `1.0`.
        open_bias: what the bias of the last layer starts at. Defaults to `1.0`.
        seed: of the noise of `"gumbel"`. Defaults to `None`.
        **kwargs: of `keras.Layer`, such as `name`.

    Call arguments:
        inputs: a list of the block's input (batch, ..., channels) and the
            branch, of any shape (batch, ...).

    Returns:
        The branch, zero for the samples for which the gate is closed.

    Raises:
        ValueError: if an argument is out of range.
    """

    def build(self, input_shape: Any) -> None:
        """Creates the weights for the shapes of a block's input and branch."""
        if len(input_shape) != 2 or not hasattr(input_shape[0], "__len__"):
            expected = "a list of a block's input and its branch"
            raise ValueError(invalid("inputs", expected, input_shape))
        features = _channels(self, tuple(input_shape[0]))
        self._build_module(features, depth=1, outputs=1)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Returns the branch where the gate is open."""
        features, branch = inputs
        axes = tuple(range(1, len(features.shape) - 1))
        pooled = ops.mean(features, axis=axes) if axes else features
        gate = self._decide(pooled, training)
        return branch * ops.reshape(gate, (-1, *(1,) * (len(branch.shape) - 1)))

    def compute_output_shape(self, input_shape: Any) -> Shape:
        """The shape of the branch."""
        return tuple(input_shape[1])


@keras.saving.register_keras_serializable(package="tfcompress")
class ChannelGate(Gate):
    """Lets each channel of a tensor pass, or not.

    The channel gate of Zhi et al. (2023), Table 1 and Figure 3: flatten, `depth`
    times Dense, BatchNormalization and ReLU, Dense with one output for each
    channel, and a head as in `LayerGate`. It multiplies its own input, channel
    by channel, by its decisions. `tfcompress.gates.add_channel_gates` puts one
    into every residual branch of a model.

    The table's module "K = 2" has two dense layers in all; that is `depth=1`
    here, and its "1FC" is `depth=0`.

    Example:

    ```python
    x = keras.layers.Conv2D(16, 3, padding="same", activation="relu")(x)
    x = tfc.layers.ChannelGate(depth=1)(x)
    ```

    Args:
        depth: number of hidden layers: 0, 1 or 2. Defaults to `1`.
        units: width of the hidden layers. Defaults to `16`.
        estimator: see `LayerGate`. With `"bernoulli"` the mean is that of all
            channels. Defaults to `"ste"`.
        temperature: of `"gumbel"`. Defaults to `1.0`.
        open_bias: what the biases of the last layer start at. Defaults to `1.0`.
        seed: of the noise of `"gumbel"`. Defaults to `None`.
        **kwargs: of `keras.Layer`, such as `name`.

    Call arguments:
        inputs: a tensor (batch, ..., channels) whose sizes are known.

    Returns:
        The tensor, zero in the channels that are closed for a sample.

    Raises:
        ValueError: if an argument is out of range; when called, if a size other
            than the batch's is not known.
    """

    def __init__(
        self,
        depth: int = 1,
        units: int = 16,
        estimator: str = "ste",
        temperature: float = 1.0,
        open_bias: float = 1.0,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(units, estimator, temperature, open_bias, seed, **kwargs)
        if isinstance(depth, bool) or depth not in (0, 1, 2):
            raise ValueError(invalid("depth", "0, 1 or 2", depth))
        self.depth = depth

    def build(self, input_shape: Any) -> None:
        """Creates the weights for an input of this shape."""
        channels = _channels(self, tuple(input_shape))
        if None in input_shape[1:]:
            expected = (
                f"a tensor whose sizes are known, since the channel gate {self.name!r} "
                "reads every value of it"
            )
            raise ValueError(invalid("inputs", expected, tuple(input_shape)))
        features = math.prod(input_shape[1:])
        self._build_module(features, depth=self.depth, outputs=channels)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Returns the input without the closed channels."""
        flat = ops.reshape(inputs, (-1, math.prod(inputs.shape[1:])))
        gate = self._decide(flat, training)
        between = (1,) * (len(inputs.shape) - 2)
        return inputs * ops.reshape(gate, (-1, *between, inputs.shape[-1]))

    def compute_output_shape(self, input_shape: Any) -> Shape:
        """The shape of the input."""
        return tuple(input_shape)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments as plain Python values."""
        return {**super().get_config(), "depth": self.depth}


def _channels(gate: Gate, shape: Shape) -> int:
    """The size of the last axis, which must be there and known."""
    if len(shape) < 2 or shape[-1] is None:
        expected = f"a tensor (batch, ..., channels) as input of the gate {gate.name!r}"
        raise ValueError(invalid("inputs", expected, shape))
    return shape[-1]


def _number(variable: Any) -> float:
    return float(ops.convert_to_numpy(variable))
