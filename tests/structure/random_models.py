"""Random networks, for properties that must hold on any graph."""

import keras
import numpy as np
from keras import layers as L
from keras import ops

from tests.structure import graphs

_ACTIVATIONS = ("relu", "tanh", "swish", "sigmoid", "softplus", None)


def random_model(seed):
    """A random network of 4 to 10 random steps on 8×8 images."""
    return _Builder(np.random.default_rng(seed)).build()


class _Builder:
    def __init__(self, rng):
        self.rng = rng
        self.images = []
        self.shared = None

    def build(self):
        inputs = [keras.Input((8, 8, 3))]
        if self.rng.random() < 0.2:
            inputs.append(keras.Input((8, 8, 2)))
        self.images = [self.conv(x, strides=1) for x in inputs]
        steps = [
            self.step_conv,
            self.step_conv,
            self.step_grouped,
            self.step_depthwise,
            self.step_separable,
            self.step_transposed,
            self.step_norm,
            self.step_norm,
            self.step_activation,
            self.step_pool,
            self.step_residual,
            self.step_residual,
            self.step_concatenate,
            self.step_slice,
            self.step_split,
            self.step_squeeze_excite,
            self.step_shuffle,
            self.step_scalar,
            self.step_nested,
            self.step_shared,
            self.step_prelu,
            self.step_pad,
        ]
        for _ in range(self.rng.integers(4, 11)):
            steps[self.rng.integers(len(steps))]()
        outputs = [L.GlobalAveragePooling2D()(x) for x in self.images[-3:]]
        if self.rng.random() < 0.5:
            outputs.append(L.Flatten()(self.images[-1]))
        x = outputs[0] if len(outputs) == 1 else L.Concatenate()(outputs)
        x = L.Dense(6, activation=self.activation())(x)
        return keras.Model(inputs, L.Dense(3)(x))

    def activation(self):
        return _ACTIVATIONS[self.rng.integers(len(_ACTIVATIONS))]

    def pick(self):
        return self.images[self.rng.integers(len(self.images))]

    def put(self, x):
        self.images.append(x)

    def conv(self, x, strides=None, filters=None):
        return L.Conv2D(
            filters or int(self.rng.integers(2, 9)),
            int(self.rng.choice([1, 3])),
            strides=strides or int(self.rng.choice([1, 1, 2])),
            padding="valid"
            if min(x.shape[1:3]) > 4 and self.rng.random() < 0.3
            else "same",
            use_bias=bool(self.rng.random() < 0.7),
            activation=self.activation(),
        )(x)

    def step_conv(self):
        self.put(self.conv(self.pick()))

    def step_grouped(self):
        x = self.pick()
        divisors = [g for g in (2, 3, 4) if x.shape[-1] % g == 0]
        if divisors:
            g = int(self.rng.choice(divisors))
            filters = g * int(self.rng.integers(1, 4))
            self.put(L.Conv2D(filters, 3, padding="same", groups=g)(x))

    def step_depthwise(self):
        self.put(
            L.DepthwiseConv2D(
                3, padding="same", depth_multiplier=int(self.rng.integers(1, 3))
            )(self.pick())
        )

    def step_separable(self):
        x = self.pick()
        self.put(
            L.SeparableConv2D(
                int(self.rng.integers(2, 7)),
                3,
                padding="same",
                depth_multiplier=int(self.rng.integers(1, 3)),
                activation=self.activation(),
            )(x)
        )

    def step_transposed(self):
        x = self.pick()
        if x.shape[1] <= 8:
            self.put(L.Conv2DTranspose(int(self.rng.integers(2, 6)), 3, 2)(x))

    def step_norm(self):
        kwargs = {"scale": self.rng.random() < 0.8, "center": self.rng.random() < 0.8}
        self.put(L.BatchNormalization(**kwargs)(self.pick()))

    def step_activation(self):
        self.put(L.Activation(self.activation() or "relu")(self.pick()))

    def step_pool(self):
        kind = (L.MaxPooling2D, L.AveragePooling2D)[self.rng.integers(2)]
        self.put(kind(2, padding="same")(self.pick()))

    def step_residual(self):
        x = self.pick()
        y = L.Conv2D(x.shape[-1], 3, padding="same", activation=self.activation())(x)
        kind = (L.Add, L.Subtract, L.Maximum, L.Multiply)[
            self.rng.choice(4, p=[0.55, 0.15, 0.15, 0.15])
        ]
        self.put(kind()([x, y]))

    def step_concatenate(self):
        x = self.pick()
        others = [y for y in self.images if y.shape[1:3] == x.shape[1:3]]
        y = others[self.rng.integers(len(others))]
        self.put(L.Concatenate()([x, y]))

    def step_slice(self):
        x = self.pick()
        if x.shape[-1] > 3:
            start = int(self.rng.integers(0, 2))
            self.put(x[..., start:])

    def step_split(self):
        x = self.pick()
        if x.shape[-1] > 3:
            a, b = ops.split(x, [x.shape[-1] // 2], axis=-1)
            self.put(self.conv(a, strides=1))
            self.put(b)

    def step_squeeze_excite(self):
        x = self.pick()
        s = L.GlobalAveragePooling2D(keepdims=True)(x)
        s = L.Conv2D(x.shape[-1], 1, activation="sigmoid")(s)
        self.put(L.Multiply()([x, s]))

    def step_shuffle(self):
        x = self.pick()
        if x.shape[-1] % 2 == 0 and x.shape[-1] > 2:
            _, h, w, c = x.shape
            x = L.Reshape((h, w, 2, c // 2))(x)
            self.put(L.Reshape((h, w, c))(L.Permute((1, 2, 4, 3))(x)))

    def step_scalar(self):
        x = self.pick()
        self.put((x * 0.5, x + 1.0, 1.0 - x)[self.rng.integers(3)])

    def step_nested(self):
        x = self.pick()
        i = keras.Input(x.shape[1:])
        y = self.conv(i, strides=1)
        self.put(keras.Model(i, L.BatchNormalization()(y))(x))

    def step_shared(self):
        x = self.pick()
        layer = L.Conv2D(x.shape[-1], 3, padding="same")
        self.put(layer(layer(x)))

    def step_prelu(self):
        self.put(L.PReLU(shared_axes=[1, 2])(self.pick()))

    def step_pad(self):
        self.put(
            L.UpSampling2D(2)(L.Cropping2D(1)(L.ZeroPadding2D(2)(self.pick())))
            if self.pick().shape[1] < 9
            else self.pick()
        )


def randomized(seed):
    """A random model with random weights."""
    return graphs.randomize(random_model(seed), seed)
