import keras
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
        ({"layers": ["stam"]}, "argument `layers`.*'stem'.*Received: 'stam'"),
        ({"exclude": ["conv"]}, "argument `exclude`.*'inner/conv'.*Received: 'conv'"),
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
