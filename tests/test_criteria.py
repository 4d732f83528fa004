import inspect
import json

import keras
import numpy as np
import pytest
from keras import layers

import tfcompress as tfc
from tfcompress import criteria


@pytest.fixture
def model():
    inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(5, 3, padding="same", activation="relu", name="first")(inputs)
    y = layers.Conv2D(5, 3, padding="same", name="second")(x)
    y = layers.BatchNormalization(name="norm")(y)
    x = layers.ReLU(name="relu")(layers.Add()([x, y]))
    return keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x)))


def score(criterion, model, name):
    group = tfc.structure.channel_groups(model).of(name)
    (scores,) = criteria.get(criterion)(model, [group])
    assert scores.shape == (group.size,)
    return scores


def single(**kwargs):
    return keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Conv2D(5, 3, name="conv", **kwargs),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )


@pytest.mark.parametrize(("name", "order"), [("l1", 1), ("l2", 2)])
def test_norms_rank_filters_like_numpy(name, order):
    model = single()
    filters = model.get_layer("conv").get_weights()[0].reshape(-1, 5)
    norms = np.linalg.norm(filters, ord=order, axis=0)
    np.testing.assert_allclose(
        score(name, model, "conv"), norms / norms.mean(), rtol=1e-6
    )


def test_coupled_layers_add_their_normalized_scores(model):
    total = 0
    for name in ("first", "second"):
        kernel = model.get_layer(name).get_weights()[0]
        norms = np.abs(kernel).mean(axis=(0, 1, 2))
        total = total + norms / norms.mean()
    np.testing.assert_allclose(score("l1", model, "first"), total, rtol=1e-6)


def test_a_layer_with_large_weights_does_not_outvote_the_others(model):
    before = score("l2", model, "first")
    kernel = model.get_layer("second").kernel
    kernel.assign(kernel * 1000.0)
    np.testing.assert_allclose(score("l2", model, "first"), before, rtol=1e-5)


def test_weights_that_read_pruned_channels_of_several_groups_do_not_count():
    inputs = keras.Input((6, 6, 2))
    parts = [layers.Conv2D(n, 3, name=name)(inputs) for name, n in (("a", 4), ("b", 5))]
    x = layers.Conv2D(3, 1, name="reader")(layers.Concatenate()(parts))
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))
    groups = tfc.structure.channel_groups(model)
    pruned = {"a": np.array([1, 3]), "b": np.array([2, 4])}
    scores = dict(
        zip(
            [group.name for group in groups],
            criteria.L1Norm()(model, groups, pruned),
            strict=True,
        )
    )
    kernel = model.get_layer("reader").get_weights()[0][0, 0]
    norms = np.abs(kernel[[0, 2, 4, 5, 7]]).mean(axis=0)
    np.testing.assert_allclose(scores["reader"], norms / norms.mean(), rtol=1e-6)


def test_random_depends_on_the_seed_only():
    first, second = single(), single()
    again = score(criteria.Random(3), first, "conv")
    np.testing.assert_array_equal(again, score(criteria.Random(3), second, "conv"))
    assert (again != score(criteria.Random(4), first, "conv")).all()


def test_mean_activation_equals_the_mean_feature_map():
    model = single(activation="relu")
    data = np.random.default_rng(0).normal(size=(300, 6, 6, 2)).astype("float32")
    maps = model.get_layer("conv")(data)
    means = np.asarray(maps).mean(axis=(0, 1, 2))
    expected = means / means.mean()
    # Every sample counts as much as any other, also in the last, smaller batch.
    for given in (data, iter([data[:128], (data[128:256], None), [data[256:]]])):
        actual = score(criteria.MeanActivation(given), model, "conv")
        np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_mean_activation_is_read_after_normalization_and_activation():
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Conv2D(5, 3, name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.Dropout(0.5),
            layers.ReLU(name="relu"),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )
    model.get_layer("norm").beta.assign([-9.0, 1.0, 2.0, 3.0, 4.0])
    data = np.random.default_rng(0).normal(size=(50, 6, 6, 2)).astype("float32")
    scores = score(criteria.MeanActivation(data), model, "conv")
    assert scores[0] == 0
    assert list(np.argsort(scores)) == [0, 1, 2, 3, 4]


def test_mean_activation_sees_layers_of_nested_models():
    inner = single(activation="relu")
    outer = keras.Sequential([keras.Input((6, 6, 2)), inner])
    data = np.random.default_rng(0).normal(size=(20, 6, 6, 2)).astype("float32")
    group = tfc.structure.channel_groups(outer)[0]
    criterion = criteria.MeanActivation(data)
    np.testing.assert_allclose(
        criterion(outer, [group])[0], score(criterion, inner, "conv"), rtol=1e-5
    )


def behind_normalization(activate):
    inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(4, 3, name="conv")(inputs)
    x = activate(layers.BatchNormalization(name="norm")(x))
    return keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))


def one_by_one():
    model = keras.Sequential()
    model.add(keras.Input((6, 6, 2)))
    model.add(layers.Conv2D(4, 3, name="conv"))
    model.add(layers.BatchNormalization(name="norm"))
    model.add(layers.ReLU())
    model.add(layers.Flatten())
    model.add(layers.Dense(2))
    return model


@pytest.mark.parametrize(
    "make",
    [
        lambda: behind_normalization(layers.ReLU()),
        lambda: behind_normalization(keras.ops.relu),
        one_by_one,
    ],
    ids=["layer", "operation", "add"],
)
def test_mean_activation_is_measured_behind_normalization_and_activation(make):
    model = make()
    # Filter i hands on i after the activation: 1.5 on average, by which scores divide.
    # Before the activation, filter 0 is the largest.
    model.get_layer("norm").gamma.assign([0.0] * 4)
    model.get_layer("norm").beta.assign([-9.0, 1.0, 2.0, 3.0])
    data = np.ones((4, 6, 6, 2), "float32")
    np.testing.assert_allclose(
        score(criteria.MeanActivation(data), model, "conv"),
        np.arange(4) / 1.5,
        atol=1e-6,
    )


def test_mean_activation_leaves_the_model_as_it_was(model):
    data = np.zeros((4, 6, 6, 2), "float32")
    score(criteria.MeanActivation(data), model, "first")
    assert not any("call" in vars(layer) for layer in model.layers)


@pytest.mark.parametrize("name", ["l1", "l2", "random", "mean_activation"])
def test_names_and_configurations_stand_for_criteria(name):
    criterion = criteria.get(name)
    config = json.loads(json.dumps(criteria.serialize(criterion)))
    again = criteria.get(config)
    assert type(again) is type(criterion)
    assert again.get_config() == criterion.get_config()
    assert criteria.get(criterion) is criterion


def test_data_is_no_configuration():
    with pytest.raises(ValueError, match="MeanActivation with `data`"):
        criteria.MeanActivation(np.zeros((1, 2))).get_config()


def test_bad_identifiers_are_refused():
    with pytest.raises(ValueError, match=r"'l1'.*Received: 'l7'"):
        criteria.get("l7")
    with pytest.raises(TypeError, match="Received: 3"):
        criteria.get(3)
    relu = keras.saving.serialize_keras_object(layers.ReLU())
    with pytest.raises(ValueError, match="description of a criterion"):
        criteria.get(relu)


@pytest.mark.parametrize("seed", [-1, 0.5, True])
def test_bad_seeds_are_refused(seed):
    with pytest.raises((TypeError, ValueError), match="argument `seed`"):
        criteria.Random(seed)


def nested():
    base = keras.Sequential(
        [keras.Input((6, 6, 2)), layers.Conv2D(4, 3, activation="relu", name="c2")],
        name="base",
    )
    inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(3, 1, name="head")(base(inputs))
    return keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))


def test_a_criterion_from_the_docstring_works_on_nested_models():
    text = inspect.getdoc(criteria.Criterion)
    names = {"tfc": tfc, "np": np, "keras": keras}
    exec(text.partition("```python\n")[2].partition("```")[0], names)
    model = nested()
    groups = tfc.structure.channel_groups(model)
    largest = np.abs(model.get_layer("base").get_layer("c2").kernel).max(axis=(0, 1, 2))
    found = criteria.score(names["LargestWeight"](), model, [groups.of("base/c2")])
    np.testing.assert_allclose(found[0], largest / largest.mean(), rtol=1e-6)
    model.compile("sgd", "mse")
    callback = tfc.callbacks.FilterPruning(0.5, criterion=names["LargestWeight"]())
    model.fit(np.ones((8, 6, 6, 2)), np.ones((8, 2)), verbose=0, callbacks=[callback])
    kept = (
        np.abs(model.get_layer("base").get_layer("c2").kernel).max(axis=(0, 1, 2)) > 0
    )
    np.testing.assert_array_equal(
        np.flatnonzero(kept), np.sort(np.argsort(largest)[2:])
    )


@pytest.mark.parametrize("name", ["l1", "l2", "mean_activation"])
def test_scores_that_are_nan_mean_that_training_diverged(name):
    model = single()
    model.get_layer("conv").kernel.assign(np.full((3, 3, 2, 5), np.nan))
    criterion = name
    if name == "mean_activation":
        criterion = criteria.MeanActivation(np.ones((4, 6, 6, 2)))
    with pytest.raises(ValueError, match="Training has diverged"):
        score(criterion, model, "conv")


def test_scores_of_a_criterion_are_checked():
    class Odd(criteria.Criterion):
        def __init__(self, scores):
            self.scores = scores

        def __call__(self, model, groups, pruned=None):
            return self.scores

    model = single()
    group = tfc.structure.channel_groups(model).of("conv")
    for scores in ([], [np.zeros(4)], [np.zeros((5, 1))]):
        with pytest.raises(ValueError, match=r"`criterion`.*\[\(5,\)\].*Odd"):
            criteria.score(Odd(scores), model, [group])
    with pytest.raises(ValueError, match="Training has diverged"):
        criteria.score(Odd([np.full(5, np.nan)]), model, [group])
