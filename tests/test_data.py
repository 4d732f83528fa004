import shutil
import sys
import urllib.error
import urllib.request
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfcompress import data
from tfcompress.data import _folder

SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


@pytest.fixture
def offline(monkeypatch):
    """Nothing answers; returns the addresses that were asked."""
    asked = []

    def refuse(request, timeout):
        asked.append(request.full_url)
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    return asked


def write_tfds(data_dir, *, name="tiny_shapes", splits=("train", "test"), size=(6, 4)):
    """Prepares a TFDS set of 30 + 10 images; image i of a split has value i."""
    import tensorflow_datasets as tfds

    def example(i):
        height, width = size or (8 + i % 3, 9)
        image = np.full((height, width, 3), i, "uint8")
        return i, {"image": image, "label": i % 2}

    tfds.dataset_builders.store_as_tfds_dataset(
        name=name,
        version="1.0.0",
        data_dir=str(data_dir),
        features=tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(*(size or (None, None)), 3)),
                "label": tfds.features.ClassLabel(num_classes=2),
            }
        ),
        split_datasets={
            split: [example(i) for i in range(30 if split == "train" else 10)]
            for split in splits
        },
    )


def write_folder(root):
    """An image folder: 10 training and 5 test images in each of two classes."""
    for split, count in (("train", 10), ("test", 5)):
        for value, label in enumerate(("dark", "light")):
            folder = Path(root) / split / label
            folder.mkdir(parents=True)
            for i in range(count):
                image = np.full((8 + i, 8, 3), 255 * value, "uint8")
                tf.io.write_file(str(folder / f"{i}.png"), tf.io.encode_png(image))


def as_set(split):
    return {image.tobytes() for image in split.images}


def test_digits_are_the_whole_bundled_set(digits):
    assert sum(len(getattr(digits, split)) for split in SPLITS) == 1797
    assert digits.input_shape == (8, 8, 1)
    assert digits.classes == 10
    for split in SPLITS:
        part = getattr(digits, split)
        assert part.images.dtype == np.float32
        assert part.labels.dtype == np.int32
        assert part.images.min() == 0
        assert part.images.max() == 1
        assert set(part.labels) == set(range(10))


def test_splits_share_no_image(digits):
    from sklearn.datasets import load_digits

    different = {image.tobytes() for image in load_digits().images}
    assert len(different) == 1797  # so that images stand for themselves
    parts = [as_set(getattr(digits, split)) for split in SPLITS]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 1797


def test_hold_out_is_stratified(digits):
    for split, fraction in ((digits.test, 0.2), (digits.validation, 0.8 * 0.1)):
        counts = np.bincount(split.labels, minlength=10)
        from sklearn.datasets import load_digits

        expected = fraction * np.bincount(load_digits().target)
        assert np.abs(counts - expected).max() <= 1


def test_same_seed_same_splits(digits):
    again = data.load("digits")
    for split in SPLITS:
        np.testing.assert_array_equal(
            getattr(again, split).images, getattr(digits, split).images
        )


def test_seed_changes_the_validation_split_but_never_the_test_split(digits):
    other = data.load("digits", seed=1)
    np.testing.assert_array_equal(other.test.images, digits.test.images)
    assert as_set(other.validation) != as_set(digits.validation)


def test_validation_may_be_empty():
    whole = data.load("digits", validation=0)
    assert len(whole.validation) == 0
    with pytest.raises(ValueError, match="Invalid value for argument `split`"):
        whole.pipeline("validation")


def test_limits_are_nested_and_leave_the_other_splits_alone(digits):
    small, large = (data.load("digits", limit=limit) for limit in (50, 200))
    assert len(small.train) == 50
    assert as_set(small.train) < as_set(large.train) < as_set(digits.train)
    np.testing.assert_array_equal(small.validation.images, digits.validation.images)
    np.testing.assert_array_equal(small.test.images, digits.test.images)


def test_images_can_be_resized():
    large = data.load("digits", image_size=(32, 24))
    assert large.input_shape == (32, 24, 1)
    assert 0 <= large.train.images.min() < large.train.images.max() <= 1


def test_repr_says_what_it_holds(digits):
    text = repr(digits)
    assert "8×8×1, 10 classes" in text
    assert f"{len(digits.train)} train" in text
    assert repr(digits.test) == f"Split({len(digits.test)} images)"


# Pipelines ------------------------------------------------------------------


def gathered(pipeline):
    images, labels = zip(*pipeline.as_numpy_iterator(), strict=True)
    return np.concatenate(images), np.concatenate(labels)


def test_pipeline_of_a_test_split_keeps_the_order(digits):
    images, labels = gathered(digits.pipeline("test", batch_size=100))
    np.testing.assert_array_equal(images, digits.test.images)
    np.testing.assert_array_equal(labels, digits.test.labels)


def test_training_pipeline_shuffles_pairs_and_repeats_by_seed(digits):
    pipeline = digits.pipeline("train", batch_size=64)
    images, labels = gathered(pipeline)
    assert (labels != digits.train.labels).any()
    known = {
        image.tobytes(): label
        for image, label in zip(digits.train.images, digits.train.labels, strict=True)
    }
    found = {i.tobytes(): label for i, label in zip(images, labels, strict=True)}
    assert found == known
    np.testing.assert_array_equal(
        gathered(digits.pipeline("train", batch_size=64))[1], labels
    )
    second_pass = gathered(pipeline)[1]
    assert (second_pass != labels).any()
    other_seed = gathered(digits.pipeline("train", batch_size=64, seed=1))[1]
    assert (other_seed != labels).any()


def test_pipeline_knows_its_length_and_can_drop_the_remainder(digits):
    count = len(digits.train)
    assert digits.pipeline(batch_size=100).cardinality() == -(-count // 100)
    dropped = digits.pipeline(batch_size=100, drop_remainder=True)
    assert dropped.cardinality() == count // 100
    assert dropped.element_spec[0].shape == (100, 8, 8, 1)


@pytest.mark.parametrize("augment", ["standard", "shift"])
def test_augmentation_is_a_shift_and_for_some_a_mirror(digits, augment):
    options = {"batch_size": 400, "shuffle": False}
    images, _ = gathered(digits.pipeline("test", augment=augment, **options))
    again, _ = gathered(digits.pipeline("test", augment=augment, **options))
    np.testing.assert_array_equal(images, again)
    reach = 8 // 8
    kinds = set()
    for before, after in zip(digits.test.images, images, strict=True):
        padded = np.pad(before, ((reach, reach), (reach, reach), (0, 0)))
        candidates = {
            (y, x, mirrored): padded[y : y + 8, x : x + 8][:, :: -1 if mirrored else 1]
            for y in range(2 * reach + 1)
            for x in range(2 * reach + 1)
            for mirrored in (False, True)
        }
        matches = {k for k, v in candidates.items() if np.array_equal(v, after)}
        assert matches
        if len(matches) == 1:
            kinds |= matches
    mirrors = {False, True} if augment == "standard" else {False}
    expected = {(y, x, m) for y in range(3) for x in range(3) for m in mirrors}
    assert kinds == expected


def test_each_pass_is_augmented_anew(digits):
    pipeline = digits.pipeline("test", augment="shift", shuffle=False)
    assert (gathered(pipeline)[0] != gathered(pipeline)[0]).any()


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("initial_epoch", -1),
        ("split", "tset"),
        ("batch_size", 0),
        ("batch_size", 1.5),
        ("augment", "flip"),
    ],
)
def test_pipeline_refuses(digits, argument, value):
    with pytest.raises(ValueError, match=f"argument `{argument}`.*Received.*{value}"):
        digits.pipeline(**{argument: value})


# TensorFlow Datasets and folders --------------------------------------------


def test_prepared_set_is_read_by_data_dir_and_by_environment(tmp_path, monkeypatch):
    write_tfds(tmp_path)
    loaded = data.load("tiny_shapes", data_dir=tmp_path, validation=0.2)
    assert loaded.input_shape == (6, 4, 3)
    assert loaded.classes == 2
    assert [len(getattr(loaded, split)) for split in SPLITS] == [24, 6, 10]
    values = np.concatenate([loaded.train.images, loaded.validation.images])[:, 0, 0, 0]
    np.testing.assert_array_equal(
        np.sort(values), np.sort(np.arange(30, dtype="float32") / 255)
    )
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert len(data.load("tiny_shapes").test) == 10


def test_set_without_test_split_is_tested_on_validation_or_on_a_fifth(tmp_path):
    write_tfds(tmp_path, name="with_validation", splits=("train", "validation"))
    write_tfds(tmp_path, name="train_only", splits=("train",))
    loaded = data.load("with_validation", data_dir=tmp_path, validation=0)
    assert [len(getattr(loaded, split)) for split in SPLITS] == [30, 0, 10]
    loaded = data.load("train_only", data_dir=tmp_path, validation=0)
    assert [len(getattr(loaded, split)) for split in SPLITS] == [24, 0, 6]
    np.testing.assert_array_equal(
        loaded.test.images, data.load("train_only", tmp_path, seed=5).test.images
    )


def test_set_without_training_split_is_refused(tmp_path):
    write_tfds(tmp_path, name="test_only", splits=("test",))
    with pytest.raises(ValueError, match="a set with a training split"):
        data.load("test_only", data_dir=tmp_path)


def test_images_of_different_sizes_need_an_image_size(tmp_path):
    write_tfds(tmp_path, name="ragged", size=None)
    with pytest.raises(ValueError, match=r"argument `image_size`.*differ in size"):
        data.load("ragged", data_dir=tmp_path)
    loaded = data.load("ragged", data_dir=tmp_path, image_size=(5, 7))
    assert loaded.input_shape == (5, 7, 3)
    flat = np.sort(loaded.test.images.reshape(10, -1), axis=0)
    expected = np.broadcast_to(np.arange(10)[:, None] / 255, flat.shape)
    np.testing.assert_allclose(flat, expected, atol=1e-6)


def test_damaged_files_are_reported_in_one_message(tmp_path):
    write_tfds(tmp_path)
    for record in tmp_path.glob("**/*train*record*"):
        record.write_bytes(record.read_bytes()[:200])
    with pytest.raises(data.DatasetUnavailableError, match=r"cannot be read.*again"):
        data.load("tiny_shapes", data_dir=tmp_path)


def test_folder_of_images(tmp_path):
    write_folder(tmp_path)
    loaded = data.load(f"folder:{tmp_path}", image_size=(8, 8), validation=0.2)
    assert [len(getattr(loaded, split)) for split in SPLITS] == [16, 4, 10]
    for split in SPLITS:
        part = getattr(loaded, split)
        np.testing.assert_array_equal(part.images.max(axis=(1, 2, 3)), part.labels)


def write_pictures(root, count=10, suffix=".png"):
    """Folders of one class each; picture i of class c has the values 20·i + c."""
    for number, label in enumerate(("a", "b")):
        (root / label).mkdir(parents=True)
        for i in range(count):
            image = np.full((4, 6, 3), 20 * i + number, "uint8")
            path = root / label / f"{i}{suffix}"
            tf.io.write_file(str(path), tf.io.encode_png(image))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_pictures_are_the_same_without_tensorflow(channels, dtype, monkeypatch):
    values = np.random.default_rng(0).integers(0, 256, (5, 6, channels))
    picture = 256 * values + 200 if dtype == "uint16" else values
    content = tf.io.encode_png(picture.astype(dtype)).numpy()
    # The upper half of 16 bits; gray three times; no transparency.
    color = values[..., :3] if channels > 2 else values[..., :1]
    expected = np.broadcast_to(color, (5, 6, 3))
    np.testing.assert_array_equal(_folder._decoder()(content), expected)
    find = _folder.importlib.util.find_spec
    monkeypatch.setattr(
        _folder.importlib.util,
        "find_spec",
        lambda name: None if name == "tensorflow" else find(name),
    )
    found = _folder._decoder()(content)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected)


def test_folder_of_classes_is_split_by_name(tmp_path):
    write_pictures(tmp_path)
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "a" / "notes.txt").write_text("no picture")
    loaded = data.load(f"folder:{tmp_path}", validation=0, scale="none")
    assert loaded.input_shape == (4, 6, 3)
    assert [len(getattr(loaded, split)) for split in SPLITS] == [16, 0, 4]
    for split in ("train", "test"):
        part = getattr(loaded, split)
        np.testing.assert_array_equal(part.images[:, 0, 0, 0] % 20, part.labels)
    # Not class by class: a slice of the images is a sample of all of them.
    assert set(loaded.train.labels[:8]) == {0, 1}
    assert not as_set(loaded.train) & as_set(loaded.test)
    unit = data.load(f"folder:{tmp_path}", validation=0)
    np.testing.assert_allclose(unit.test.images * 255, loaded.test.images, rtol=1e-6)
    # A further picture moves at most one other between the splits.
    image = tf.io.encode_png(np.full((4, 6, 3), 255, "uint8"))
    tf.io.write_file(str(tmp_path / "a" / "new.png"), image)
    more = data.load(f"folder:{tmp_path}", validation=0, scale="none")
    assert len(as_set(more.test) ^ as_set(loaded.test)) <= 2


def test_folder_with_its_own_validation_split_keeps_it(tmp_path):
    for split, count in (("train", 5), ("test", 2), ("validation", 3)):
        write_pictures(tmp_path / split, count)
    loaded = data.load(f"folder:{tmp_path}")
    assert [len(getattr(loaded, split)) for split in SPLITS] == [10, 6, 4]


def test_a_test_split_needs_no_picture_of_every_class(tmp_path):
    for split, count in (("train", 5), ("val", 3), ("test", 2)):
        write_pictures(tmp_path / split, count)
    shutil.rmtree(tmp_path / "test" / "b")
    loaded = data.load(f"folder:{tmp_path}")
    assert [len(getattr(loaded, split)) for split in SPLITS] == [10, 6, 2]
    assert set(loaded.test.labels) == {0}


def test_a_class_may_be_called_train(tmp_path):
    write_pictures(tmp_path)
    (tmp_path / "b").rename(tmp_path / "train")
    assert data.load(f"folder:{tmp_path}").classes == 2


def test_pictures_of_several_sizes_are_named(tmp_path):
    write_pictures(tmp_path)
    odd = tmp_path / "b" / "odd.png"
    tf.io.write_file(str(odd), tf.io.encode_png(np.zeros((5, 6, 3), "uint8")))
    message = r"`image_size`.*0\.png has 4×6 pixels, .*odd\.png has 5×6 pixels"
    with pytest.raises(ValueError, match=message):
        data.load(f"folder:{tmp_path}")
    loaded = data.load(f"folder:{tmp_path}", image_size=(8, 8), scale="none")
    assert loaded.input_shape == (8, 8, 3)
    np.testing.assert_allclose(
        np.unique(loaded.train.images[loaded.train.images > 0].round()) % 20 < 2, True
    )


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("broken.png", b"junk", "Unknown image file format"),
        ("cut.png", None, ""),
        ("._0.png", b"Mac OS X", "macOS"),
        ("empty.jpg", b"", "empty"),
        ("dangling.png", "nowhere", "link to nothing"),
    ],
)
def test_pictures_that_cannot_be_read_are_named_or_left_out(
    tmp_path, name, content, reason
):
    write_pictures(tmp_path)
    path = tmp_path / "a" / name
    if isinstance(content, str):
        path.symlink_to(tmp_path / content)
    else:
        whole = (tmp_path / "a" / "1.png").read_bytes()
        path.write_bytes(whole[:40] if content is None else content)
    match = rf"`name`.*1 files that cannot be read: .*{name} \(.*{reason}.*skip_broken"
    with pytest.raises(ValueError, match=match):
        data.load(f"folder:{tmp_path}")
    loaded = data.load(f"folder:{tmp_path}", skip_broken=True, validation=0)
    assert len(loaded.train) + len(loaded.test) == 20
    (skipped,) = loaded.skipped
    assert str(path) in skipped
    assert "1 files left out" in repr(loaded)


def test_folder_without_pictures_is_refused(tmp_path):
    for folders in (("x",), ("train/a", "test/a"), ()):
        root = tmp_path / str(len(folders))
        root.mkdir()
        for folder in folders:
            (root / folder).mkdir(parents=True)
        with pytest.raises(ValueError, match=r"`name`.*without an image"):
            data.load(f"folder:{root}")
    write_pictures(tmp_path / "one")
    (tmp_path / "one" / "c").mkdir()
    with pytest.raises(ValueError, match=r"`name`.*one/c' without an image"):
        data.load(f"folder:{tmp_path / 'one'}")
    for split, names in (("train", "ab"), ("test", "abc")):
        for name in names:
            (tmp_path / "two" / split / name).mkdir(parents=True)
    with pytest.raises(ValueError, match=r"the classes \['a', 'b'\].*\['c'\]"):
        data.load(f"folder:{tmp_path / 'two'}")


def test_a_path_without_prefix_is_told_the_prefix(tmp_path, offline, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_pictures(tmp_path / "photos", 1)
    for name, full in (("photos", "folder:photos"), ("some.npz", "npz:some.npz")):
        with pytest.raises(ValueError, match=f"Did you mean '{full}'") as error:
            data.load(name)
        assert "toto" not in str(error.value)
    assert not offline


def test_files_of_arrays(tmp_path):
    x = np.arange(100 * 3, dtype="uint8").reshape(100, 3)
    y = np.arange(100) % 4
    np.savez(tmp_path / "one.npz", x=x, y=y)
    loaded = data.load(f"npz:{tmp_path}/one.npz", validation=0, scale="none")
    assert loaded.classes == 4
    assert loaded.input_shape == (3,)
    assert [len(getattr(loaded, split)) for split in SPLITS] == [80, 0, 20]
    both = np.concatenate([loaded.train.images, loaded.test.images])
    np.testing.assert_array_equal(np.unique(both[:, 0]), np.unique(x[:, 0]))
    unit = data.load(f"npz:{tmp_path}/one.npz")
    np.testing.assert_allclose(unit.test.images * 255, loaded.test.images, rtol=1e-6)

    with pytest.raises(ValueError, match="argument `image_size`"):
        data.load(f"npz:{tmp_path}/one.npz", image_size=(8, 8))

    y = y.astype("uint8")
    np.savez(tmp_path / "k.npz", x_train=x, y_train=y, x_test=x[:7], y_test=y[:7])
    loaded = data.load(f"npz:{tmp_path}/k.npz", validation=0)
    assert loaded.classes == 4
    assert [len(getattr(loaded, split)) for split in SPLITS] == [100, 0, 7]

    np.savez(tmp_path / "two.npz", a=x, b=x[:, :1] / 7, y=np.eye(4)[y])
    loaded = data.load(f"npz:{tmp_path}/two.npz")
    assert loaded.classes == 4
    assert "a 3, b 1" in repr(loaded)
    images, labels = next(iter(loaded.pipeline("test", batch_size=5)))
    assert {name: tuple(a.shape) for name, a in images.items()} == {
        "a": (5, 3),
        "b": (5, 1),
    }
    assert labels.shape == (5,)

    np.savez(tmp_path / "values.npz", x=x, y=np.linspace(0, 1, 100))
    loaded = data.load(f"npz:{tmp_path}/values.npz")
    assert (loaded.classes, loaded.train.labels.dtype) == (0, np.float32)


def test_whole_numbers_that_hardly_repeat_are_no_classes(tmp_path):
    """Prices, say: with one sample each nothing could be held out class by class."""
    prices = np.random.default_rng(0).permutation(100) * 1000
    np.savez(tmp_path / "p.npz", x=np.ones((100, 2)), y=prices)
    loaded = data.load(f"npz:{tmp_path / 'p.npz'}")
    assert loaded.classes == 0
    assert [len(getattr(loaded, split)) for split in SPLITS] == [72, 8, 20]
    assert loaded.test.labels.dtype == "float32"


def test_tables(tmp_path):
    path = tmp_path / "t.csv"
    rows = [f"{i},{'cat' if i % 2 else 'dog'},{i / 2}" for i in range(20)]
    path.write_text("width,label,height\n" + "\n".join(rows))
    loaded = data.load(f"csv:{path}", validation=0)
    assert loaded.classes == 2
    assert [len(getattr(loaded, split)) for split in SPLITS] == [16, 0, 4]
    for split in ("train", "test"):
        part = getattr(loaded, split)
        np.testing.assert_array_equal(part.images[:, 0], 2 * part.images[:, 1])
        np.testing.assert_array_equal(part.images[:, 0] % 2 == 0, part.labels)  # dog: 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("npz:absent.npz", None, "No such file"),
        ("npz:junk.npz", b"junk", "can be read"),
        ("npz:lacks.npz", {"x": [1.0]}, r"missing are \['y'\]"),
        ("npz:lengths.npz", {"x": [[1.0]], "y": [1, 2]}, r"'x' of dtype"),
        ("csv:empty.csv", b"", "header line"),
        ("csv:nolabel.csv", b"a,b\n1,2\n", r"\['a', 'b'\]"),
        ("csv:text.csv", b"a,label\n1,2\nx,2\n", "line 3.*'x'"),
        ("csv:short.csv", b"a,label\n1,2\n1\n", "line 3: 1 columns"),
    ],
)
def test_files_that_are_not_as_described(tmp_path, monkeypatch, name, content, message):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / name.partition(":")[2]
    if isinstance(content, dict):
        np.savez(path, **content)
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"(?s)`name`.*{message}"):
        data.load(name)


def test_a_resumed_run_sees_what_an_uninterrupted_one_sees(digits):
    options = {"batch_size": 300, "augment": "shift", "seed": 3}
    whole = digits.pipeline("train", **options)
    passes = [gathered(whole)[0] for _ in range(3)]
    resumed = digits.pipeline("train", initial_epoch=1, **options)
    next(iter(resumed))  # a look does not count
    for expected in passes[1:]:
        np.testing.assert_array_equal(gathered(resumed)[0], expected)
    assert (passes[0] != passes[1]).any()


def test_fit_advances_the_pass_by_one_each_epoch(digits):
    seen = []

    class Look(keras.layers.Layer):
        def call(self, x):
            tf.py_function(lambda v: seen.append(v.numpy()), [x], [])
            return x

    model = keras.Sequential([keras.Input((8, 8, 1)), Look(), keras.layers.Flatten()])
    model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=True)
    model.fit(digits.pipeline(batch_size=400), epochs=2, verbose=0)
    expected = digits.pipeline(batch_size=400)
    wanted = np.concatenate([gathered(expected)[0] for _ in range(2)])
    np.testing.assert_array_equal(np.concatenate(seen)[-len(wanted) :], wanted)


def test_pipeline_without_tensorflow(digits, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")

    def whole_pass(batches):
        images, labels = zip(*(batches[i] for i in range(len(batches))), strict=True)
        batches.on_epoch_end()
        batches.on_epoch_end()  # Keras calls it more than once
        return np.concatenate(images), np.concatenate(labels)

    pipeline = digits.pipeline(batch_size=100)
    first, second = whole_pass(pipeline), whole_pass(pipeline)
    assert {i.tobytes() for i in first[0]} == as_set(digits.train)
    assert (first[1] != second[1]).any()
    resumed = digits.pipeline(batch_size=100, initial_epoch=1)
    resumed[0], resumed.on_epoch_end()  # an epoch that was not read does not count
    np.testing.assert_array_equal(whole_pass(resumed)[0], second[0])
    assert len(digits.pipeline(batch_size=100, drop_remainder=True)) == (
        len(digits.train) // 100
    )
    shifted = digits.pipeline("test", batch_size=360, augment="shift")[0][0]
    for before, after in zip(digits.test.images, shifted, strict=True):
        padded = np.pad(before, ((1, 1), (1, 1), (0, 0)))
        assert any(
            np.array_equal(padded[y : y + 8, x : x + 8], after)
            for y in range(3)
            for x in range(3)
        )


def test_values_can_stay_as_they_are(digits, tmp_path):
    raw = data.load("digits", scale="none")
    np.testing.assert_allclose(raw.test.images, digits.test.images * 16)
    write_tfds(tmp_path)
    for size in (None, (6, 4)):
        raw = data.load("tiny_shapes", tmp_path, scale="none", image_size=size)
        np.testing.assert_allclose(
            np.sort(raw.test.images[:, 0, 0, 0]), np.arange(10), atol=1e-4
        )


def test_missing_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"existing folder.*nowhere"):
        data.load(f"folder:{tmp_path}/nowhere")


def test_unprepared_set_without_network_says_what_to_do(tmp_path, offline):
    with pytest.raises(
        data.DatasetUnavailableError,
        match=r"'cifar100' is not prepared in .*TFDS_DATA_DIR",
    ) as caught:
        data.load("cifar100", data_dir=tmp_path)
    assert len(offline) == 1
    assert str(tmp_path) in str(caught.value)
    assert caught.value.__suppress_context__


def test_misspelt_set_gets_suggestions_and_no_download(tmp_path, offline):
    with pytest.raises(ValueError, match=r"argument `name`.*Did you mean.*cifar100"):
        data.load("cifar1000", data_dir=tmp_path)
    assert not offline


def test_set_that_is_no_image_classification_is_refused(tmp_path, offline):
    with pytest.raises(ValueError, match="images with one class label"):
        data.load("ag_news_subset", data_dir=tmp_path)
    assert not offline


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("name", ""),
        ("name", None),
        ("validation", 1),
        ("validation", -0.1),
        ("validation", "0.1"),
        ("seed", -1),
        ("seed", 0.5),
        ("limit", 0),
        ("limit", 2.5),
        ("image_size", 32),
        ("image_size", (32, 0)),
    ],
)
def test_bad_arguments_are_refused_before_any_download(offline, argument, value):
    arguments = {"name": "cifar100", argument: value}
    another_kind = value is None or value in ("0.1", 32)
    kind = TypeError if another_kind else ValueError
    with pytest.raises(kind, match=f"argument `{argument}`"):
        data.load(**arguments)
    assert not offline


def test_data_dir_that_is_a_file_is_refused(tmp_path, offline):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ValueError, match="argument `data_dir`"):
        data.load("cifar100", data_dir=file)
    assert not offline


def test_limit_beyond_the_set_is_refused():
    with pytest.raises(ValueError, match=r"at most the \d+ training images"):
        data.load("digits", limit=2000)


def test_mnist(mnist_dir):
    mnist = data.load("mnist", data_dir=mnist_dir, limit=1000)
    assert (len(mnist.train), len(mnist.test)) == (1000, 10000)
    assert abs(len(mnist.validation) - 6000) <= 5  # rounded class by class
    assert mnist.input_shape == (28, 28, 1)
    assert mnist.classes == 10


def test_arrays_beside_prepared_sets_take_the_place_of_a_set(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (12, 4, 4, 3), np.uint8)
    labels = np.arange(12) % 2
    np.savez(
        tmp_path / "cifar10.npz",
        x_train=images[:8],
        y_train=labels[:8],
        x_test=images[8:],
        y_test=labels[8:],
    )
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    loaded = data.load("cifar10", data_dir=tmp_path, validation=0.25)
    assert (loaded.name, loaded.classes, loaded.input_shape) == (
        "cifar10",
        2,
        (4, 4, 3),
    )
    np.testing.assert_allclose(loaded.test.images, images[8:] / 255.0, rtol=1e-6)
    np.testing.assert_array_equal(loaded.test.labels, labels[8:])
    assert (len(loaded.train), len(loaded.validation)) == (6, 2)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert len(data.load("cifar10").test) == 4
    with pytest.raises(ValueError, match="image_size"):
        data.load("cifar10", data_dir=tmp_path, image_size=(8, 8))
    with pytest.raises(ImportError, match="TensorFlow Datasets"):
        data.load("mnist", data_dir=tmp_path)
