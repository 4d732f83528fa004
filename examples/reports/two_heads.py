# %% [markdown]
"""A report on a model with two outputs: which digit it is, and how much ink it has."""

# %%
import os

import keras

import tfcompress as tfc

EPOCHS = int(os.environ.get("EPOCHS", 20))

# %%
data = tfc.data.load("digits")


# %%
def labels(split):
    return {"digit": split.labels, "ink": split.images.mean((1, 2, 3))}


# %%
def train(*callbacks):
    keras.utils.set_random_seed(0)
    image = keras.Input(data.input_shape)
    x = keras.layers.Conv2D(24, 3, activation="relu", name="conv1")(image)
    x = keras.layers.Conv2D(24, 3, activation="relu", name="conv2")(x)
    x = keras.layers.Flatten()(x)
    digit = keras.layers.Dense(data.classes, activation="softmax", name="digit")(x)
    ink = keras.layers.Dense(1, name="ink")(x)
    model = keras.Model(image, {"digit": digit, "ink": ink})
    model.compile(
        "adam",
        {"digit": "sparse_categorical_crossentropy", "ink": "mse"},
        metrics={"digit": ["accuracy"], "ink": ["mae"]},
    )
    x, y = data.train.images, labels(data.train)
    model.fit(x, y, epochs=EPOCHS, callbacks=list(callbacks), verbose=0)
    return model


# %%
ramp = tfc.schedules.Linear(0.0, 0.5, begin=0, end=EPOCHS / 2)
report = tfc.report.compare(
    {
        "dense": train(),
        "half of the filters": tfc.finalize(train(tfc.callbacks.FilterPruning(ramp))),
    },
    data=(data.test.images, labels(data.test)),
    calibration=data.train.images[:300],
    title="A digit and its ink",
)
print(report)
report.save("two_heads.html")
report.save("two_heads.json")
