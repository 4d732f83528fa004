"""Shrinking a trained network changes no prediction's accuracy."""

import keras

import tfcompress as tfc


def test_accuracy_before_equals_accuracy_after_on_mnist(mnist_dir):
    data = tfc.data.load("mnist", data_dir=mnist_dir, limit=4000)
    model = tfc.zoo.lenet5()
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    pruning = tfc.callbacks.FilterPruning(
        tfc.schedules.Linear(0.0, 0.6, begin=0, end=1)
    )
    images, labels = data.train.images, data.train.labels
    model.fit(images, labels, epochs=2, callbacks=[pruning], verbose=0)
    small = tfc.structure.shrink(model)
    assert small.count_params() < model.count_params() / 3
    test_images, test_labels = data.test.images, data.test.labels
    before, after = (
        network.evaluate(test_images, test_labels, verbose=0)[1]
        for network in (model, small)
    )
    assert before > 0.8
    assert before == after
    assert isinstance(small.optimizer, keras.optimizers.Adam)
