# %% [markdown]
"""Prune single weights, then hand the network over to approximate multipliers.

Dynamic network surgery (Y. Guo et al., 2016) masks small weights, which may return.
Incremental approximation then replaces exact products by those of DRUM multipliers
(S. Hashemi et al., 2015), some weights at a time, while the others make up for them.
"""

# %%
import os

import keras

import tfcompress as tfc

EPOCHS = int(os.environ.get("EPOCHS", 8))

keras.utils.set_random_seed(0)
data = tfc.data.load("digits")
train = data.pipeline("train", batch_size=32, augment="shift")
model = tfc.zoo.lenet5(input_shape=data.input_shape, classes=data.classes)


# %%
def fit(model, epochs, *callbacks):
    """Trains a model that has been compiled anew."""
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(train, epochs=epochs, callbacks=list(callbacks), verbose=2)
    accuracy = model.evaluate(data.test.images, data.test.labels, verbose=0)[1]
    cost = tfc.cost.count(model)
    energy = tfc.cost.energy(cost, "cross_stack_65nm", products="gated").total
    print(f"{accuracy:.2%}, {cost.sparsity:.0%} pruned, {1e6 * energy:.0f} µJ modeled")


# %%
fit(model, 2 * EPOCHS)

# %%
model = tfc.layers.wrap_kernels(model, tfc.layers.MaskedKernel)
fit(model, EPOCHS, tfc.callbacks.DynamicSurgery("aggressive"))

# %%
# 2 and 6 significant bits of weights and activations.
model = tfc.layers.wrap_kernels(
    model, lambda layer: tfc.layers.DrumMultiply(layer, 2, 6)
)
fit(model, EPOCHS, tfc.callbacks.IncrementalApproximation(10))
