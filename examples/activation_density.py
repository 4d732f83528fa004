# %% [markdown]
"""Give each layer as many channels as its activations are dense.

After: T. Foldy-Porto et al., "Activation Density driven Efficient Pruning in
Training" (2020). A layer of which 40 % of the activations are not zero gets 40 % of
its channels; the narrower network is trained in turn.
"""

# %%
import os

import keras

import tfcompress as tfc

EPOCHS = int(os.environ.get("EPOCHS", 20))

keras.utils.set_random_seed(0)
data = tfc.data.load("digits")
model = tfc.zoo.lenet5(input_shape=data.input_shape, classes=data.classes)
model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])

# %%
result = tfc.training.resize_by_density(
    model,
    data.pipeline("train", batch_size=32, augment="shift"),
    validation_data=data.pipeline("validation"),
    epochs=EPOCHS,  # of the last network
    round_epochs=max(1, EPOCHS // 2),  # of those that are resized, at most
    max_rounds=1,
    weights="inherit",  # "random", as in the paper, needs more images and epochs
    seed=0,
    verbose=2,
)

# %%
print(result)  # widths, accuracy and cost of each network
result.model.evaluate(data.test.images, data.test.labels, verbose=2)
result.model.save("sized.keras")
