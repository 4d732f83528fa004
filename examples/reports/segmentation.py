# %% [markdown]
"""A report on a segmentation: a class for every pixel, counted pixel by pixel."""

# %%
import os

import keras
import numpy as np

import tfcompress as tfc

EPOCHS = int(os.environ.get("EPOCHS", 15))

# %%
data = tfc.data.load("digits")


# %%
def scenes(split, seed):
    """A digit somewhere in a noisy picture; its pixels are thin or thick ink."""
    rng = np.random.default_rng(seed)
    images = rng.random((len(split), 16, 16, 1), "float32") * 0.3
    masks = np.zeros((len(split), 16, 16), "int32")
    for image, mask, digit in zip(images, masks, split.images, strict=True):
        row, column = rng.integers(0, 16 - digit.shape[0] + 1, 2)
        place = np.s_[row : row + digit.shape[0], column : column + digit.shape[1]]
        image[place] = np.maximum(image[place], digit)
        mask[place] = np.digitize(digit[..., 0], [0.35, 0.75])
    return images, masks


# %%
def train(*callbacks):
    keras.utils.set_random_seed(0)
    conv = keras.layers.Conv2D
    model = keras.Sequential(
        [
            keras.Input((16, 16, 1)),
            conv(16, 3, padding="same", activation="relu", name="conv1"),
            conv(16, 3, padding="same", activation="relu", name="conv2"),
            conv(3, 1, activation="softmax", name="classes"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    x, y = scenes(data.train, 0)
    model.fit(x, y, epochs=EPOCHS, callbacks=list(callbacks), verbose=0)
    return model


# %%
ramp = tfc.schedules.Linear(0.0, 0.5, begin=0, end=EPOCHS / 2)
report = tfc.report.compare(
    {
        "dense": train(),
        "half of the filters": tfc.finalize(train(tfc.callbacks.FilterPruning(ramp))),
    },
    data=scenes(data.test, 1),
    calibration=scenes(data.train, 0)[0][:300],
    class_names=["background", "thin", "thick"],
    title="Finding the ink of a digit",
)
print(report)
report.save("segmentation.html")
report.save("segmentation.json")
