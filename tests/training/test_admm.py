"""Phases of ADMM compression, together and one by one."""

import functools

import keras
import numpy as np
import pytest

from tfcompress import _made, training
from tfcompress.constraints import Cardinality, ChannelSparsity, Combined, Levels
from tfcompress.training import AdmmPhase, admm_compress, fix_levels, hard_prune


def network(rate=0.01):
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(12, activation="relu", name="hidden"),
            layers.Dense(12, activation="relu", name="deep"),
            layers.Dense(3, name="logits"),
        ]
    )
    model.compile(keras.optimizers.Adam(rate), "mse")
    return model


def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 8)).astype("float32")
    return x, np.abs(x[:, :3]) + x[:, 3:6]


def compress(model, plan, **arguments):
    x, y = data()
    return admm_compress(
        model, plan, x, y, batch_size=16, shuffle=False, verbose=0, **arguments
    )


def counts(model):
    return {x.name: int(np.count_nonzero(x.kernel.numpy())) for x in model.layers}


PRUNE = AdmmPhase(
    {"hidden": Cardinality(count=30), "deep": Cardinality(count=20)}, 2, 2, rho=0.01
)
HARDER = AdmmPhase(
    {"hidden": Cardinality(count=15), "deep": Cardinality(count=10)}, 1, 1, rho=0.01
)
QUANTIZE = AdmmPhase(Levels(2), 2, 1, rho=0.01, exclude=["logits"])


class Crash(keras.callbacks.Callback):
    """Interrupts the run at the end of its n-th epoch."""

    def __init__(self, after):
        super().__init__()
        self.left = after

    def on_epoch_end(self, epoch, logs=None):
        self.left -= 1
        if not self.left:
            raise InterruptedError


def test_a_plan_prunes_step_by_step_and_quantizes_what_is_left():
    given = network()
    before = given.get_weights()
    result = compress(given, [PRUNE, HARDER, QUANTIZE])
    for one, two in zip(before, given.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    assert int(given.optimizer.iterations) == 0
    model = result.model
    assert counts(model) == {"hidden": 15, "deep": 10, "logits": 36}
    for name in ("hidden", "deep"):
        kernel = model.get_layer(name).kernel.numpy()
        assert len(np.unique(np.abs(kernel[kernel != 0]))) <= 2
    assert result.nonzero == 61
    assert result.pruning_ratio == pytest.approx((96 + 144 + 36) / 61)
    assert [(s.phase, s.name) for s in result.stages] == [
        (phase, name) for phase in range(3) for name in ("admm", "retrain")
    ]
    assert "admm_primal" in result.stages[0].history
    assert float(model.optimizer.learning_rate) == pytest.approx(0.01)
    records = _made.made(model)
    assert [(r["method"], r["phase"], r["epochs"]) for r in records] == [
        ("admm_compress", 1, 4),
        ("admm_compress", 2, 2),
        ("admm_compress", 3, 3),
    ]
    assert records[0]["config"]["constraints"]["hidden"]["config"]["count"] == 30
    assert _made.made(given) == []


def test_zeros_stay_zero_in_retraining_and_weights_learn():
    model = compress(network(), [PRUNE]).model
    before = model.get_layer("hidden").kernel.numpy()
    keep_going = AdmmPhase(PRUNE.constraints, admm_epochs=0, retrain_epochs=2)
    after = compress(model, [keep_going]).model.get_layer("hidden").kernel.numpy()
    assert np.array_equal(before != 0, after != 0)
    assert not np.array_equal(before, after)


def test_after_quantization_only_the_rest_learns():
    model = compress(network(), [PRUNE]).model
    quantize = AdmmPhase(QUANTIZE.constraints, 1, exclude=["logits"])
    model = compress(model, [quantize]).model
    kernels = {x.name: x.kernel.numpy() for x in model.layers}
    retrain = AdmmPhase(Levels(2), 0, 2, exclude=["logits"])
    model = compress(model, [retrain]).model
    after = {x.name: x.kernel.numpy() for x in model.layers}
    assert np.array_equal(kernels["hidden"], after["hidden"])
    assert not np.array_equal(kernels["logits"], after["logits"])
    assert model.get_layer("hidden").bias.numpy().any()


def test_shrinking_on_the_way_removes_dead_channels():
    plan = [
        AdmmPhase({"hidden": ChannelSparsity(count=5)}, 1, 1, rho=0.1),
        AdmmPhase({"deep": ChannelSparsity(count=4, axis=0)}, 1, 1, rho=0.1),
    ]
    model = network()
    result = compress(model, plan, shrink=True)
    # The first phase leaves 5 hidden units; of these, "deep" reads 4 in the end.
    assert result.model.get_layer("hidden").kernel.shape == (8, 4)
    assert result.model.get_layer("deep").kernel.shape == (4, 12)
    assert result.weights == 96 + 144 + 36
    assert model.get_layer("hidden").kernel.shape == (8, 12)
    assert [record["phase"] for record in _made.made(result.model)] == [1, 2]


def test_a_unit_that_nothing_feeds_or_nothing_reads_is_dead():
    model = network()
    unfed, unread = np.ones((8, 12)), np.ones((12, 3))
    unfed[:, 2], unread[7] = 0, 0
    model.get_layer("hidden").kernel.assign(unfed)
    model.get_layer("logits").kernel.assign(unread)
    model.get_layer("hidden").bias.assign(np.ones(12))
    only_prune = AdmmPhase({"hidden": Cardinality(count=96)}, 0, 0)
    small = compress(model, [only_prune], shrink=True).model
    assert small.get_layer("hidden").kernel.shape == (8, 11)
    assert small.get_layer("deep").kernel.shape == (11, 11)


@functools.cache
def uninterrupted(shrink):
    return compress(network(), [PRUNE, QUANTIZE], shrink=shrink)


# Of the seven epochs, the second ends the first stage, and the sixth the third.
@pytest.mark.parametrize(
    "after, shrink", [(1, False), (2, False), (3, True), (6, True)]
)
def test_an_interrupted_run_ends_like_an_uninterrupted_one(tmp_path, after, shrink):
    whole = uninterrupted(shrink)
    run = {"shrink": shrink, "backup_dir": tmp_path}
    with pytest.raises(InterruptedError):
        compress(network(), [PRUNE, QUANTIZE], callbacks=[Crash(after)], **run)
    resumed = compress(network(), [PRUNE, QUANTIZE], **run)
    pairs = zip(whole.model.get_weights(), resumed.model.get_weights(), strict=True)
    for expected, found in pairs:
        np.testing.assert_array_equal(expected, found)
    assert whole.stages == resumed.stages  # histories included
    assert not tmp_path.exists()


def test_a_backup_of_another_plan_is_refused(tmp_path):
    with pytest.raises(InterruptedError):
        compress(network(), [PRUNE], callbacks=[Crash(3)], backup_dir=tmp_path)
    with pytest.raises(ValueError, match="same plan"):
        compress(network(), [HARDER], backup_dir=tmp_path)


def test_hard_prune_and_fix_levels_return_what_is_left():
    model = network()
    assert hard_prune(model, Cardinality(count=9)) == dict.fromkeys(counts(model), 9)
    joint = Cardinality(count=12, scope="network")
    assert sum(hard_prune(model, joint).values()) == 12
    left = fix_levels(model, {"hidden": 1})
    kernel = model.get_layer("hidden").kernel.numpy()
    assert len(np.unique(np.abs(kernel[kernel != 0]))) == 1
    assert left == {"hidden": counts(model)["hidden"]}


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_weights_that_are_not_finite_are_refused_by_name(value):
    model = network()
    model.get_layer("deep").kernel.assign(np.full((12, 12), value))
    with pytest.raises(ValueError, match=r"finite weights.*'deep'"):
        hard_prune(model, Cardinality(count=9))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_floats_are_compressed(dtype):
    keras.config.set_dtype_policy(dtype)
    model = network()
    # The epsilon of Adam is zero in float16.
    model.compile(keras.optimizers.SGD(0.01), "mse")
    result = compress(model, [PRUNE, QUANTIZE])
    assert result.model.get_layer("hidden").kernel.dtype == dtype
    assert counts(result.model) == {"hidden": 30, "deep": 20, "logits": 36}


def test_a_kept_backup_holds_the_result(tmp_path):
    first = compress(network(), [PRUNE], backup_dir=tmp_path, keep_backup=True)
    again = compress(
        network(), [PRUNE], backup_dir=tmp_path, callbacks=[Crash(1)], keep_backup=True
    )
    assert again.stages == first.stages
    pairs = zip(first.model.get_weights(), again.model.get_weights(), strict=True)
    for one, two in pairs:
        np.testing.assert_array_equal(one, two)
    assert [path.name for path in tmp_path.iterdir()] == ["backup.keras"]
    assert _made.made(again.model) == _made.made(first.model) != []


def test_the_best_epoch_of_a_stage_that_is_done_is_known(tmp_path):
    def run(quality, *others):
        def note(epoch, logs):
            logs["q"] = quality

        best = keras.callbacks.ModelCheckpoint(
            tmp_path / "q.keras", "q", mode="min", save_best_only=True
        )
        callbacks = [keras.callbacks.LambdaCallback(on_epoch_end=note), best, *others]
        run = {"callbacks": callbacks, "backup_dir": tmp_path / "run"}
        compress(network(), [PRUNE], **run)
        return best

    # The third epoch is the first of the second stage.
    with pytest.raises(InterruptedError):
        run(0.1, Crash(3))
    saved = (tmp_path / "q.keras").stat().st_mtime_ns
    assert run(0.9).best == 0.1
    assert (tmp_path / "q.keras").stat().st_mtime_ns == saved


def test_the_table_shows_every_stage():
    result = compress(network(), [PRUNE])
    lines = str(result).splitlines()
    assert len(lines) == 3
    assert f"{result.pruning_ratio:.1f}×" in lines[1]


def test_levels_inside_a_combination_make_a_quantization_phase():
    joint = Combined([Cardinality(count=9), Levels(2)])
    assert AdmmPhase({"hidden": joint}, 1).quantizes
    assert not AdmmPhase(Cardinality(count=9), 1).quantizes


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: AdmmPhase(Levels(2), -1), ValueError, "admm_epochs"),
        (lambda: AdmmPhase(Levels(2), 1, 1.5), ValueError, "retrain_epochs"),
        (lambda: AdmmPhase("levels", 1), TypeError, "constraints"),
        (lambda: AdmmPhase(Levels(2), 1, rho=-1.0), ValueError, "rho"),
        (lambda: AdmmPhase(Levels(2), 1, learning_rate=0.0), ValueError, "rate"),
        (lambda: compress(network(), PRUNE), TypeError, "plan"),
        (lambda: compress(network(), []), ValueError, "plan"),
        (lambda: compress(network(), [QUANTIZE, PRUNE]), ValueError, "before phases"),
        (lambda: compress(network(), [PRUNE], epochs=3), ValueError, "epochs"),
        (lambda: compress("model", [PRUNE]), TypeError, "model"),
        (
            lambda: compress(
                network(keras.optimizers.schedules.CosineDecay(1, 9)), [PRUNE]
            ),
            ValueError,
            "plain learning rate",
        ),
        (lambda: compress(keras.Sequential(), [PRUNE]), ValueError, "built"),
        (
            lambda: compress(network(), [AdmmPhase({"hiden": Levels(2)}, 1)]),
            ValueError,
            "hiden",
        ),
    ],
)
def test_bad_arguments_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_the_driver_is_public():
    assert training.admm_compress is admm_compress
