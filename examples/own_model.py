# %% [markdown]
"""A model of your own, with data of your own.

Any Functional or Sequential model will do, with any data that `fit` takes. What
depends on what is found out, and what is not understood is left alone, with a reason.
"""

# %%
import os

import keras
import numpy as np
from keras import layers

import tfcompress as tfc

EPOCHS = int(os.environ.get("EPOCHS", 20))

# %%
# Your data: two noisy waves of 64 samples. Which has the higher frequency?
rng = np.random.default_rng(0)
frequencies = rng.uniform(1, 8, (2000, 2, 1))
waves = np.sin(frequencies * np.linspace(0, 2 * np.pi, 64)).transpose(0, 2, 1)
x = (waves + rng.normal(0, 0.3, waves.shape)).astype("float32")  # (2000, 64, 2)
y = (frequencies[:, 0, 0] > frequencies[:, 1, 0]).astype("int32")

# %%
# Your model: a residual block on the way.
inputs = keras.Input((64, 2))
stem = layers.Conv1D(32, 5, strides=2, activation="relu", name="stem")(inputs)
branch = layers.Conv1D(64, 3, padding="same", activation="relu", name="a")(stem)
branch = layers.Conv1D(32, 3, padding="same", name="b")(branch)
hidden = layers.GlobalMaxPooling1D()(layers.ReLU()(layers.add([stem, branch])))
outputs = layers.Dense(1, activation="sigmoid", name="head")(hidden)
model = keras.Model(inputs, outputs)
model.compile("adam", "binary_crossentropy", metrics=["accuracy"])
print(tfc.structure.channel_groups(model))  # what can be removed, and why not

# %%
schedule = tfc.schedules.Linear(0.0, 0.75, begin=0, end=EPOCHS / 2)
pruning = tfc.callbacks.FilterPruning(schedule)
model.fit(x, y, validation_split=0.2, epochs=EPOCHS, callbacks=[pruning], verbose=2)

# %%
small = tfc.finalize(model)
print(tfc.report.compare({"before": model, "after": small}, data=(x, y)))
tfc.export.to_tflite(small, "small.tflite", quantization="int8", calibration=x[:200])
