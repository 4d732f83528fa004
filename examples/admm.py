# %% [markdown]
"""Few weights, on few levels, in a small file.

After: A. Ren et al., "ADMM-NN: an algorithm-hardware co-design framework of DNNs using
alternating direction methods of multipliers" (2019). Training is pulled toward a set
of weights, is projected onto it, and goes on with what is free.
"""

# %%
import os

import keras

import tfcompress as tfc
from tfcompress.constraints import Cardinality, Levels
from tfcompress.training import AdmmPhase

EPOCHS = int(os.environ.get("EPOCHS", 5))

keras.utils.set_random_seed(0)
data = tfc.data.load("digits")
model = tfc.zoo.lenet5(input_shape=data.input_shape, classes=data.classes)
model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
train = data.pipeline("train", batch_size=32)
model.fit(train, epochs=2 * EPOCHS, verbose=2)
print(tfc.export.pack(model, "dense.tfcz"))

# %%
plan = [
    AdmmPhase(Cardinality(fraction=0.2), admm_epochs=EPOCHS, retrain_epochs=EPOCHS),
    AdmmPhase(Cardinality(fraction=0.1), admm_epochs=EPOCHS, retrain_epochs=EPOCHS),
    AdmmPhase(Levels(bits=4), admm_epochs=EPOCHS, retrain_epochs=EPOCHS),
]
result = tfc.training.admm_compress(model, plan, train, verbose=0)
print(result)  # what each phase has left

# %%
print(tfc.export.pack(result.model, "small.tfcz"))
small = tfc.export.unpack("small.tfcz")  # the same numbers, bit by bit
small.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
small.evaluate(data.test.images, data.test.labels, verbose=2)
