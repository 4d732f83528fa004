import dataclasses
import json
import os
import re
import subprocess
import sys
import zipfile
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from PIL import Image

import tfcompress as tfc
from tfcompress import cli
from tfcompress._models import load_model


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A LeNet-5 for the digits in which half of the first filters are zero."""
    keras.utils.set_random_seed(0)
    model = tfc.zoo.lenet5(width=0.2, input_shape=(8, 8, 1))
    model = tfc.structure.zero_channels(model, {"conv1": [0, 2]})
    path = tmp_path_factory.mktemp("models") / "masked.keras"
    model.save(path)
    return path


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs the command line; returns the exit status, output and errors."""

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["tfcompress", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_info:
            cli.main()
        out, err = capsys.readouterr()
        return exit_info.value.code or 0, out, err

    return run


def test_groups_and_cost_print_their_tables(saved, command):
    model = keras.saving.load_model(saved)
    status, out, _ = command("groups", saved)
    assert status == 0
    assert str(tfc.structure.channel_groups(model)) in out
    status, out, _ = command("cost", saved, "--hardware", "horowitz_45nm")
    assert status == 0
    assert str(tfc.cost.count(model)) in out
    assert "horowitz_45nm" in out


def test_shrink_writes_a_smaller_model_that_computes_the_same(saved, command, tmp_path):
    out = tmp_path / "new" / "small.keras"
    status, text, _ = command("shrink", saved, out)
    assert status == 0
    masked, small = (keras.saving.load_model(path) for path in (saved, out))
    assert small.get_layer("conv1").filters == 2
    assert f"{masked.count_params():,} -> {small.count_params():,}" in text
    images = np.random.default_rng(0).random((3, 8, 8, 1), "float32")
    np.testing.assert_allclose(masked(images), small(images), atol=1e-6)
    assert list(out.parent.iterdir()) == [out]


def test_export_and_benchmark(saved, command, tmp_path):
    out = tmp_path / "model.tflite"
    status, text, _ = command(
        "export", saved, out, "--quantization=int8", "--data=digits"
    )
    assert status == 0
    assert out.stat().st_size > 0
    assert "int8" in text
    status, text, _ = command("benchmark", out)
    assert status == 0
    assert "ms" in text
    status, text, _ = command("debug", saved, out, "--data=digits")
    assert status == 0
    assert "conv1" in text and "classifier" in text
    status, text, _ = command("target", out, "this computer")
    assert status == 0
    assert "this computer (measured by" in text
    status, _, err = command("target", out, "abacus")
    assert status == 1 and "abacus" in err


def test_pack_and_unpack_keep_the_weights(saved, command, tmp_path):
    packed, again = tmp_path / "model.tfcz", tmp_path / "again.keras"
    assert command("pack", saved, packed)[0] == 0
    assert command("unpack", packed, again)[0] == 0
    before, after = (keras.saving.load_model(path) for path in (saved, again))
    for old, new in zip(before.get_weights(), after.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_report_compares_by_file_name(saved, command, tmp_path):
    small, out = tmp_path / "small.keras", tmp_path / "report.json"
    tfc.finalize(keras.saving.load_model(saved)).save(small)
    status, text, _ = command("report", saved, small, "--data=digits", "--out", out)
    assert status == 0
    assert "masked" in text
    assert "small" in text
    assert json.loads(out.read_text())


def test_report_says_what_hardware_makes_of_the_models(saved, command, tmp_path):
    small, page = tmp_path / "small.keras", tmp_path / "pages" / "report.html"
    model = tfc.finalize(keras.saving.load_model(saved))
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.save(small)
    board = tmp_path / "board.toml"
    board.write_text('name = "board"\ntarget = "this computer"\nflash = 10\n')
    status, text, errors = command(
        "report",
        *(saved, small, "--data=digits", "--out", page, "--target", board),
        *("--products=skipped", "--bits=8,16", "--tolerance=2.5", "--highlight=small"),
        *("--metrics=sparse_top_k_categorical_accuracy", "--title=Tiny", "--verbose=0"),
    )
    assert (status, errors) == (0, "")
    assert text.startswith("Tiny\nShip small")
    assert "does not fit" in text
    assert "Sparse top k categorical accuracy" in text
    shown = page.read_text("utf-8")
    assert 'href="../small.keras"' in shown  # as seen from the page
    assert "zero weights are skipped" in shown
    assert "bits=(8, 16)" in shown
    assert '"tolerance":0.025' in shown


def test_energy_of_a_model_counts_what_hardware_skips(saved, command):
    joules = [
        tfc.cost.energy(
            tfc.cost.count(keras.saving.load_model(saved)),
            "horowitz_45nm",
            products=products,
            bits=8,
        )
        for products in ("computed", "skipped")
    ]
    work = [estimate.by_kind["arithmetic"] for estimate in joules]
    assert work[1] < work[0]  # what is stored needs an index, and more memory
    for products, expected in zip(("computed", "skipped"), joules, strict=True):
        arguments = ("--hardware=horowitz_45nm", "--bits=8", f"--products={products}")
        assert str(expected) in command("cost", saved, *arguments)[1]


def test_models_of_the_same_file_name_go_by_their_path():
    assert cli._short("a/m.keras", ["a/m.keras", "b/n.keras"]) == "m"
    assert cli._short("a/m.keras", ["a/m.keras", "b/m.keras"]) == "a/m.keras"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["groups", "nowhere.keras"], "nowhere.keras"),
        (["cost", "{saved}", "--hardware=abacus"], "abacus"),
        (["shrink", "{saved}", "small.h5"], "argument `out`"),
        (["shrink", "nowhere.keras", "{folder}/small.keras"], "nowhere.keras"),
        (["export", "{saved}", "{folder}/m.tflite", "--quantization=int8"], "calib"),
        (["pack", "{saved}", "model.zip"], "argument `out`"),
        (["unpack", "nowhere.tfcz", "{folder}/m.keras"], "nowhere.tfcz"),
        (["report", "{saved}", "--data=digits", "--out=report.pdf"], "argument `out`"),
        (["report", "{saved}", "--data=digtis"], "digits"),
        (["report", "{saved}", "--data=digits", "--target=toaster"], "toaster"),
        (["report", "{saved}", "--data=digits", "--highlight=other"], "highlight"),
    ],
)
def test_mistakes_end_in_one_message(saved, command, tmp_path, arguments, message):
    filled = [a.format(saved=saved, folder=tmp_path) for a in arguments]
    status, _, err = command(*filled)
    assert status == 1
    assert err.splitlines()[-1].startswith("tfcompress: error: ")
    assert message in err
    assert not list(tmp_path.iterdir())


def test_unknown_command_shows_the_usage(command):
    status, _, err = command("squash")
    assert status == 2
    assert "usage: tfcompress" in err


# Models as people save them ---------------------------------------------------


@pytest.fixture(scope="module")
def small_model():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(4, 3, activation="relu", name="c1"),
            keras.layers.Conv2D(4, 3, activation="relu", name="c2"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )


def own_loss(truth, prediction):
    return keras.ops.mean(keras.ops.square(truth - prediction))


def as_saved(kind, small_model, folder):
    """A model that was saved with more than plain layers: its file, and itself."""
    path = folder / ("m.h5" if kind == "h5" else "m.keras")
    if kind == "masked":
        model = tfc.structure.wrap(small_model, {"c2": tfc.layers.MaskedKernel})
    elif kind == "drum":
        model = tfc.structure.wrap(
            small_model, {"c2": lambda layer: tfc.layers.DrumMultiply(layer, 6, 6)}
        )
    elif kind == "gates":
        x = inputs = keras.Input((8, 8, 1))
        y = keras.layers.Conv2D(1, 3, padding="same", name="branch")(x)
        y = keras.layers.Flatten()(keras.layers.Add()([x, y]))
        plain = keras.Model(inputs, keras.layers.Dense(10, activation="softmax")(y))
        model = tfc.gates.add_layer_gates(plain)
    else:
        model = keras.models.clone_model(small_model)
        model.compile("adam", own_loss if kind == "loss" else "mse")
    model.save(path)
    return path, model


@pytest.mark.parametrize("kind", ["masked", "drum", "gates", "loss", "h5"])
def test_commands_load_what_they_need_no_class_of_the_user_for(
    kind, small_model, command, tmp_path
):
    path, model = as_saved(kind, small_model, tmp_path)
    status, text, err = command("cost", path)
    assert (status, err) == (0, "")
    assert str(tfc.cost.count(model)) in text
    if kind in ("masked", "loss"):
        assert command("shrink", path, tmp_path / "small.keras")[0] == 0


@pytest.mark.parametrize("kind", ["masked", "drum", "gates", "loss", "h5"])
def test_groups_export_and_pack_load_them_too(kind, small_model, command, tmp_path):
    path, model = as_saved(kind, small_model, tmp_path)
    status, text, _ = command("groups", path)
    assert status == 0
    assert str(tfc.structure.channel_groups(model)) in text
    status, text, err = command("export", path, tmp_path / "m.tflite")
    assert (status, err) == (0, "")
    assert (tmp_path / "m.tflite").stat().st_size > 1000
    status, text, err = command("pack", path, tmp_path / "m.tfcz")
    assert (status, err) == (0, "")
    x = np.random.default_rng(0).random((4, 8, 8, 1), "float32")
    again = tfc.export.unpack(tmp_path / "m.tfcz")
    np.testing.assert_allclose(again(x), model(x), atol=1e-6)
    np.testing.assert_allclose(
        tfc.export.run(tmp_path / "m.tflite", x), model(x), atol=1e-4
    )


@pytest.mark.filterwarnings("ignore:Skipping variable loading")
def test_a_compiled_model_that_was_never_trained_can_be_loaded(tmp_path):
    """Its file holds no slots of the optimizer, which loading makes."""
    model = keras.Sequential([keras.Input((400,)), keras.layers.Dense(400)])
    model.compile("adam", "mse")
    model.save(tmp_path / "m.keras")
    assert load_model(tmp_path / "m.keras", compiled=True).compiled


def rewritten(source, target, **changes):
    """A copy of a .keras file with other members; None leaves one out."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = changes.get(name.partition(".")[0], old.read(name))
            if content is not None:
                new.writestr(name, content)
    return target


def damaged(kind, small_model, folder):
    whole = folder / "whole.keras"
    small_model.save(whole)
    config = json.loads(zipfile.ZipFile(whole).read("config.json"))
    target = folder / f"{kind}.keras"
    if kind == "cut":
        target.write_bytes(whole.read_bytes()[:3000])
    elif kind == "empty":
        target.write_bytes(b"")
    elif kind == "without config":
        rewritten(whole, target, config=None)
    elif kind == "without weights":
        rewritten(whole, target, model=None)
    elif kind == "no JSON":
        rewritten(whole, target, config=b"\x80{")
    elif kind == "deep JSON":
        rewritten(whole, target, config="[" * 200_000)
    elif kind == "cut weights":
        with zipfile.ZipFile(whole) as archive:
            weights = archive.read("model.weights.h5")
        rewritten(whole, target, model=weights[: len(weights) // 2])
    elif kind == "huge":  # 36 GB of weights
        config["config"]["layers"][1]["config"]["filters"] = 10**9
        rewritten(whole, target, config=json.dumps(config))
    elif kind == "unknown class":
        config["config"]["layers"][1]["class_name"] = "Whirl"
        config["config"]["layers"][1]["module"] = "nowhere"
        rewritten(whole, target, config=json.dumps(config))
    elif kind == "no model":
        rewritten(whole, target, config=json.dumps(config["config"]["layers"][1]))
    elif kind == "folder":
        target.mkdir()
    return target


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("cut", "cut short"),
        ("empty", "cut short"),
        ("without config", "no config.json"),
        ("without weights", "cannot be loaded"),
        ("no JSON", "no JSON"),
        ("deep JSON", "cannot be loaded"),
        ("cut weights", "damaged or cut short"),
        ("huge", "more than the"),
        ("unknown class", "'Whirl'"),
        ("no model", "Conv2D"),
        ("folder", "folder"),
    ],
)
def test_a_damaged_or_hostile_file_is_named_in_one_line(
    kind, message, small_model, command, tmp_path
):
    file = damaged(kind, small_model, tmp_path)
    status, _, err = command("groups", file)
    assert status == 1
    (line,) = err.splitlines()
    assert line.startswith("tfcompress: error: ")
    assert str(file) in line
    assert message in line
    assert len(line) < 700


def test_a_file_of_the_user_registers_the_classes_of_a_model(command, tmp_path):
    code = tmp_path / "whirl.py"
    code.write_text(
        "import keras\n"
        "@keras.saving.register_keras_serializable('whirl')\n"
        "class Whirl(keras.layers.Dense): pass\n"
    )
    script = (
        "import sys, keras; sys.path.insert(0, '.'); import whirl; keras.Sequential("
        "[keras.Input((3,)), whirl.Whirl(2)]).save('whirl.keras')"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    model = tmp_path / "whirl.keras"
    status, _, err = command("cost", model)
    assert status == 1 and "Whirl" in err
    assert command("cost", model, "--import", code)[0] == 0


def test_shrinking_onto_itself_needs_a_word(saved, command, tmp_path):
    path = tmp_path / "model.keras"
    path.write_bytes(saved.read_bytes())
    status, _, err = command("shrink", path, path)
    assert status == 1 and "--overwrite" in err
    assert path.read_bytes() == saved.read_bytes()
    assert command("shrink", path, path, "--overwrite")[0] == 0
    assert path.stat().st_size < saved.stat().st_size


def test_verify_tells_an_agreeing_file_from_another(saved, command, tmp_path):
    file, packed, other = (tmp_path / n for n in ("m.tflite", "m.tfcz", "o.keras"))
    assert command("export", saved, file)[0] == 0
    assert command("pack", saved, packed)[0] == 0
    status, text, _ = command("verify", saved, file, "--data=digits")
    assert status == 0 and "top-1 agreement 100.00 %" in text
    assert command("verify", saved, packed)[0] == 0
    keras.utils.set_random_seed(1)
    tfc.zoo.lenet5(width=0.2, input_shape=(8, 8, 1)).save(other)
    status, _, err = command("verify", saved, other, "--data=digits")
    assert status == 1 and "does not compute what" in err


# Data of the user -------------------------------------------------------------


def small_classifier(path, *shapes):
    """A model of two classes for inputs "a", "b", … of the given shapes."""
    inputs = [
        keras.Input(shape, name=n) for n, shape in zip("ab", shapes, strict=False)
    ]
    x = [keras.layers.Flatten()(each) for each in inputs]
    x = keras.layers.Concatenate()(x) if len(x) > 1 else x[0]
    outputs = keras.layers.Dense(2, activation="softmax")(x)
    model = keras.Model(inputs if len(inputs) > 1 else inputs[0], outputs)
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.save(path)


@pytest.mark.parametrize("split", [False, True], ids=["classes", "splits"])
def test_pictures_in_a_folder_calibrate_and_compare(command, tmp_path, split):
    rng = np.random.default_rng(0)
    photos = tmp_path / "photos"
    for part in ("train", "test") if split else ("",):
        for label in ("cat", "dog"):
            (photos / part / label).mkdir(parents=True)
            for number in range(6):
                picture = rng.integers(0, 255, (6, 5, 3), "uint8")
                Image.fromarray(picture).save(photos / part / label / f"{number}.png")
    model = tmp_path / "m.keras"
    small_classifier(model, (4, 4, 3))
    file, page = tmp_path / "m.tflite", tmp_path / "page.json"
    status, text, err = command(
        *("export", model, file, "--quantization=int8", f"--data=folder:{photos}")
    )
    assert (status, err) == (0, "")
    assert "int8" in text and file.stat().st_size > 500
    status, _, err = command(
        *("report", model, f"--data=folder:{photos}", "--out", page, "--verbose=0")
    )
    assert (status, err) == (0, "")
    told = json.loads(page.read_text())["provenance"]["data set"]
    assert f"folder:{photos}" in told and "2 classes" in told
    # Of 12 pictures a fifth, or all of the split.
    tested = int(re.search(r"(\d+) test", told)[1])
    assert tested == 12 if split else 1 <= tested <= 5


def test_arrays_of_several_inputs_calibrate(command, tmp_path):
    model, file, arrays = (tmp_path / name for name in ("m.keras", "m.tflite", "d.npz"))
    small_classifier(model, (4, 4, 1), (3,))
    rng = np.random.default_rng(0)
    a, b = rng.random((40, 4, 4, 1), "float32"), 9 * rng.random((40, 3), "float32")
    np.savez(arrays, a=a, b=b, y=np.arange(40) % 2)
    status, _, err = command(
        *("export", model, file, "--quantization=int8", f"--data=npz:{arrays}")
    )
    assert (status, err) == (0, "")
    # Ranges of these data: a file that was calibrated with others would clip them.
    status, text, err = command("verify", model, file, f"--data=npz:{arrays}")
    assert (status, err) == (0, "")
    assert "top-1 agreement" in text


@pytest.mark.parametrize("task", ["classes", "numbers"])
def test_tables_calibrate_and_compare(task, command, tmp_path):
    model, table, page = (tmp_path / name for name in ("m.keras", "t.csv", "p.json"))
    if task == "classes":
        small_classifier(model, (2,))
        labels = ["cat" if i % 2 else "dog" for i in range(40)]
    else:
        regression = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        regression.compile("sgd", "mse", metrics=["mae"])
        regression.save(model)
        labels = [i / 7 for i in range(40)]
    rows = [f"{i / 40},{labels[i]},{1 - i / 40}" for i in range(40)]
    table.write_text("width,label,height\n" + "\n".join(rows))
    status, text, err = command(
        *("report", model, f"--data=csv:{table}", "--out", page, "--verbose=0")
    )
    assert (status, err) == (0, "")
    assert f"csv:{table}" in json.loads(page.read_text())["provenance"]["data set"]
    assert ("Accuracy" if task == "classes" else "MAE") in text


def test_data_outside_of_the_range_that_a_model_rescales_are_told(command, tmp_path):
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Flatten(),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    path, out = tmp_path / "m.keras", tmp_path / "m.tflite"
    model.save(path)
    status, _, err = command("export", path, out, "--data=digits")
    assert status == 0 and "warning: The data do not fit" in err
    assert "--scale none" in err
    status, _, err = command("export", path, out, "--data=digits", "--scale=none")
    assert (status, err) == (0, "")


def test_an_int8_file_that_always_answers_the_same_is_refused(command, tmp_path):
    """Pixels in [0, 1] move this model's output by less than a step of its file."""
    x = inputs = keras.Input((8, 8, 1))
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 25500)(x))
    dense = keras.layers.Dense(1, bias_initializer="ones")
    keras.Model(inputs, dense(x)).save(tmp_path / "m.keras")
    out = tmp_path / "m.tflite"
    status, _, err = command(
        "export", tmp_path / "m.keras", out, "--data=digits", "--quantization=int8"
    )
    assert status == 1
    assert "answers the same on all 500 samples" in err
    assert not out.exists()


def test_python_m_starts_at_once_and_says_nothing_else():
    for arguments, text in [(["--version"], tfc.__version__), (["--help"], "COMMAND")]:
        result = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "tfcompress", *arguments],
            capture_output=True,
            text=True,
            check=True,
        )
        assert text in result.stdout
        assert "tensorflow" not in result.stderr and "keras" not in result.stderr


def test_nothing_is_said_about_the_machine(saved):
    result = subprocess.run(
        [sys.executable, "-m", "tfcompress", "groups", str(saved)],
        capture_output=True,
        text=True,
        check=True,
        env={k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"},
    )
    assert result.stderr == ""


def test_classes_come_as_the_loss_takes_them():
    x, y = np.ones((4, 2), "float32"), np.array([0, 1, 2, 1], "int32")
    part = tfc.data.Split(x, y)
    data = tfc.data.Dataset("d", 3, part, part, part)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    model.compile(loss="sparse_categorical_crossentropy")
    assert cli._labeled_for(model, data) is data
    for loss in ("categorical_crossentropy", keras.losses.CategoricalCrossentropy()):
        model.compile(loss=loss)
        given = cli._labeled_for(model, data)
        np.testing.assert_array_equal(given.validation.labels, np.eye(3)[y])
    with pytest.raises(ValueError, match="at most 3 classes"):
        cli._labeled_for(model, dataclasses.replace(data, classes=4))


def test_compress_writes_a_folder_and_can_be_repeated_from_its_plan(command, tmp_path):
    keras.utils.set_random_seed(0)
    model = tfc.zoo.lenet5(width=0.2, input_shape=(8, 8, 1))
    data = tfc.data.load("digits")
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(data.train.images, data.train.labels, epochs=2, verbose=0)
    path = tmp_path / "m.keras"
    model.save(path)
    common = ["compress", path, "--data=digits", "--out"]
    status, text, err = command(
        *common,
        tmp_path / "a",
        "--macs=50%",
        "--max-drop=100",
        "--methods=filters",
        "--epochs=2",
        "--batch-size=128",
        "--augment=shift",
    )
    assert (status, err) == (0, "")
    assert "The budget is met. The quality is kept" in text
    assert re.search(r"on the 359 test images, the file: .*accuracy 0\.\d", text)
    small = keras.saving.load_model(tmp_path / "a" / "model.keras")
    assert tfc.cost.count(small).macs <= 0.5 * tfc.cost.count(model).macs
    plan = tmp_path / "a" / "plan.toml"
    assert tfc.compression.read_command(plan) == {"augment": "shift", "scale": "unit"}
    quiet = tmp_path / "quiet.toml"
    quiet.write_text("verbose = 0\n" + plan.read_text())
    status, text, _ = command(*common, tmp_path / "b", "--plan", quiet)
    assert (status, text) == (0, "")
    first, again = ((tmp_path / n / "trials.json").read_text() for n in "ab")
    assert first == again
    # What is said counts, not what the plan says.
    words = [
        "tfcompress",
        *map(str, common),
        "c",
        "--plan",
        str(plan),
        "--methods=auto",
    ]
    assert cli._compress_options(cli._parse(words))["methods"] == "auto"
    said = cli._flags_of_plan(cli._parse([*words, "--scale=none"]))
    assert (said["augment"], said["scale"]) == ("shift", "none")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--macs=fast"], "argument `macs`"),
        ([], "at least one of"),
        (["--macs=0.5", "--plan=nowhere.toml"], "argument `plan`"),
        (["--macs=0.5", "--plan=augment.toml"], "augment = one of"),
        (["--macs=0.5", "--plan=flag.toml"], "Received: width = 3"),
        (["--macs=0.5", "--methods=magic", "--loss=mse"], "argument `methods`"),
        (["--macs=0.5"], "compiled model"),
    ],
)
def test_compress_refuses_before_any_work(
    saved, command, tmp_path, monkeypatch, arguments, message
):
    out = tmp_path / "out"
    (tmp_path / "augment.toml").write_text('[command]\naugment = "both"')
    (tmp_path / "flag.toml").write_text("[command]\nwidth = 3")
    monkeypatch.chdir(tmp_path)
    status, _, err = command(
        "compress", saved, "--data=digits", "--out", out, *arguments
    )
    assert status == 1
    assert message in err
    assert len(err.splitlines()) == 1
    assert not out.exists()


@pytest.mark.parametrize(
    ("plan", "arguments", "message"),
    [
        ("epochs = 0", [], "argument `epochs`.*at least 1. Received: epochs=0"),
        ("batch_size = 1.5", [], "argument `batch_size`"),
        ('methods = ["magic"]', [], "argument `methods`.*'magic'"),
        ('hardware = "abacus"', [], "abacus"),
        ('products = "skipped"', [], "argument `products`"),
        ("verbose = 0\ndistillation = 2", [], "argument `distillation`"),
        ('[command]\nloss = "hope"', [], "argument `loss`.*'hope'"),
        ("", ["--epochs=0"], "argument `epochs`"),
        ("", ["--target=toaster", "--ram=1kB"], "toaster"),
        ("", ["--engine=ray"], "argument `trials`"),
    ],
)
def test_values_are_refused_before_the_model_is_loaded(
    command, tmp_path, plan, arguments, message
):
    file = tmp_path / "plan.toml"
    file.write_text(plan)
    status, _, err = command(
        *("compress", "nowhere.keras", "--data=nothing", "--out", tmp_path / "out"),
        *("--plan", file, "--macs=0.5", *arguments),
    )
    assert status == 1
    (line,) = err.splitlines()
    assert re.search(message, line)
    assert not (tmp_path / "out").exists()


def test_an_interruption_is_one_line(command, monkeypatch):
    def interrupt(path, threads):
        raise KeyboardInterrupt

    monkeypatch.setattr(tfc.export, "benchmark", interrupt)
    assert command("benchmark", "x") == (130, "", "tfcompress: interrupted\n")


def test_recipes_are_listed(command):
    status, text, _ = command("recipe")
    assert status == 0
    assert re.search("quickstart +From a dense network", text)
    assert "_experiment" not in text
    status, _, err = command("recipe", "quick-step")
    assert status == 1 and "quickstart" in err


def test_recipes_run_with_their_own_flags(capfd):
    with pytest.raises(SystemExit) as exit_info:
        cli._recipe(SimpleNamespace(name="quickstart", arguments=["--rate=often"]))
    assert exit_info.value.code != 0
    assert "often" in "".join(capfd.readouterr())
