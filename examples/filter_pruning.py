# %% [markdown]
"""Prune filters while a network trains, then remove them.

After: S. Roy et al., "Pruning filters while training for efficiently optimizing deep
learning networks" (2020). A few filters are switched off in every epoch, the weakest
first; the epochs that follow make up for them.
"""

# %%
import os

import keras

import tfcompress as tfc

EPOCHS = int(os.environ.get("EPOCHS", 30))

keras.utils.set_random_seed(0)
data = tfc.data.load("digits")
model = tfc.zoo.lenet5(input_shape=data.input_shape, classes=data.classes)
model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])

# %%
# From none to 60 % of the filters of each layer, in the first two thirds of the epochs.
schedule = tfc.schedules.Linear(0.0, 0.6, begin=0, end=2 * EPOCHS / 3)
model.fit(
    data.pipeline("train", batch_size=32, augment="shift"),
    validation_data=data.pipeline("validation"),
    epochs=EPOCHS,
    callbacks=[tfc.callbacks.FilterPruning(schedule)],
    verbose=2,
)

# %%
small = tfc.finalize(model)  # an ordinary Keras model, the same function
print(f"{model.count_params():,} parameters, {small.count_params():,} after pruning")
model.evaluate(data.test.images, data.test.labels, verbose=2)
small.compile(metrics=["accuracy"], loss="sparse_categorical_crossentropy")
small.evaluate(data.test.images, data.test.labels, verbose=2)
small.save("small.keras")
