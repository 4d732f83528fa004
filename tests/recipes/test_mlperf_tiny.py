import dataclasses
import importlib
import itertools
import json
import subprocess
import sys
import wave

import numpy as np
import pytest
import tensorflow as tf

import tfcompress as tfc

RATE = 16_000
WORDS = ["down", "go", "left", "no", "off", "on", "right", "stop", "up", "yes"]
WORDS += ["_silence_", "_unknown_"]


@pytest.fixture(scope="module")
def recipe(load_recipe):
    return load_recipe("mlperf_tiny")


@pytest.fixture(scope="module")
def sounds(load_recipe):
    return importlib.import_module("_sounds")


def preset(recipe, name, **changes):
    return dataclasses.replace(recipe.PRESETS[name], **changes)


def only_reference(recipe, monkeypatch):
    """Leaves compression out: tests of `compress` are elsewhere, and take longer."""
    plan = recipe.plan
    monkeypatch.setattr(recipe, "plan", lambda *args: plan(*args)[:1])


# Plan, and what is refused -----------------------------------------------------------


def test_each_size_is_made_of_the_reference_network(recipe):
    settings = preset(recipe, "quick", size=(0.5, 0.25, 0.5))
    jobs = recipe.plan(settings, [0, 3])
    assert [(job.name, job.seed) for job in jobs] == [
        *(("reference", 0), ("size 0.5", 0), ("size 0.25", 0)),
        *(("reference", 3), ("size 0.5", 3), ("size 0.25", 3)),
    ]
    assert [job.source for job in jobs[:3]] == [None, jobs[0].key, jobs[0].key]


def test_presets_are_the_benchmarks_tasks(recipe):
    asked = {name: task.quality for name, task in recipe.BENCHMARK.items()}
    assert asked == {
        "image_classification": 0.85,
        "keyword_spotting": 0.90,
        "visual_wake_words": 0.80,
        "anomaly_detection": 0.85,
        "digits": None,
    }
    tasks = {name: settings.task for name, settings in recipe.PRESETS.items()}
    assert tasks == {name: name for name in asked if name != "digits"} | {
        "quick": "digits"
    }


@pytest.mark.parametrize(
    ("name", "changes", "error", "message"),
    [
        ("quick", {"size": (1.0,)}, ValueError, "argument `size`"),
        ("quick", {"size": ()}, ValueError, "argument `size`"),
        (
            "visual_wake_words",
            {"dataset": "digits"},
            ValueError,
            "argument `dataset`.*the 2 classes",
        ),
        ("visual_wake_words", {}, ValueError, "existing folder.*vww_coco2014_96"),
        (
            "keyword_spotting",
            {},
            tfc.data.DatasetUnavailableError,
            r"'speech_commands' is not prepared.*TFDS_DATA_DIR",
        ),
        ("keyword_spotting", {"dataset": "no set"}, ValueError, "`dataset`.*npz:FILE"),
        ("anomaly_detection", {}, ValueError, r"ToyCar' without train/\*.wav"),
        ("anomaly_detection", {"dataset": "digits"}, ValueError, "folder:PATH of .wav"),
        ("anomaly_detection", {"dataset": "npz:none"}, ValueError, "can be read"),
    ],
)
def test_bad_settings_and_missing_data_are_refused_before_work(
    recipe, tmp_path, monkeypatch, name, changes, error, message
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        recipe.run(
            preset(recipe, name, **changes),
            seeds=[0],
            out=tmp_path / "out",
            data_dir=str(tmp_path),
            report=False,
        )
    assert not (tmp_path / "out").exists()


def test_the_script_says_in_one_line_what_is_missing(recipe, tmp_path):
    result = subprocess.run(
        [sys.executable, recipe.__file__, "--preset=keyword_spotting",
         f"--data_dir={tmp_path}", f"--out={tmp_path / 'out'}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 1
    assert "mlperf_tiny.py: The data set 'speech_commands' is not" in result.stderr
    assert "Traceback" not in result.stderr


# The quick preset --------------------------------------------------------------------


def test_the_quick_preset_meets_its_budget_and_resumes(
    recipe, tmp_path, monkeypatch, capsys
):
    # A network that is measured in less time.
    task = dataclasses.replace(
        recipe.BENCHMARK["digits"], network=recipe.classifier(tfc.zoo.lenet5)
    )
    monkeypatch.setitem(recipe.BENCHMARK, "digits", task)
    settings = preset(
        recipe, "quick", epochs=2, compress_epochs=1, batch_size=32, limit=320
    )
    options = {"seeds": [0], "out": tmp_path, "data_dir": None, "report": False}

    def interrupt(*args, **kwargs):
        compress(*args, **kwargs)
        raise KeyboardInterrupt

    compress = tfc.compress
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(tfc, "compress", interrupt)
        recipe.run(settings, **options)
    (trials,) = tmp_path.glob("*/compress/trials.json")
    before = trials.read_text()
    capsys.readouterr()
    rows = recipe.run(settings, **options)
    # What was finished is not trained again. (In a process of its own, the optimizer
    # would be the first that is made; here it is the third, and has the same name.)
    printed = capsys.readouterr().out
    assert "epoch 1/" not in printed
    assert trials.read_text() == before

    whole, half = sorted(rows, key=lambda row: -row["bytes"])
    assert (whole["name"], half["name"]) == ("reference", "size 0.5")
    assert half["bytes"] <= 0.5 * whole["bytes"]
    assert half["macs"] < whole["macs"]
    for row in rows:
        file = tmp_path / f"{row['key']}.tflite"
        assert file.stat().st_size == row["bytes"]
        # Quality is that of the file on the test images, computed in another way.
        test = tfc.data.load("digits").test
        answers = np.argmax(tfc.export.run(file, test.images), axis=1)
        assert row["quality_of_file"] == np.mean(answers == test.labels)
    assert json.loads((tmp_path / "results.json").read_text()) == rows
    (figures,) = {tuple(row["ethos-u55-128"] or ()) for row in rows}
    assert figures in ((), ("flash", "ram"))
    assert "reference: the int8 file has" in printed
    with pytest.raises(ValueError, match="argument `out`"):
        recipe.run(preset(recipe, "quick"), **options)


def test_figures_are_left_out_where_the_tools_are_missing(
    recipe, tmp_path, monkeypatch, capsys
):
    def missing(file, name):
        raise ImportError(f"The target {name!r} needs a tool")

    monkeypatch.setattr(tfc.export, "target", missing)
    model = tfc.zoo.lenet5(0.2, 10, (8, 8, 1))
    file = tmp_path / "file.tflite"
    file.write_bytes(b"12345")
    found = recipe.figures(model, file)
    assert found["bytes"] == 5
    assert found["ethos-u55-128"] is found["microcontroller"] is None
    assert "'microcontroller' needs a tool" in capsys.readouterr().out
    assert recipe.memory([found], "microcontroller") == "– / –"


def test_the_verdict_compares_with_the_benchmark(recipe):
    task = recipe.BENCHMARK["image_classification"]
    runs = [
        {"quality_of_file": 0.88, "bytes": 49_248},
        {"quality_of_file": 0.84, "bytes": 49_248},
    ]
    text = recipe.verdict(runs, "size 0.5", task)
    assert "86.00%" in text and "asks for 85%: reached" in text
    assert "50% of the bytes" in text
    sounds = recipe.BENCHMARK["anomaly_detection"]
    text = recipe.verdict([{"quality_of_file": 0.8449, "bytes": 1}], "x", sounds)
    assert "AUC 0.845" in text and "asks for 0.85: NOT reached" in text


# Keyword spotting --------------------------------------------------------------------


def word(number, samples=RATE):
    """A tone of a pitch of its own for each word, in 16 bits."""
    times = np.arange(samples) / RATE
    return (8000 * np.sin(2 * np.pi * 200 * (number + 1) * times)).astype("int16")


def write_speech(folder, counts=(24, 12, 12), rate=RATE):
    """A set as TFDS prepares speech_commands; every third clip is short."""
    import tensorflow_datasets as tfds

    def example(i):
        return {"audio": word(i % 12, RATE - 4000 * (i % 3 == 0)), "label": i % 12}

    tfds.dataset_builders.store_as_tfds_dataset(
        name="little_commands",
        version="1.0.0",
        data_dir=str(folder),
        features=tfds.features.FeaturesDict(
            {
                "audio": tfds.features.Audio(
                    file_format="wav", sample_rate=rate, dtype=np.int16
                ),
                "label": tfds.features.ClassLabel(names=WORDS),
            }
        ),
        split_datasets={
            split: [(i, example(i)) for i in range(count)]
            for split, count in zip(
                ("train", "validation", "test"), counts, strict=True
            )
        },
    )


def test_words_of_tfds_become_cepstra(recipe, sounds, tmp_path, monkeypatch):
    write_speech(tmp_path)
    settings = preset(recipe, "keyword_spotting", dataset="little_commands", limit=20)
    subject = recipe.open_subject(settings, str(tmp_path))
    data = subject.data
    assert data.input_shape == (49, 10, 1)
    assert [len(getattr(data, split)) for split in sounds.SPLITS] == [20, 12, 12]
    assert data.train.labels.dtype == np.int32
    # As MLPerf Tiny's reference: divided by the largest sample, then padded.
    for i in range(12):
        clip = word(i, RATE - 4000 * (i % 3 == 0)).astype("float32")
        clip = np.pad(clip / clip.max(), (0, RATE - len(clip)))
        own = data.test.images[data.test.labels == i]
        np.testing.assert_allclose(own, tfc.data.mfcc(clip[None]), atol=1e-4)
    # The folder is found by the environment, too.
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert len(sounds.speech("little_commands", None, None).train) == 24
    with pytest.raises(ValueError, match=r"argument `limit`.*24 training samples"):
        sounds.speech("little_commands", None, 25)


def test_silence_is_no_division_by_zero(sounds, tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "word", lambda number, n: np.zeros(n, "int16"))
    write_speech(tmp_path, (12, 1, 1))
    data = sounds.speech("little_commands", str(tmp_path), None)
    assert np.isfinite(data.train.images).all()


def test_other_rates_are_refused(sounds, tmp_path):
    write_speech(tmp_path, (12, 1, 1), rate=8000)
    with pytest.raises(ValueError, match=r"argument `dataset`.*of 8000"):
        sounds.speech("little_commands", str(tmp_path), None)


def test_sets_that_are_not_sounds_are_refused(sounds, tmp_path):
    import tensorflow_datasets as tfds

    tfds.dataset_builders.store_as_tfds_dataset(
        name="numbers",
        version="1.0.0",
        data_dir=str(tmp_path),
        features=tfds.features.FeaturesDict({"label": np.int64}),
        split_datasets={"train": [(0, {"label": 0})]},
    )
    with pytest.raises(ValueError, match=r"argument `dataset`.*features \['label'\]"):
        sounds.speech("numbers", str(tmp_path), None)


def test_the_network_for_words_trains_on_them(recipe, tmp_path, monkeypatch):
    write_speech(tmp_path)
    only_reference(recipe, monkeypatch)
    settings = preset(
        recipe,
        "keyword_spotting",
        dataset="little_commands",
        epochs=1,
        batch_size=24,
    )
    (row,) = recipe.run(
        settings,
        seeds=[0],
        out=tmp_path / "out",
        data_dir=str(tmp_path),
        report=False,
    )
    assert row["parameters"] == 24_908  # MLPerf Tiny's
    assert 0 <= row["quality_of_file"] <= 1
    assert len(row["history"]["val_accuracy"]) == 1


# Visual wake words -------------------------------------------------------------------


def test_a_folder_of_two_classes_is_read_at_96_pixels(recipe, tmp_path):
    for label, value in (("person", 200), ("non_person", 40)):
        (tmp_path / label).mkdir()
        for i in range(5):
            image = np.full((90 + i, 120, 3), value, "uint8")
            file = str(tmp_path / label / f"{i}.png")
            tf.io.write_file(file, tf.io.encode_png(image))
    settings = preset(recipe, "visual_wake_words", dataset=f"folder:{tmp_path}")
    subject = recipe.open_subject(settings, None)
    assert subject.data.input_shape == (96, 96, 3)
    model = subject.task.network(subject.data)
    assert model.count_params() == 221_794  # MLPerf Tiny's
    assert model.output_shape == (None, 2)

    def bright(images):
        """Folders are numbered by name: a person is 1."""
        person = images.mean(axis=(1, 2, 3)) > 0.5
        return np.stack([~person, person], axis=1)

    assert subject.quality(bright) == 1
    assert subject.quality(lambda images: bright(images)[:, ::-1]) == 0


# Anomaly detection -------------------------------------------------------------------


def write_windows(file, **changes):
    """Clips of windows near a line; anomalies lie away from it."""
    rng = np.random.default_rng(0)
    line = np.linspace(-2, 2, 640)
    labels = np.arange(16) % 2

    def windows(count, away):
        noise = rng.normal(0, 0.1, (count, 6, 640))
        return (line + noise + away).astype("float32")

    away = labels[:, None, None] * rng.normal(0, 1, (16, 1, 640))
    arrays = {
        "x_train": windows(40, 0),
        "x_test": windows(16, away),
        "y_test": labels,
        "machine_test": np.repeat([1, 2], 8),
    }
    arrays |= changes
    np.savez(file, **{name: a for name, a in arrays.items() if a is not None})
    return arrays


def test_the_auc_counts_pairs_of_clips_of_one_machine(recipe, tmp_path):
    # Inputs of zero and outputs of whole numbers, whose squares are exact: some tie.
    arrays = write_windows(tmp_path / "windows.npz", x_test=np.zeros((16, 6, 640)))
    name = f"npz:{tmp_path / 'windows.npz'}"
    subject = recipe.open_subject(preset(recipe, "anomaly_detection", dataset=name), "")
    wrong = np.random.default_rng(1).integers(1, 4, (16, 6))
    quality = subject.quality(lambda x: x + wrong.reshape(-1, 1))
    scores, labels = (wrong**2).mean(axis=1), arrays["y_test"]
    expected = []
    for machine in (slice(0, 8), slice(8, 16)):
        pairs = itertools.product(
            scores[machine][labels[machine] == 1],
            scores[machine][labels[machine] == 0],
        )
        # The share of pairs in which the anomaly has the larger error.
        expected.append(np.mean([np.sign(a - n) / 2 + 0.5 for a, n in pairs]))
    assert quality == pytest.approx(np.mean(expected), abs=1e-6)
    assert expected[0] != expected[1]


def test_whole_clips_are_held_out(recipe, sounds, tmp_path):
    x = np.repeat(np.arange(20.0)[:, None, None], 3, 1) * np.ones(640)
    write_windows(tmp_path / "windows.npz", x_train=x)
    data = sounds.machines(f"npz:{tmp_path / 'windows.npz'}", 15).data
    train, validation = ({*part.images[:, 0]} for part in (data.train, data.validation))
    assert (len(train), len(validation)) == (15, 2)
    assert not train & validation
    assert len(data.train) == 45
    assert data.train.images is data.train.labels


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_test": None}, r"without \['y_test'\]"),
        ({"x_train": np.zeros((4, 640))}, r"`x_train` of the shape"),
        ({"x_train": np.zeros((1, 6, 640))}, "at least 2 clips"),
        ({"y_test": np.zeros(16, int)}, "has only one kind"),
        ({"y_test": np.full(16, 2)}, "`y_test` of 0, normal, and 1"),
        ({"y_test": np.zeros(3, int)}, "one entry for each of 16"),
    ],
)
def test_windows_that_do_not_fit_are_refused(sounds, tmp_path, changes, message):
    write_windows(tmp_path / "windows.npz", **changes)
    with pytest.raises(ValueError, match=f"argument `dataset`.*{message}"):
        sounds.machines(f"npz:{tmp_path / 'windows.npz'}", None)


def test_the_autoencoder_finds_anomalies_at_half_of_its_file(recipe, tmp_path):
    write_windows(tmp_path / "windows.npz")
    settings = preset(
        recipe,
        "anomaly_detection",
        dataset=f"npz:{tmp_path / 'windows.npz'}",
        epochs=20,
        compress_epochs=4,
        batch_size=32,
    )
    options = {"seeds": [0], "data_dir": None, "report": False}
    rows = recipe.run(settings, out=tmp_path / "out", **options)
    whole, half = sorted(rows, key=lambda row: -row["bytes"])
    assert whole["parameters"] == 269_992  # MLPerf Tiny's
    assert half["bytes"] <= 0.5 * whole["bytes"]
    # Anomalies are away by ten deviations of the noise: all must see them.
    assert all(row["quality"] == row["quality_of_file"] == 1 for row in rows)


def test_the_report_on_an_autoencoder_is_about_normal_sounds(recipe, tmp_path):
    write_windows(tmp_path / "windows.npz")
    name = f"npz:{tmp_path / 'windows.npz'}"
    settings = preset(recipe, "anomaly_detection", dataset=name)
    subject = recipe.open_subject(settings, None)
    shown = {}

    class Folder:
        def records(self):
            return [{"name": n, "seed": 0} for n in ("size 0.5", "reference")]

        def model(self, record):
            return record["name"]

        def write_report(self, models, data, title, **options):
            shown.update(models=models, data=data, title=title, **options)

    recipe.write_report(Folder(), settings, subject)
    assert list(shown["models"]) == ["reference", "size 0.5"]
    assert shown["data"].test is subject.data.validation
    assert "held out" in shown["title"]


def write_wav(file, sound, rate=RATE):
    file.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(file), "wb") as target:
        target.setnchannels(1)
        target.setsampwidth(2)
        target.setframerate(rate)
        target.writeframes((32767 * sound).astype("<i2").tobytes())


def write_machine(folder):
    """Ten-second hums: four to learn from, two normal ones and two anomalies."""
    rng = np.random.default_rng(0)
    times = np.arange(10 * RATE) / RATE

    def hum(hertz):
        noise = rng.normal(0, 0.01, len(times))
        return 0.5 * np.sin(2 * np.pi * hertz * times) + noise

    for i in range(4):
        write_wav(folder / "train" / f"normal_id_01_{i:08}.wav", hum(500))
    for machine in (1, 2):
        name = f"id_{machine:02}_00000000.wav"
        write_wav(folder / "test" / f"normal_{name}", hum(500))
        write_wav(folder / "test" / f"anomaly_{name}", hum(3000))


def test_sounds_of_machines_become_windows(sounds, tmp_path):
    write_machine(tmp_path)
    found = sounds.machines(f"folder:{tmp_path}", None)
    # Frames 50 to 249, five of them in a window.
    assert len(found.data.test) == 4 * 196
    assert found.data.input_shape == (640,)
    assert found.machine.tolist() == ["id_01", "id_02"] * 2
    assert found.anomaly.tolist() == [True, True, False, False]
    assert np.bincount(found.clip).tolist() == [196] * 4
    # The loudest of the 128 bands is the one around the tone.
    edges = sounds.slaney_frequencies(130, RATE / 2)
    for clip, hertz in ((0, 3000), (2, 500)):
        window = found.data.test.images[found.clip == clip][0]
        loudest = window[:128].argmax()
        assert edges[loudest] < hertz < edges[loudest + 2]


def test_windows_are_the_sums_that_define_them(sounds):
    sound = np.random.default_rng(0).normal(0, 0.1, 60 * 512).astype("float32")
    windows = sounds.log_mel_windows(sound)
    assert windows.shape == (61 - 50 - 4, 640)
    # Frame 53, centered at sample 53 · 512, by the sum of Fourier.
    own = sound[53 * 512 - 512 : 53 * 512 + 512].astype("float64")
    own *= np.sin(np.pi * np.arange(1024) / 1024) ** 2
    turns = np.outer(np.arange(1024), np.arange(513)) / 1024
    power = np.abs(own @ np.exp(-2j * np.pi * turns)) ** 2
    edges = sounds.slaney_frequencies(130, 8000)
    expected = []
    for low, middle, high in zip(edges, edges[1:], edges[2:], strict=False):
        points = [low, middle, high], [0, 2 / (high - low), 0]
        weights = np.interp(np.arange(513) * 15.625, *points, left=0, right=0)
        expected.append(10 * np.log10(power @ weights))
    np.testing.assert_allclose(windows[3, :128], expected, atol=1e-3)
    np.testing.assert_array_equal(windows[3, :128], windows[0, 3 * 128 : 4 * 128])
    assert not len(sounds.log_mel_windows(sound[: 53 * 512]))


def test_the_mel_scale_is_librosas(sounds):
    # The documentation of librosa.mel_frequencies(n_mels=40), at 11,025 Hz.
    published = [0, 85.317, 170.635, 255.952, 341.269, 426.586, 511.904, 597.221]
    published += [682.538, 767.855, 853.173, 938.49, 1024.856, 1119.114, 1222.042]
    found = sounds.slaney_frequencies(40, 11_025)
    np.testing.assert_allclose(found[:15], published, atol=1e-3)
    np.testing.assert_allclose(found[-3:], [9246.028, 10096.408, 11025], atol=1e-3)


def test_folders_that_do_not_fit_are_refused(sounds, tmp_path):
    def refused(message):
        with pytest.raises(ValueError, match=f"argument `dataset`.*{message}"):
            sounds.machines(f"folder:{tmp_path}", None)

    write_machine(tmp_path)
    odd = tmp_path / "test" / "unknown.wav"
    write_wav(odd, np.zeros(16000))
    refused("begin with 'normal_' or 'anomaly_'")
    odd.rename(tmp_path / "train" / "anomaly_id_01_7.wav")
    refused("normal sounds only")
    short = (tmp_path / "train" / "anomaly_id_01_7.wav").rename(
        tmp_path / "train" / "a.wav"
    )
    refused("at least 1.8 seconds")
    write_wav(short, np.zeros(16000), rate=8000)
    refused("16000 samples a second")
    short.write_bytes(b"no sound")
    refused("16-bit .wav")
