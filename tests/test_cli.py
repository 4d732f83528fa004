import json

import keras
import numpy as np
import pytest

import tfcompress as tfc
from tfcompress import cli


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
