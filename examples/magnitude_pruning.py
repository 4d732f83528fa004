# %% [markdown]
"""Prune single weights while a network trains, the smallest first.

After: M. Zhu and S. Gupta, "To prune, or not to prune: exploring the efficacy of
pruning for model compression" (2017). The sparsity grows fast at first and slowly
toward the end; pruned weights are zero and stay so.
"""

# %%
import os

import keras

import tfcompress as tfc

EPOCHS = int(os.environ.get("EPOCHS", 20))

keras.utils.set_random_seed(0)
data = tfc.data.load("digits")
train = data.pipeline("train", batch_size=32, augment="shift")
model = tfc.zoo.lenet5(input_shape=data.input_shape, classes=data.classes)
model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])

# %%
steps = EPOCHS * len(train)
schedule = tfc.schedules.Polynomial(0.0, 0.9, begin=steps // 4, end=3 * steps // 4)
pruning = tfc.callbacks.MagnitudePruning(schedule)
model.fit(
    train,
    validation_data=data.pipeline("validation"),
    epochs=EPOCHS,
    callbacks=[pruning],
    verbose=2,
)

# %%
model.evaluate(data.test.images, data.test.labels, verbose=2)
print(f"{tfc.cost.count(model).sparsity:.0%} of the weights are zero")
print(tfc.export.pack(model, "sparse.tfcz"))  # which stores no zeros
