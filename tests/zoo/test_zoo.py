"""Counts are checked against hand formulas and the papers, by a counter of the
test's own: kernel size times output positions."""

import math
from functools import cache

import keras
import numpy as np
import pytest

from tfcompress import zoo

TRAINED = [
    zoo.lenet5,
    zoo.vgg16,
    zoo.vgg19,
    zoo.resnet18,
    zoo.resnet8,
    zoo.ds_cnn,
    zoo.resnet20,  # the deeper ones are the same code and slow to compile
    zoo.alexnet,
]
OTHER_ARGUMENTS = ("cross_stack", "autoencoder")
FUNCTIONS = [getattr(zoo, name) for name in zoo.__all__ if name not in OTHER_ARGUMENTS]
CROSS_STACK = [
    (dataset, variant)
    for dataset in ("cifar10", "cifar100", "stl10")
    for variant in ("regular", "shallow")
] + [("imagenet", "regular")]

VGG19_TABLE_1 = {
    "cifar10_net1": (
        [18, 23, 47, 25, 54, 51, 62, 61, 197, 258, 378, 322, 402, 383, 259, 134],
        (3.1, 5.6),
    ),
    "cifar10_net2": (
        [10, 9, 30, 11, 21, 31, 22, 21, 62, 70, 113, 141, 256, 299, 194, 71],
        (10.3, 27.4),
    ),
    "cifar100_net1": (
        [34, 23, 51, 30, 63, 63, 73, 82, 210, 285, 333, 357, 317, 259, 181, 106],
        (3.9, 5.3),
    ),
}
REGULAR = [128, 128, 256, 256, 512, 512, 1024]
SHALLOW = [256, 256, 512, 1024, 2048]
RESNET18_NET1 = [34, 29, 41, 25, 33, 58, 78, 27, 65, 71, 83, 46, 69, 120, 191, 219, 288]


def is_counted(layer):
    return isinstance(layer, (keras.layers.Conv2D, keras.layers.Dense))


def macs(model):
    """Multiply–accumulates of each convolution and dense layer, by name."""
    return {
        layer.name: math.prod(layer.output.shape[1:-1]) * math.prod(layer.kernel.shape)
        for layer in model.layers
        if is_counted(layer)
    }


def weights(model):
    """Size of each kernel, by name."""
    return {
        layer.name: math.prod(layer.kernel.shape)
        for layer in model.layers
        if is_counted(layer)
    }


def convolutions(counts, *, shortcuts=False):
    return sum(
        count
        for name, count in counts.items()
        if name.startswith("conv") and (shortcuts or "shortcut" not in name)
    )


def chain_macs(channels, sizes, kernel=3):
    """By hand: `channels` has one entry more than `sizes`, the input's."""
    return sum(
        kernel**2 * before * after * size**2
        for before, after, size in zip(channels, channels[1:], sizes, strict=False)
    )


@cache
def built(function, *arguments):
    """The network at full size; some take a second to initialize."""
    return function(*arguments)


def small(function, **options):
    """The network at a small width, quick to build and run."""
    return function(width=0.1, classes=7, **options)


# What all networks have in common --------------------------------------------


@pytest.mark.parametrize("function", TRAINED, ids=lambda function: function.__name__)
def test_network_gives_probabilities_and_learns(function):
    options = {"input_shape": (67, 67, 3)} if function is zoo.alexnet else {}
    model = small(function, **options)
    assert model.name == function.__name__
    assert model.layers[-1].name == "classifier"
    images = np.random.default_rng(0).random((4, *model.input_shape[1:]), "float32")
    probabilities = model.predict_on_batch(images)
    assert probabilities.shape == (4, 7)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    model.compile("sgd", "sparse_categorical_crossentropy")
    before = [np.array(v) for v in model.trainable_variables]
    model.train_on_batch(images, np.arange(4))
    changed = [
        (np.array(v) != b).any()
        for v, b in zip(model.trainable_variables, before, strict=True)
    ]
    assert np.mean(changed) > 0.9


@pytest.mark.parametrize("function", [zoo.lenet5, zoo.vgg16, zoo.resnet20])
def test_network_survives_saving(function, tmp_path):
    model = small(function)
    path = tmp_path / "model.keras"
    model.save(path)
    images = np.random.default_rng(0).random((2, *model.input_shape[1:]), "float32")
    np.testing.assert_array_equal(keras.models.load_model(path)(images), model(images))


def test_layer_names_do_not_depend_on_what_was_built_before():
    for function in (zoo.lenet5, zoo.vgg19, zoo.resnet20):
        first, second = (
            [layer.name for layer in small(function).layers[1:]] for _ in range(2)
        )
        assert first == second


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("width", 0),
        ("width", -1.0),
        ("width", float("inf")),
        ("width", "1"),
        ("classes", 1),
        ("classes", 10.0),
        ("input_shape", (32, 32)),
        ("input_shape", (3, 3, 1)),
        ("input_shape", (None, None, 3)),
        ("input_shape", (32.0, 32, 3)),
    ],
)
def test_bad_arguments_are_refused(function, argument, value):
    kind = TypeError if value == "1" else ValueError
    with pytest.raises(kind, match=f"argument `{argument}`.*Received"):
        function(**{argument: value})


def test_width_scales_every_hidden_layer_and_keeps_at_least_one_channel():
    half = zoo.vgg16(width=0.5)
    assert half.get_layer("conv1_1").filters == 32
    assert half.get_layer("conv5_3").filters == 256
    assert half.get_layer("fc2").units == 256
    assert half.get_layer("classifier").units == 10
    assert zoo.resnet20(width=0.001).get_layer("conv1").filters == 1


# LeNet-5 ---------------------------------------------------------------------


def test_lenet5_is_the_caffe_network():
    model = zoo.lenet5()
    by_hand = {"conv1": 25 * 20, "conv2": 25 * 20 * 50, "fc1": 800 * 500}
    assert weights(model) == {**by_hand, "classifier": 500 * 10}
    assert sum(weights(model).values()) == 430_500
    assert model.count_params() == 430_500 + 20 + 50 + 500 + 10
    assert macs(model)["conv1"] == 24**2 * 25 * 20
    assert macs(model)["conv2"] == 8**2 * 25 * 20 * 50


def test_lenet5_keeps_the_size_of_small_images():
    model = zoo.lenet5(input_shape=(8, 8, 1))
    assert model.get_layer("pool2").output.shape[1:] == (2, 2, 50)
    assert zoo.lenet5(input_shape=(16, 16, 1)).get_layer("pool2").output.shape[1:] == (
        1,
        1,
        50,
    )
    assert zoo.lenet5(input_shape=(4, 4, 1)).output.shape == (None, 10)


# VGG -------------------------------------------------------------------------


def test_vgg16_by_hand():
    channels = [3, 64, 64, 128, 128, *[256] * 3, *[512] * 6]
    sizes = [32, 32, 16, 16, *[8] * 3, *[4] * 3, *[2] * 3]
    model = zoo.vgg16()
    assert convolutions(macs(model)) == chain_macs(channels, sizes)
    normalized = sum(channels[1:]) + 2 * 512
    assert model.count_params() == (
        chain_macs(channels, [1] * 13) + 2 * 512**2 + 512 * 10 + 10 + 4 * normalized
    )


def test_vgg19_by_hand():
    channels = [3, 64, 64, 128, 128, *[256] * 4, *[512] * 8]
    sizes = [32, 32, 16, 16, *[8] * 4, *[4] * 4, *[2] * 4]
    model = built(zoo.vgg19)
    assert convolutions(macs(model)) == chain_macs(channels, sizes)
    assert sum(macs(model).values()) == chain_macs(channels, sizes) + 512 * 10


@pytest.mark.parametrize(
    ("depth", "channels", "sizes"),
    [
        (8, [3, 64, 64, 128, 128, *[256] * 4], [32, 32, 16, 16, *[8] * 4]),
        (3, [3, 64, 64, 128], [32, 32, 16]),
    ],
)
def test_vgg19_of_reduced_depth_by_hand(depth, channels, sizes):
    model = zoo.vgg19(depth=depth)
    assert convolutions(macs(model)) == chain_macs(channels, sizes)
    # The poolings stay, so that the classifier reads one pixel.
    assert model.get_layer("flatten").output.shape == (None, channels[-1])
    narrow = zoo.vgg19(widths=range(4, 4 + depth), depth=depth)
    assert [x.filters for x in narrow.layers if isinstance(x, keras.layers.Conv2D)] == (
        list(range(4, 4 + depth))
    )


@pytest.mark.parametrize("depth", [0, 17, 2.5])
def test_a_depth_that_there_is_not_is_refused(depth):
    with pytest.raises(ValueError, match=r"argument `depth`.*Received: depth="):
        zoo.vgg19(depth=depth)


@pytest.mark.parametrize("network", VGG19_TABLE_1)
def test_vgg19_reductions_of_the_activation_density_paper(network):
    widths, published = VGG19_TABLE_1[network]
    dense, pruned = built(zoo.vgg19), zoo.vgg19(widths=widths)
    ratios = [
        convolutions(count(dense)) / convolutions(count(pruned))
        for count in (weights, macs)
    ]
    np.testing.assert_allclose(ratios, published, atol=0.05)


@pytest.mark.parametrize(
    "widths", [[64] * 12, [64] * 14, [64] * 12 + [0], [64] * 12 + [1.5]]
)
def test_bad_widths_are_refused(widths):
    with pytest.raises(ValueError, match=r"argument `widths`.*13 positive integers"):
        zoo.vgg16(widths=widths)


def test_width_and_widths_exclude_each_other():
    with pytest.raises(ValueError, match=r"argument `width`.*Received: width=0.5"):
        zoo.vgg16(width=0.5, widths=[8] * 13)


# Residual networks -----------------------------------------------------------


def cifar_resnet_macs(blocks):
    first = 9 * 3 * 16 * 32**2
    stages = 2 * blocks * 9 * 16 * 16 * 32**2
    for channels, size in ((32, 16), (64, 8)):
        enter = 9 * (channels // 2) * channels * size**2
        stages += enter + (2 * blocks - 1) * 9 * channels**2 * size**2
        stages += channels // 2 * channels * size**2  # the shortcut
    return first + stages + 64 * 10


@pytest.mark.parametrize(
    ("function", "blocks"),
    [
        (zoo.resnet20, 3),
        (zoo.resnet32, 5),
        (zoo.resnet44, 7),
        (zoo.resnet56, 9),
        (zoo.resnet110, 18),
    ],
)
def test_cifar_resnets_by_hand(function, blocks):
    model = built(function)
    assert sum(macs(model).values()) == cifar_resnet_macs(blocks)
    assert sum(isinstance(x, keras.layers.Add) for x in model.layers) == 3 * blocks
    main = [name for name in weights(model) if "shortcut" not in name]
    assert len(main) == 6 * blocks + 2 == int(function.__name__.removeprefix("resnet"))


def test_resnet110_is_the_baseline_of_the_gating_paper():
    """255.3 M with two operations for each normalized element; 54 blocks."""
    model = built(zoo.resnet110)
    normalized = sum(
        math.prod(layer.output.shape[1:])
        for layer in model.layers
        if isinstance(layer, keras.layers.BatchNormalization)
    )
    total = sum(macs(model).values()) + 2 * normalized
    assert round(total / 1e6, 1) == 255.3
    assert sum(isinstance(x, keras.layers.Add) for x in model.layers) == 54


def test_resnet18_by_hand():
    channels = [3, *[64] * 5, *[128] * 4, *[256] * 4, *[512] * 4]
    sizes = [*[32] * 5, *[16] * 4, *[8] * 4, *[4] * 4]
    model = built(zoo.resnet18)
    assert convolutions(macs(model)) == chain_macs(channels, sizes)
    shortcuts = chain_macs([64, 128, 256, 512], [16, 8, 4], kernel=1)
    assert convolutions(macs(model), shortcuts=True) == (
        chain_macs(channels, sizes) + shortcuts
    )


def test_resnet18_reductions_of_the_activation_density_paper():
    dense, pruned = built(zoo.resnet18), zoo.resnet18(widths=RESNET18_NET1)
    ratios = [
        convolutions(count(dense)) / convolutions(count(pruned))
        for count in (weights, macs)
    ]
    np.testing.assert_allclose(ratios, (7.3, 6.0), atol=0.05)


# AlexNet and the cross-stack networks ----------------------------------------


def test_alexnet_layer_operations_of_the_admm_paper():
    published = (211, 448, 299, 224, 150, 75, 34, 8)
    model = zoo.alexnet()
    operations = [2 * count / 1e6 for count in macs(model).values()]
    np.testing.assert_allclose(operations, published, atol=0.6)
    assert round(model.count_params() / 1e6, 1) == 61.0


def test_ungrouped_alexnet_doubles_the_split_convolutions():
    options = {"width": 0.25, "classes": 10}
    grouped = macs(zoo.alexnet(**options))
    whole = macs(zoo.alexnet(grouped=False, **options))
    doubled = {name for name in grouped if whole[name] == 2 * grouped[name]}
    assert doubled == {"conv2", "conv4", "conv5"}
    assert all(whole[n] == grouped[n] for n in grouped if n not in doubled)


def test_alexnet_keeps_its_groups_at_odd_widths():
    model = zoo.alexnet(width=0.05, classes=2, input_shape=(67, 67, 3))
    filters = [model.get_layer(f"conv{i}").filters for i in range(1, 6)]
    assert filters == [4, 12, 20, 20, 12]  # 4.8, 12.8, 19.2, 19.2, 12.8 to even


def test_alexnet_refuses_a_grouping_that_is_no_bool():
    with pytest.raises(ValueError, match="argument `grouped`"):
        zoo.alexnet(grouped=2)


def test_cross_stack_cifar10_regular_has_the_published_energies():
    counts = list(macs(built(zoo.cross_stack, "cifar10", "regular")).values())
    published = [0.023, 1, 0.5, 1, 0.5, 1, 0.125, 0.000]
    normalized = np.array(counts) / max(counts)
    np.testing.assert_allclose(normalized, published, atol=5e-4)
    assert round(sum(counts) / 1e6, 1) == 626.4


@pytest.mark.parametrize(
    ("dataset", "variant", "filters", "sizes", "classes"),
    [
        ("cifar10", "regular", REGULAR, [32, 32, 16, 16, 8, 8, 2], 10),
        ("cifar100", "regular", REGULAR, [32, 32, 16, 16, 8, 8, 2], 100),
        ("cifar10", "shallow", SHALLOW, [32, 32, 16, 8, 2], 10),
        ("cifar100", "shallow", SHALLOW, [32, 32, 16, 8, 2], 100),
        ("stl10", "regular", [32, 64, 128, 128, 256, 256], [96, 48, 24, 12, 4, 2], 10),
        ("stl10", "shallow", [64, 128, 256, 512, 512], [96, 48, 24, 12, 8], 10),
    ],
)
def test_cross_stack_networks_by_hand(dataset, variant, filters, sizes, classes):
    model = built(zoo.cross_stack, dataset, variant)
    maps = [
        layer.output.shape[1:]
        for layer in model.layers
        if isinstance(layer, keras.layers.Conv2D)
    ]
    assert maps == [(s, s, c) for s, c in zip(sizes, filters, strict=True)]
    dense = filters[-1] * sizes[-1] ** 2 * classes
    assert sum(macs(model).values()) == chain_macs([3, *filters], sizes) + dense


def test_cross_stack_energies_per_mac_agree_within_a_data_set():
    """Table II, incremental scheme: one energy per operation on each data set."""
    millijoules = {
        "cifar10": (200.3728, 413.0913),
        "cifar100": (200.3967, 413.1149),
        "stl10": (40.6913, 227.3043),
    }
    for dataset, energies in millijoules.items():
        regular, shallow = (
            energy / sum(macs(built(zoo.cross_stack, dataset, variant)).values())
            for energy, variant in zip(energies, ("regular", "shallow"), strict=True)
        )
        assert regular == pytest.approx(shallow, rel=1e-3)


def test_cross_stack_imagenet_is_alexnet_with_the_listed_maps():
    model = zoo.cross_stack("imagenet", classes=1000)
    maps = [
        model.get_layer(name).output.shape[1:]
        for name in ("conv1", "conv2", "conv3", "conv4", "pool5", "fc6", "fc7")
    ]
    listed = [(55, 64), (27, 192), (13, 384), (13, 256), (6, 256)]
    assert maps == [*[(s, s, c) for s, c in listed], (4096,), (4096,)]
    assert model.output.shape == (None, 1000)


@pytest.mark.parametrize(("dataset", "variant"), CROSS_STACK)
def test_cross_stack_takes_width_and_classes(dataset, variant):
    model = zoo.cross_stack(dataset, variant, width=0.05, classes=3)
    assert model.output.shape == (None, 3)
    assert model.name == f"cross_stack_{dataset}_{variant}"
    assert model.get_layer("conv1").filters < 20


@pytest.mark.parametrize(
    ("argument", "arguments"),
    [
        ("dataset", {"dataset": "cifar"}),
        ("variant", {"dataset": "cifar10", "variant": "deep"}),
        ("variant", {"dataset": "imagenet", "variant": "shallow"}),
        ("width", {"dataset": "stl10", "width": 0}),
        ("classes", {"dataset": "imagenet", "classes": 0}),
    ],
)
def test_cross_stack_refuses(argument, arguments):
    with pytest.raises(ValueError, match=f"argument `{argument}`.*Received"):
        zoo.cross_stack(**arguments)
