# %% [markdown]
"""A report on an image classifier: dense, and with 60 % of its filters pruned.

It shows accuracy with its confidence, classes and what they are taken for, wrong
samples, and what an accelerator and a microcontroller make of the files.
"""

# %%
import os

import keras

import tfcompress as tfc

EPOCHS = int(os.environ.get("EPOCHS", 20))

# %%
data = tfc.data.load("digits")


def train(*callbacks):
    keras.utils.set_random_seed(0)
    model = tfc.zoo.lenet5(
        width=0.5, input_shape=data.input_shape, classes=data.classes
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    history = model.fit(
        data.pipeline("train", batch_size=32),
        validation_data=data.pipeline("validation"),
        epochs=EPOCHS,
        callbacks=list(callbacks),
        verbose=0,
    )
    return model, history


# %%
dense, first = train()
ramp = tfc.schedules.Linear(0.0, 0.6, begin=0, end=EPOCHS / 2)
pruned, second = train(tfc.callbacks.FilterPruning(ramp))

# %%
report = tfc.report.compare(
    {"dense": dense, "60 % of filters pruned": tfc.finalize(pruned)},
    data=data,
    calibration=data.train.images[:300],
    targets=["ethos-u55-128", "microcontroller"],
    histories={"dense": first, "60 % of filters pruned": second},
    title="Classifying digits",
)
print(report)
report.save("classifier.html")
report.save("classifier.json")
