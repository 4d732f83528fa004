import keras
import numpy as np
import pytest
from keras import layers

import tfcompress as tfc
from tfcompress import policy


@pytest.fixture
def model():
    inputs = keras.Input((4, 4, 1))
    stem = layers.Conv2D(3, 3, padding="same", name="stem")(inputs)
    branch = layers.Conv2D(3, 3, padding="same", name="branch")(stem)
    inner = keras.Sequential(
        [keras.Input((4, 4, 3)), layers.Conv2D(5, 1, name="conv")], name="inner"
    )
    x = inner(layers.Add(name="add")([stem, branch]))
    x = layers.Flatten(name="flatten")(x)
    return keras.Model(inputs, layers.Dense(2, name="logits")(x))


def select(model, **kwargs):
    groups = tfc.structure.channel_groups(model)
    return policy.select_groups(groups, model, **kwargs)


def needs_kernel(layer):
    return None if hasattr(layer, "kernel") else "has no kernel"


def test_nested_layers_are_named_by_their_path(model):
    assert list(policy.named_layers(model))[-3:] == ["inner/conv", "flatten", "logits"]


def test_everything_prunable_is_chosen_and_the_rest_has_a_reason(model):
    selection = select(model)
    assert list(selection.chosen) == ["stem", "inner/conv"]
    assert list(selection.skipped) == ["logits"]
    assert "skipped: logits" in str(selection)


def test_naming_one_layer_selects_what_it_is_coupled_to(model):
    assert select(model, layers=["branch"]).chosen["stem"].producers == (
        "stem",
        "branch",
    )


def test_excluding_one_layer_excludes_what_it_is_coupled_to(model):
    selection = select(model, exclude=["branch", "flatten"])
    assert list(selection.chosen) == ["inner/conv"]
    assert selection.skipped["stem"] == "excluded by name"


def test_layers_are_selected_by_what_the_method_can_do(model):
    selection = policy.select_layers(model, needs_kernel, exclude=["logits"])
    assert list(selection.chosen) == ["stem", "branch", "inner/conv"]
    assert selection.skipped["add"] == "has no kernel"
    only = policy.select_layers(model, needs_kernel, layers=["stem"])
    assert list(only.chosen) == ["stem"]
    assert only.skipped["branch"] == "not among the named layers"


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"layers": ["stam"]}, r"argument `layers`.*'stam'. Did you mean \['stem'\]"),
        ({"exclude": ["cunv"]}, "argument `exclude`.*'cunv'.*'inner/conv'"),
        ({"layers": ["add"]}, "argument `layers`.*Received: 'add'"),
        ({"layers": ["stem"], "exclude": ["stem"]}, "argument `exclude`.*stem"),
        ({"layers": []}, "at least one"),
    ],
)
def test_names_that_make_no_sense_are_refused(model, kwargs, message):
    with pytest.raises(ValueError, match=message):
        select(model, **kwargs)
    with pytest.raises(ValueError, match=message):
        policy.select_layers(model, needs_kernel, **kwargs)


def test_the_last_layer_cannot_be_named(model):
    with pytest.raises(ValueError, match=r"argument `layers`.*'logits'"):
        select(model, layers=["logits"])


@pytest.mark.parametrize("names", ["stem", [1], 3])
def test_names_must_be_a_list_of_strings(model, names):
    with pytest.raises(TypeError, match=r"argument `layers`.*list of names"):
        select(model, layers=names)


def test_the_last_part_of_a_name_is_enough_where_it_is_unambiguous(model):
    assert list(select(model, layers=["conv"]).chosen) == ["inner/conv"]
    assert list(select(model, exclude=["conv"]).chosen) == ["stem"]
    chosen = policy.select_layers(model, needs_kernel, layers=["conv"]).chosen
    assert list(chosen) == ["inner/conv"]
    assert policy.by_full_name({"conv": 1, "stem": 2}, policy.named_layers(model), "x")[
        "inner/conv"
    ]
    with pytest.raises(ValueError, match=r"argument `bits`.*another key for 'inner/c"):
        policy.by_full_name(
            {"conv": 1, "inner/conv": 2}, policy.named_layers(model), "bits"
        )


def test_a_name_that_stands_for_several_layers_is_refused():
    def block(name):
        return keras.Sequential([layers.Dense(3, name="fc")], name=name)

    model = keras.Sequential([keras.Input((2,)), block("a"), block("b")])
    for name in ("layers", "exclude"):
        with pytest.raises(ValueError, match=rf"`{name}`.*'a/fc', 'b/fc'"):
            policy.select_layers(model, needs_kernel, **{name: ["fc"]})


METHODS = {
    "schedule": lambda keys: tfc.callbacks.FilterPruning(dict.fromkeys(keys, 0.5)),
    "schedule ": lambda keys: tfc.callbacks.MagnitudePruning(dict.fromkeys(keys, 0.5)),
    "constraints": lambda keys: tfc.callbacks.ADMM(
        dict.fromkeys(keys, tfc.constraints.Cardinality(fraction=0.5))
    ),
}


@pytest.mark.parametrize("argument", METHODS)
def test_keys_of_a_dict_are_names_and_blamed_as_what_they_are(model, argument):
    model.compile("sgd", "mse")
    x, y = np.ones((4, 4, 4, 1)), np.ones((4, 2))
    method = METHODS[argument]
    model.fit(x, y, verbose=0, epochs=2, callbacks=[method(["conv", "stem"])])
    zeros = np.asarray(policy.named_layers(model)["inner/conv"].kernel) == 0
    assert zeros.mean() >= (0.3 if argument.startswith("schedule") else 0)
    for wrong in ("cunv", "flatten"):
        with pytest.raises(ValueError, match=f"argument `{argument.strip()}`") as info:
            model.fit(x, y, verbose=0, callbacks=[method([wrong, "stem"])])
        assert str(info.value).count(wrong) == 1


def test_reasons_are_given_once_for_many_layers(model):
    model.trainable = False
    with pytest.raises(ValueError, match="at least one") as info:
        policy.select_kernels(model)
    assert str(info.value).count("trainable=False") == 1
