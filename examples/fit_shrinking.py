# %% [markdown]
"""Prune filters while a network trains, and train faster as it gets smaller.

`training.fit_shrinking` takes the place of `fit`: every few epochs the model is
replaced by a smaller one without the filters that have been pruned. The optimizer's
state, the callbacks and the history go on.
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
before = tfc.cost.count(model)

# %%
schedule = tfc.schedules.Linear(0.0, 0.6, begin=0, end=2 * EPOCHS / 3)
small = tfc.training.fit_shrinking(
    model,
    data.pipeline("train", batch_size=32, augment="shift"),
    validation_data=data.pipeline("validation"),
    epochs=EPOCHS,
    shrink_every=5,  # each removal takes a second or two: not after every epoch
    callbacks=[tfc.callbacks.FilterPruning(schedule)],
    verbose=2,
)

# %%
after = tfc.cost.count(small)
print(f"{before.macs:,} multiply–accumulates, {after.macs:,} after pruning")
small.evaluate(data.test.images, data.test.labels, verbose=2)
small.save("small.keras")
