import warnings

import keras
import numpy as np
import pytest
from keras import layers

import tfcompress as tfc
from tfcompress.callbacks import FilterPruning
from tfcompress.schedules import Constant, Linear, OneShot, Piecewise, Polynomial

SHAPE = (8, 8, 3)
CLASSES = 4


def small_cnn():
    return keras.Sequential(
        [
            keras.Input(SHAPE),
            layers.Conv2D(8, 3, padding="same", name="conv1"),
            layers.BatchNormalization(name="bn1"),
            layers.ReLU(),
            layers.Conv2D(12, 3, padding="same", activation="relu", name="conv2"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(10, activation="relu", name="hidden"),
            layers.Dense(CLASSES, name="logits"),
        ]
    )


def small_resnet():
    inputs = keras.Input(SHAPE)
    x = layers.Conv2D(8, 3, padding="same", name="stem")(inputs)
    for block in range(2):
        y = layers.Conv2D(6, 3, padding="same", name=f"inner{block}")(x)
        y = layers.BatchNormalization(name=f"inner_bn{block}")(y)
        y = layers.ReLU()(y)
        y = layers.Conv2D(8, 3, padding="same", name=f"outer{block}")(y)
        y = layers.BatchNormalization(name=f"outer_bn{block}")(y)
        x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(CLASSES, name="logits")(x))


def compiled(model, optimizer="sgd", **kwargs):
    # Tracing a step takes longer than the few steps of a test; the tests for
    # which the compiled step matters ask for it.
    kwargs.setdefault("run_eagerly", not kwargs.keys() & {"jit_compile"})
    model.compile(
        optimizer,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        **kwargs,
    )
    return model


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    return (
        rng.normal(size=(32, *SHAPE)).astype("float32"),
        rng.integers(0, CLASSES, 32),
    )


def fit(model, batch, *callbacks, epochs=1, initial_epoch=0):
    return model.fit(
        *batch,
        batch_size=16,
        epochs=epochs,
        initial_epoch=initial_epoch,
        callbacks=list(callbacks),
        verbose=0,
        shuffle=False,
    )


def zero_filters(model, name):
    """Filters of a layer whose weights and bias are all exactly zero."""
    kernel, bias = model.get_layer(name).get_weights()
    dead = ~kernel.reshape(-1, kernel.shape[-1]).any(axis=0) & (bias == 0)
    return set(np.flatnonzero(dead).tolist())


class Record(keras.callbacks.Callback):
    """Zero filters of some layers whenever weights could be saved."""

    def __init__(self, *names):
        super().__init__()
        self.names = names
        self.steps, self.epochs = [], []

    def _count(self):
        return [len(zero_filters(self.model, name)) for name in self.names]

    def on_train_batch_end(self, batch, logs=None):
        self.steps.append(self._count())

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(self._count())


@pytest.mark.parametrize(
    "schedule",
    [
        Constant(0.3),
        OneShot(0.8, at=2),
        Linear(0.0, 0.9, begin=0, end=4),
        Linear(0.1, 0.6, begin=1, end=4, every=2),
        Polynomial(0.0, 0.75, begin=0, end=3),
        Piecewise({1: 0.25, 3: 0.5}),
    ],
    ids=repr,
)
def test_every_epoch_leaves_exactly_the_scheduled_filters_at_zero(schedule, batch):
    model, record = compiled(small_cnn(), "adam"), Record("conv1", "conv2", "hidden")
    fit(model, batch, FilterPruning(schedule), record, epochs=5)
    assert record.epochs == [
        [round(schedule(t) * size) for size in (8, 12, 10)] for t in range(5)
    ]


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
        lambda: keras.optimizers.Adam(0.01, use_ema=True, ema_overwrite_frequency=3),
        lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1),
    ],
    ids=["momentum", "adam with averages", "adamw"],
)
def test_zero_stays_zero_under_every_optimizer(optimizer, jit_compile, batch):
    model = compiled(small_cnn(), optimizer(), jit_compile=jit_compile)
    before = FilterPruning(OneShot(0.5, at=2))  # momentum builds up before
    record = Record("conv1", "conv2", "hidden")
    fit(model, batch, before, record, epochs=4)
    assert record.steps[:4] == [[0, 0, 0]] * 4
    assert record.steps[4:] == [[4, 6, 5]] * 4
    assert [len(zero_filters(model, n)) for n in record.names] == [4, 6, 5]


def test_normalization_parameters_of_a_pruned_filter_are_zero(batch):
    model = compiled(small_cnn(), "adam")
    fit(model, batch, FilterPruning(0.5), epochs=2)
    gamma, beta, mean, _ = model.get_layer("bn1").get_weights()
    dead = sorted(zero_filters(model, "conv1"))
    assert not np.stack([gamma, beta, mean])[:, dead].any()
    assert np.abs(gamma[np.setdiff1d(range(8), dead)]).all()


def test_the_filters_with_the_smallest_mean_weight_go_first(batch):
    model = compiled(small_cnn(), keras.optimizers.SGD(0.0))
    kernel = model.get_layer("conv2").get_weights()[0]
    norms = np.abs(kernel).mean(axis=(0, 1, 2))
    fit(model, batch, FilterPruning(0.25))
    assert zero_filters(model, "conv2") == set(np.argsort(norms)[:3].tolist())


def test_pruned_filters_never_come_back(batch):
    model, record = compiled(small_cnn(), "adam"), Record("conv2")
    fit(
        model,
        batch,
        FilterPruning(Piecewise({0: 0.5, 1: 0.25, 2: 0.75})),
        record,
        epochs=3,
    )
    assert record.epochs == [[6], [6], [9]]


def test_pruned_filters_stay_among_the_later_ones(batch):
    model = compiled(small_cnn(), "adam", jit_compile=False)
    pruning = FilterPruning(Linear(0.0, 0.75, begin=0, end=3))
    seen = []
    for _ in range(4):
        fit(model, batch, pruning)
        seen.append(zero_filters(model, "conv2"))
    assert [len(zeros) for zeros in seen] == [0, 3, 6, 9]
    assert seen[0] <= seen[1] <= seen[2] <= seen[3]


def test_a_second_fit_with_a_new_callback_keeps_the_zeros(batch):
    model = compiled(small_cnn(), "adam")
    fit(model, batch, FilterPruning(0.5))
    zeros = zero_filters(model, "conv2")
    fit(model, batch, FilterPruning(Linear(0.0, 0.75, 0, 2)), epochs=2)
    assert zero_filters(model, "conv2") == zeros
    fit(model, batch, FilterPruning(Linear(0.0, 0.75, 0, 2)), epochs=3, initial_epoch=2)
    assert zero_filters(model, "conv2") > zeros


def test_a_saved_model_is_pruned_further_from_where_it_was(batch, tmp_path):
    model = compiled(small_cnn(), "adam", jit_compile=False)
    fit(model, batch, FilterPruning(0.5))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    fit(loaded, batch, FilterPruning(0.75))
    assert zero_filters(loaded, "conv2") > zero_filters(model, "conv2")


@pytest.mark.parametrize("first", [True, False])
def test_checkpoints_see_masked_weights_in_any_order(first, batch, tmp_path):
    model = compiled(small_cnn(), "adam")
    path = tmp_path / "{epoch}.keras"
    save = keras.callbacks.ModelCheckpoint(path)
    callbacks = [save, FilterPruning(Linear(0.0, 0.5, 0, 1))]
    fit(model, batch, *(callbacks if first else callbacks[::-1]), epochs=2)
    for epoch, count in ((1, 0), (2, 6)):
        saved = keras.saving.load_model(str(path).format(epoch=epoch))
        assert len(zero_filters(saved, "conv2")) == count


@pytest.mark.parametrize("first", [True, False])
def test_an_interrupted_training_resumes_in_any_order(first, batch, tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    def run(*more):
        model = compiled(small_cnn(), "adam", jit_compile=False)
        record = Record("conv1", "conv2")
        backup = keras.callbacks.BackupAndRestore(tmp_path)
        both = [backup, FilterPruning(Linear(0.0, 0.8, 0, 4))]
        fit(model, batch, *(both if first else both[::-1]), record, *more, epochs=4)
        return record.epochs

    with pytest.raises(KeyboardInterrupt):
        run(Stop())
    assert run() == [[round(0.2 * t * size) for size in (8, 12)] for t in (2, 3)]


def test_pruning_by_steps_follows_the_optimizer(batch):
    schedule = Linear(0.0, 0.75, begin=0, end=6, every=2)
    model, record = compiled(small_cnn(), "adam", jit_compile=False), Record("conv2")
    fit(model, batch, FilterPruning(schedule, unit="step"), record, epochs=4)
    assert record.steps == [[round(schedule(t) * 12)] for t in range(8)]


@pytest.mark.parametrize("unit", ["epoch", "step"])
def test_steps_per_execution_keeps_the_schedule(unit, batch):
    model = compiled(small_cnn(), "adam", jit_compile=False, steps_per_execution=2)
    schedule = OneShot(0.5, at=2 if unit == "epoch" else 4)
    record = Record("conv2")
    fit(model, batch, FilterPruning(schedule, unit=unit), record, epochs=4)
    assert record.epochs == [[0], [0], [6], [6]]


def test_existing_constraints_stay_in_force_and_are_restored(batch):
    model = compiled(small_cnn(), keras.optimizers.SGD(0.5), jit_compile=False)
    kernel = model.get_layer("conv2").kernel
    own = kernel.constraint = keras.constraints.NonNeg()
    fit(model, batch, FilterPruning(0.25), epochs=2)
    values = keras.ops.convert_to_numpy(kernel)
    assert values.min() == 0
    assert kernel.constraint is own
    assert model.get_layer("conv1").kernel.constraint is None


def test_training_after_pruning_is_free_again(batch):
    model = compiled(small_cnn(), "adam", jit_compile=False)
    fit(model, batch, FilterPruning(0.25))
    conv2 = model.get_layer("conv2")
    conv2.set_weights([w + 1 for w in conv2.get_weights()])
    model.fit(*batch, verbose=0)
    assert not zero_filters(model, "conv2")


def test_an_exception_in_training_does_not_pile_up_masks(batch):
    class Fail(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            raise RuntimeError("disk full")

    model = compiled(small_cnn(), "adam")
    with pytest.raises(RuntimeError, match="disk full"):
        fit(model, batch, FilterPruning(0.25), Fail(), epochs=1)
    fit(model, batch, FilterPruning(0.5))
    assert len(zero_filters(model, "conv2")) == 6
    assert model.get_layer("conv2").kernel.constraint is None


@pytest.mark.parametrize("first", [True, False])
def test_masks_of_several_callbacks_hold_together(first, batch):
    model = compiled(small_cnn(), "adam")
    kernel = model.get_layer("conv2").kernel
    weights = keras.ops.convert_to_numpy(kernel).copy()
    weights[0, 0] = 0
    kernel.assign(weights)
    callbacks = [FilterPruning(0.5), tfc.callbacks.HoldWeights("zeros")]
    fit(model, batch, *(callbacks if first else callbacks[::-1]), epochs=2)
    assert not keras.ops.convert_to_numpy(kernel)[0, 0].any()
    assert len(zero_filters(model, "conv2")) == 6
    assert kernel.constraint is None


def test_coupled_layers_of_a_residual_stage_lose_the_same_channels(batch):
    model = compiled(small_resnet(), "adam", jit_compile=False)
    fit(model, batch, FilterPruning(0.5), epochs=2)
    stage = zero_filters(model, "stem")
    assert len(stage) == 4
    assert zero_filters(model, "outer0") == zero_filters(model, "outer1") == stage
    assert len(zero_filters(model, "inner0")) == 3


def test_finalize_removes_what_was_pruned(batch):
    for make in (small_cnn, small_resnet):
        model = compiled(make(), "adam")
        fit(model, batch, FilterPruning(0.5), epochs=2)
        small = tfc.finalize(model)
        assert small.count_params() < 0.5 * model.count_params()
        np.testing.assert_allclose(
            small.predict(batch[0], verbose=0),
            model.predict(batch[0], verbose=0),
            atol=1e-5,
        )


def test_layers_and_exclude_select(batch):
    model = compiled(small_cnn(), "adam")
    fit(model, batch, FilterPruning(0.5, layers=["conv1", "hidden"]))
    assert [len(zero_filters(model, n)) for n in ("conv1", "conv2", "hidden")] == [
        4,
        0,
        5,
    ]
    fit(model, batch, FilterPruning(0.5, exclude=["hidden"]))
    assert len(zero_filters(model, "conv2")) == 6


def test_the_last_layer_is_never_pruned(batch):
    model = compiled(small_cnn(), "adam")
    pruning = FilterPruning(0.9)
    fit(model, batch, pruning)
    assert not zero_filters(model, "logits")
    assert "logits" in pruning.selection.skipped


def test_targets_of_single_layers(batch):
    model, record = compiled(small_cnn(), "adam"), Record("conv1", "conv2", "hidden")
    targets = {"conv1": 0.25, "hidden": Linear(0.0, 0.6, begin=0, end=2)}
    fit(model, batch, FilterPruning(targets), record, epochs=3)
    assert record.epochs == [[2, 0, 0], [2, 0, 3], [2, 0, 6]]


def test_a_group_keeps_a_channel_and_round_widths(batch):
    model = compiled(small_cnn(), "adam")
    fit(model, batch, FilterPruning(0.99))
    assert len(zero_filters(model, "conv2")) == 11
    model = compiled(small_cnn(), "adam")
    fit(model, batch, FilterPruning(0.6, multiple_of=4))
    # 12 - 7 = 5 remain, rounded up to 8; 8 - 5 = 3 up to 4; 10 - 6 = 4.
    assert [
        12 - len(zero_filters(model, "conv2")),
        8 - len(zero_filters(model, "conv1")),
    ] == [8, 4]
    assert len(zero_filters(model, "hidden")) == 6


def test_global_ranking_prunes_where_filters_matter_least(batch):
    model = compiled(small_cnn(), keras.optimizers.SGD(0.0))
    conv1, conv2 = model.get_layer("conv1"), model.get_layer("conv2")
    # Relative to the mean of their layer, conv2 has nine weak filters.
    conv1.kernel.assign(np.ones(conv1.kernel.shape))
    scale = np.where(np.arange(12) < 9, 0.01, 1.0)
    conv2.kernel.assign(np.ones(conv2.kernel.shape) * scale)
    names = ["conv1", "conv2"]
    pruning = FilterPruning(0.4, layers=names, ranking="global", floor=0.25)
    fit(model, batch, pruning)
    assert zero_filters(model, "conv2") == set(range(8))
    assert not zero_filters(model, "conv1")


def test_global_ranking_respects_the_floor(batch):
    model, record = compiled(small_cnn(), "adam"), Record("conv1", "conv2", "hidden")
    schedule = Linear(0.0, 0.7, begin=0, end=3)
    fit(
        model,
        batch,
        FilterPruning(schedule, ranking="global", floor=0.25),
        record,
        epochs=4,
    )
    assert [sum(e) for e in record.epochs] == [
        round(schedule(t) * 30) for t in range(4)
    ]
    assert all(a <= b for a, b in zip(record.epochs[-1], (6, 9, 7), strict=True))


def two_layers(scale):
    model = keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            layers.Conv2D(20, 3, activation="relu", name="one"),
            layers.Conv2D(20, 3, activation="relu", name="two"),
            layers.Flatten(),
            layers.Dense(CLASSES, name="logits"),
        ]
    )
    # Every filter of "one" has smaller weights than every one of "two".
    for name, factor in (("one", scale), ("two", 1.0)):
        shape = model.get_layer(name).kernel.shape
        sizes = np.linspace(1.0, 2.0, 20) * factor
        model.get_layer(name).kernel.assign(np.broadcast_to(sizes, shape))
    model.compile(keras.optimizers.SGD(0.0), "mse", run_eagerly=True)
    return model


def lost(pruning):
    model = two_layers(scale=0.01)
    x = np.zeros((4, 6, 6, 3), "float32")
    model.fit(x, np.zeros((4, CLASSES)), verbose=0, callbacks=[pruning])
    zero = tfc.structure.zero_indices(tfc.structure.channel_groups(model))
    return [list(zero.get(name, ())) for name in ("one", "two")]


def test_the_network_ranking_compares_raw_scores():
    # Algorithm 1 of the paper: the smallest of the whole network go, but one.
    for floor in (0.0, 0.05):
        one, two = lost(
            FilterPruning(0.5, ranking="network", floor=floor, layers=CONVS)
        )
        assert one == list(range(19)) and two == [0]
    one, two = lost(FilterPruning(0.5, ranking="network", floor=0.25, layers=CONVS))
    assert one == list(range(15)) and two == list(range(5))
    # The global ranking divides the difference away.
    one, two = lost(FilterPruning(0.5, ranking="global", layers=CONVS))
    assert one == two == list(range(10))


CONVS = ["one", "two"]


def test_even_and_random_allocations():
    # Algorithms 2 and 3: equally many of each layer; of layers that are drawn.
    one, two = lost(FilterPruning(0.2, ranking="even", layers=CONVS))
    assert one == two == list(range(4))
    drawn = [
        lost(FilterPruning(0.5, tfc.criteria.Random(seed), "epoch", CONVS, **RANDOM))
        for seed in (0, 0, 1)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    assert all(len(one) + len(two) == 20 for one, two in drawn)


RANDOM = {"ranking": "random", "floor": 0.05}


def test_random_draws_do_not_care_for_the_size_of_a_layer():
    pruning = FilterPruning(0.5, ranking="random")
    draws = list(pruning._draws({"small": 10_000, "large": 90_000}, 2000, 0))
    # Binomial with p = 1/2: five standard deviations are 112.
    assert abs(draws.count("small") - 1000) < 112
    # A layer that is used up is drawn no more.
    assert sorted(pruning._draws({"a": 1, "b": 3}, 9, 0)) == ["a", "b", "b", "b"]


def test_the_pruning_rate_is_logged(batch):
    model = compiled(small_cnn(), "adam")
    history = fit(model, batch, FilterPruning(Linear(0.0, 0.5, 0, 2)), epochs=3)
    expected = [0.0, (2 + 3 + 2) / 30, 0.5]
    np.testing.assert_allclose(history.history["pruning_rate"], expected)


def test_the_same_seed_prunes_the_same_filters(batch):
    def run(seed):
        keras.utils.set_random_seed(0)
        model = compiled(small_cnn(), "adam")
        fit(model, batch, FilterPruning(0.5, tfc.criteria.Random(seed)), epochs=2)
        return zero_filters(model, "conv2")

    assert run(1) == run(1) != run(2)


@pytest.mark.parametrize("data", [False, True])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_mean_activation_prunes_what_is_least_active(data, jit_compile, batch):
    model = compiled(small_cnn(), keras.optimizers.SGD(0.0), jit_compile=jit_compile)
    bias = np.random.default_rng(3).permutation(12).astype("float32")
    model.get_layer("conv2").bias.assign(bias)  # decides the activation
    criterion = tfc.criteria.MeanActivation(batch[0] if data else None)
    fit(model, batch, FilterPruning(OneShot(0.25, at=1), criterion), epochs=2)
    assert zero_filters(model, "conv2") == set(np.argsort(bias)[:3].tolist())


@pytest.mark.parametrize("eager", [True, False])
def test_mean_activation_does_not_count_validations(eager):
    model = keras.Sequential(
        [
            keras.Input((2,)),
            layers.Dense(2, activation="relu", name="hidden"),
            layers.Dense(CLASSES),
        ]
    )
    model.get_layer("hidden").kernel.assign([[1.0, 0.0], [0.0, 1.0]])
    compiled(model, keras.optimizers.SGD(0.0), run_eagerly=eager)
    labels = np.zeros(32, int)
    pruning = FilterPruning(OneShot(0.5, at=1), "mean_activation")
    model.fit(
        np.tile([2.0, 1.0], (32, 1)),
        labels,
        # Would make the first unit the less active one, if it counted.
        validation_data=(np.tile([0.0, 99.0], (32, 1)), labels),
        epochs=2,
        callbacks=[pruning],
        verbose=0,
    )
    assert zero_filters(model, "hidden") == {1}


def test_mean_activation_leaves_the_layers_as_they_were(batch):
    model = compiled(small_cnn(), "adam")
    fit(model, batch, FilterPruning(OneShot(0.25, at=1), "mean_activation"), epochs=2)
    assert not any("call" in vars(layer) for layer in model.layers)


def test_mean_activation_cannot_prune_before_the_first_batch(batch):
    model = compiled(small_cnn(), "adam")
    with pytest.raises(ValueError, match=r"argument `schedule`.*seen no batch"):
        fit(model, batch, FilterPruning(0.5, "mean_activation"))
    assert model.get_layer("conv2").kernel.constraint is None


def test_configuration_round_trip():
    pruning = FilterPruning(
        {"conv1": Linear(0.0, 0.5, 0, 4), "hidden": 0.25},
        tfc.criteria.Random(3),
        unit="step",
        exclude=["conv2"],
        multiple_of=2,
    )
    config = keras.saving.serialize_keras_object(pruning)
    again = keras.saving.deserialize_keras_object(config)
    assert again.schedule == pruning.schedule
    assert again.get_config() == pruning.get_config()


@pytest.mark.parametrize(
    ("arguments", "argument"),
    [
        ({"schedule": 1.0}, "schedule"),
        ({"schedule": -0.1}, "schedule"),
        ({"schedule": Linear(0.0, 1.5, 0, 9)}, "schedule"),
        ({"schedule": {}}, "schedule"),
        ({"schedule": {"conv1": 1.5}}, "schedule"),
        ({"schedule": 0.5, "criterion": "l3"}, "criterion"),
        ({"schedule": 0.5, "unit": "batch"}, "unit"),
        ({"schedule": 0.5, "multiple_of": 0}, "multiple_of"),
        ({"schedule": 0.5, "ranking": "best"}, "ranking"),
        ({"schedule": 0.5, "floor": -0.1}, "floor"),
        ({"schedule": {"a": 0.5}, "layers": ["b"]}, "layers"),
        ({"schedule": {"a": 0.5}, "ranking": "global"}, "ranking"),
    ],
)
def test_bad_arguments_are_refused_at_once(arguments, argument):
    with pytest.raises(ValueError, match=f"argument `{argument}`.*Received"):
        FilterPruning(**arguments)


@pytest.mark.parametrize("argument", ["layers", "exclude"])
def test_names_must_be_a_list(argument):
    with pytest.raises(TypeError, match=f"argument `{argument}`.*'conv1'"):
        FilterPruning(0.5, **{argument: "conv1"})


@pytest.mark.parametrize(
    ("pruning", "message"),
    [
        (lambda: FilterPruning(0.5, layers=["conv3"]), "`layers`.*'conv3'.*'conv1'"),
        (lambda: FilterPruning(0.5, exclude=["konv2"]), "`exclude`.*'konv2'.*'conv2'"),
        (lambda: FilterPruning({"conv9": 0.5}), "'conv9'"),
        (lambda: FilterPruning(0.5, layers=["logits"]), "`layers`.*'logits'"),
        (lambda: FilterPruning(0.5, layers=["flatten"]), "`layers`.*'flatten'"),
        (lambda: FilterPruning(0.5, layers=["conv1"], exclude=["conv1"]), "`exclude`"),
        (lambda: FilterPruning(0.5, ranking="global", floor=0.9), "`floor`"),
    ],
)
def test_names_that_do_not_fit_the_model_are_refused_before_training(
    pruning, message, batch
):
    keras.utils.clear_session()
    model = compiled(small_cnn())
    before = model.get_weights()
    with pytest.raises(ValueError, match=message):
        fit(model, batch, pruning())
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


class Backbone(keras.Model):
    """Hands its graph to the constructor of `keras.Model`, as KerasHub's models do."""

    def __init__(self, **kwargs):
        plain = small_cnn()
        i, o = plain.inputs[0], plain.outputs[0]
        super().__init__(inputs=i, outputs=o, **kwargs)


@pytest.mark.parametrize("kind", ["functional subclass", "distiller"])
def test_a_graph_inside_another_model_is_pruned_and_finalized(kind, batch):
    model = student = Backbone()
    teacher = Backbone(name="teacher")
    if kind == "distiller":
        model = keras.distillation.Distiller(
            teacher, student, keras.distillation.LogitsDistillation(temperature=2.0)
        )
    compiled(model)
    before = [layer.get_weights() for layer in (student, teacher)]
    logs = fit(model, batch, FilterPruning(Linear(0.0, 0.5, 0, 1)), epochs=2).history
    assert logs["pruning_rate"] == [0.0, 0.5]
    assert [len(zero_filters(student, n)) for n in ("conv1", "conv2")] == [4, 6]
    trained = student.get_layer("logits").get_weights()[0]
    assert not np.array_equal(trained, before[0][-2])
    for old, new in zip(before[1], teacher.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    small = tfc.finalize(model)
    assert type(small).__module__.startswith("keras.")
    assert [small.get_layer(n).filters for n in ("conv1", "conv2")] == [4, 6]
    np.testing.assert_allclose(small(batch[0]), student(batch[0]), atol=1e-5)


def test_a_subclassed_model_is_refused_before_training(batch):
    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.model = small_cnn()

        def call(self, inputs):
            return self.model(inputs)

    with pytest.raises(ValueError, match="subclassed model"):
        fit(compiled(Subclassed()), batch, FilterPruning(0.5))


@pytest.mark.parametrize("ranking", ["layer", "even"])
@pytest.mark.parametrize("names", [["hidden"], None])
def test_pruning_goes_on_while_one_channel_is_left(names, ranking):
    keras.utils.set_random_seed(0)
    dense = keras.layers.Dense
    model = keras.Sequential(
        [keras.Input((5,)), dense(4, name="hidden"), dense(6, name="more"), dense(2)]
    )
    model.compile("sgd", "mse")
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(16, 5)), rng.normal(size=(16, 2))
    pruning = tfc.callbacks.FilterPruning(
        tfc.schedules.Linear(0.0, 0.8, begin=0, end=3),
        layers=names,
        ranking=ranking,
        floor=0.1,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        result = tfc.training.fit_shrinking(
            model, x, y, epochs=6, verbose=0, callbacks=[pruning]
        )
    assert result.get_layer("hidden").units == 1
    # Of 4 or 10 channels, round(0.8 * n) are gone, but one of each group stays.
    gone = {True: 3 / 4, False: 8 / 10}[names is not None]
    assert result.history.history["pruning_rate"][-1] == pytest.approx(gone)


def test_a_layer_that_cannot_be_copied_is_refused_before_training(batch):
    class Mine(layers.Layer):
        def __init__(self, factor):  # no **kwargs, and no get_config
            super().__init__()
            self.factor = factor

        def call(self, x):
            return x * self.factor

    model = small_cnn()
    model = keras.Sequential([keras.Input(SHAPE), Mine(2.0), *model.layers])
    compiled(model)
    with pytest.raises(ValueError, match="class Mine cannot be created"):
        model.fit(*batch, verbose=0, callbacks=[FilterPruning(0.5)])
    assert int(model.optimizer.iterations) == 0
