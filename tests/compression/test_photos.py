"""A folder of images, a network with its preprocessing inside, and the one command."""

import keras
import numpy as np
import pytest
from PIL import Image

import tfcompress as tfc
from tfcompress import cli

L = keras.layers


def write_photos(folder, count=30, size=32):
    """Two classes: bright above, or bright below."""
    rng = np.random.default_rng(0)
    for label in ("above", "below"):
        (folder / label).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 120, (size, size, 3))
            half = slice(0, size // 2) if label == "above" else slice(size // 2, size)
            pixels[half] += 120
            path = folder / label / f"{number}.png"
            Image.fromarray(pixels.astype("uint8")).save(path)


def photo_model(size=32):
    """MobileNetV2 with 35 % of the channels, which rescales its input itself."""
    inputs = keras.Input((size, size, 3))
    x = L.Rescaling(1 / 127.5, offset=-1)(inputs)
    base = keras.applications.MobileNetV2(
        alpha=0.35, weights=None, include_top=False, input_shape=(size, size, 3)
    )
    x = L.GlobalAveragePooling2D()(base(x))
    return keras.Model(inputs, L.Dense(2, activation="softmax", name="kind")(x)), base


@pytest.mark.slow
def test_a_frozen_then_fine_tuned_network_on_a_folder_of_images(
    tmp_path, monkeypatch, capsys
):
    def command(*arguments):
        monkeypatch.setattr("sys.argv", ["tfcompress", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_info:
            cli.main()
        out, err = capsys.readouterr()
        assert not exit_info.value.code, err
        return out, err

    photos = tmp_path / "photos"
    write_photos(photos)
    keras.utils.set_random_seed(0)
    data = tfc.data.load(f"folder:{photos}", scale="none")
    model, base = photo_model()

    def train(epochs):
        model.compile(
            keras.optimizers.Adam(2e-3),
            "sparse_categorical_crossentropy",
            metrics=["accuracy"],
        )
        model.fit(data.train.images, data.train.labels, 16, epochs=epochs, verbose=0)

    base.trainable = False
    train(1)
    frozen, tuned = tmp_path / "frozen.keras", tmp_path / "tuned.keras"
    model.save(frozen)
    base.trainable = True
    train(6)
    model.save(tuned)

    # What is frozen is not pruned, and the plan says so.
    common = ["--data", f"folder:{photos}", "--scale=none", "--epochs=2"]
    out = tmp_path / "frozen"
    text, _ = command("compress", frozen, *common, "--size=60%", "--out", out)
    assert "filters: cannot be used" in text or "not train" in text
    small = keras.saving.load_model(out / "model.keras")
    assert tfc.cost.count(small).macs == tfc.cost.count(model).macs

    out = tmp_path / "tuned"
    text, err = command(
        "compress",
        tuned,
        *common,
        "--macs=60%",
        "--methods=filters,int8",
        "--max-drop=50",
        "--out",
        out,
    )
    assert "The budget is met." in text and err == ""
    small = keras.saving.load_model(out / "model.keras")
    assert tfc.cost.count(small).macs <= 0.6 * tfc.cost.count(model).macs
    # The file takes raw pixels, as the model does.
    raw = data.test.images
    assert raw.max() > 100
    text, _ = command(
        "verify",
        out / "model.keras",
        out / "model.tflite",
        *common[:3],
        "--agreement=90",
    )
    assert "top-1 agreement" in text
