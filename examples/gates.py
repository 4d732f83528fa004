# %% [markdown]
"""Learn which residual blocks a network needs, while it trains.

After: X. Zhi et al., "A New Baseline for GreenAI: Finding the Optimal Sub-Network via
Layer and Channel Pruning" (2023). A small gate beside each residual branch opens or
closes it. Penalties make every gate decide alike for all images, and close.
"""

# %%
import os

import keras

import tfcompress as tfc

EPOCHS = int(os.environ.get("EPOCHS", 8))

keras.utils.set_random_seed(0)
data = tfc.data.load("digits")
dense = tfc.zoo.resnet20(width=0.25, input_shape=data.input_shape, classes=data.classes)

# %%
model = tfc.gates.add_layer_gates(dense, seed=0)
model.compile(
    keras.optimizers.SGD(0.1, momentum=0.9),
    "sparse_categorical_crossentropy",
    metrics=["accuracy"],
)
model.fit(
    data.pipeline("train", batch_size=64, augment="shift"),
    validation_data=data.pipeline("validation"),
    epochs=EPOCHS,
    callbacks=[tfc.callbacks.GatePenalty(polarization=3.0, activation=0.5)],
    verbose=2,
)

# %%
print(tfc.gates.measure(model, data.test.images))  # how often each gate is open
# Without gates and closed blocks; gates that are still undecided go by majority.
small = tfc.finalize(model, data.train.images, threshold=0.5)
macs = [tfc.cost.count(m).macs for m in (dense, small)]
print(f"{macs[0]:,} multiply–accumulates, {macs[1]:,} after closing blocks")
small.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
small.evaluate(data.test.images, data.test.labels, verbose=2)
