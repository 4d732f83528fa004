# %% [markdown]
"""A report on a regression with four targets: two networks of other widths.

The targets are facts about an image that a formula gives: where the ink of a digit has
its middle, how much there is, and how far it is spread. Quality is the metric and the
loss that the networks are compiled with, with the error of the mean.
"""

# %%
import os

import keras
import numpy as np

import tfcompress as tfc

EPOCHS = int(os.environ.get("EPOCHS", 40))

# %%
data = tfc.data.load("digits")


# %%
def facts(images):
    """Middle (row, column), amount and spread of the ink, from 0 to about 1."""
    ink = images[..., 0]
    places = np.linspace(0, 1, ink.shape[1])
    amount = ink.sum((1, 2))
    row = (ink.sum(2) * places).sum(1) / amount
    column = (ink.sum(1) * places).sum(1) / amount
    far = (places[:, None] - row[:, None, None]) ** 2
    far = far + (places - column[:, None, None]) ** 2
    spread = np.sqrt((ink * far).sum((1, 2)) / amount)
    return np.stack([row, column, amount / ink[0].size, spread], axis=1)


# %%
def train(width):
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(width, activation="relu", name=n) for n in ("a", "b")]
    model = keras.Sequential(
        [keras.Input(data.input_shape), keras.layers.Flatten(), *layers]
    )
    model.add(keras.layers.Dense(4, name="facts"))
    model.compile("adam", "mse", metrics=["mae"])
    x, y = data.train.images, facts(data.train.images)
    model.fit(x, y, epochs=EPOCHS, verbose=0)
    return model


# %%
report = tfc.report.compare(
    {"64 units": train(64), "12 units": train(12)},
    data=(data.test.images, facts(data.test.images)),
    calibration=data.train.images[:300],
    tolerance=0.1,  # of the first network's mean absolute error
    title="Four facts about the ink of a digit",
)
print(report)
report.save("regression.html")
report.save("regression.json")
