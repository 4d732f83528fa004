# %% [markdown]
"""A report on an autoencoder, whose labels are its inputs: dense and pruned."""

# %%
import os

import keras

import tfcompress as tfc

EPOCHS = int(os.environ.get("EPOCHS", 30))

# %%
data = tfc.data.load("digits")


def train(*callbacks):
    keras.utils.set_random_seed(0)
    conv = keras.layers.Conv2D
    model = keras.Sequential(
        [
            keras.Input(data.input_shape),
            conv(16, 3, strides=2, padding="same", activation="relu", name="down1"),
            conv(4, 3, strides=2, padding="same", activation="relu", name="code"),
            keras.layers.UpSampling2D(2),
            conv(16, 3, padding="same", activation="relu", name="up1"),
            keras.layers.UpSampling2D(2),
            conv(1, 3, padding="same", activation="sigmoid", name="image"),
        ]
    )
    model.compile("adam", "mse", metrics=["mae"])
    x = data.train.images
    model.fit(x, x, epochs=EPOCHS, callbacks=list(callbacks), verbose=0)
    return model


# %%
dense = train()
ramp = tfc.schedules.Linear(0.0, 0.4, begin=0, end=EPOCHS / 2)
pruned = tfc.finalize(train(tfc.callbacks.FilterPruning(ramp, exclude=["code"])))

# %%
report = tfc.report.compare(
    {"dense": dense, "40 % of filters pruned": pruned},
    data=(data.test.images, data.test.images),
    calibration=data.train.images[:300],
    tolerance=0.2,  # of the dense network's mean absolute error
    title="An autoencoder of digits",
)
print(report)
report.save("autoencoder.html")
report.save("autoencoder.json")
