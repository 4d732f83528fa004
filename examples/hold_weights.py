# %% [markdown]
"""Zero the small weights of a trained network, and train what is left.

One-shot magnitude pruning: `hard_prune` projects the kernels onto those with a given
fraction of non-zero weights, `HoldWeights` keeps the zeros while the rest recovers.
"""

# %%
import os

import keras
import numpy as np

import tfcompress as tfc

EPOCHS = int(os.environ.get("EPOCHS", 10))

keras.utils.set_random_seed(0)
data = tfc.data.load("digits")
train = data.pipeline("train", batch_size=32, augment="shift")
model = tfc.zoo.lenet5(input_shape=data.input_shape, classes=data.classes)
model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
model.fit(train, epochs=EPOCHS, verbose=2)

# %%
left = tfc.training.hard_prune(
    model,
    tfc.constraints.Cardinality(fraction=0.1),
    exclude=["conv1", "classifier"],  # small, and crucial
)
print("weights that are left:", left)
model.evaluate(data.test.images, data.test.labels, verbose=2)

# %%
model.fit(train, epochs=EPOCHS, callbacks=[tfc.callbacks.HoldWeights()], verbose=2)
for name, count in left.items():
    assert np.count_nonzero(model.get_layer(name).kernel.numpy()) <= count
model.evaluate(data.test.images, data.test.labels, verbose=2)
print(tfc.export.pack(model, "sparse.tfcz"))  # stores no zeros
