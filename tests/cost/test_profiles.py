"""Profiles load, say where they come from, and refuse what they do not know."""

import time

import pytest

from tfcompress import cost

VALID = """
name = "mine"
description = "a chip"
node_nm = 7
operands = "not stated"
sources = ["data sheet"]
[arithmetic.int8]
multiply_pj = 0.1
add_pj = 0.02
[memory]
word_bits = 32
off_chip_pj = 640
[[memory.on_chip]]
bytes = 1024
pj = 5
"""


SECOND = "[[memory.on_chip]]\nbytes = 4096\n"


def test_every_profile_of_the_library_states_its_sources():
    assert cost.profiles() == (
        "cross_stack_65nm",
        "cross_stack_65nm_stl10",
        "horowitz_45nm",
    )
    for name in cost.profiles():
        profile = cost.profile(name)
        assert profile.name == name
        assert profile.sources and profile.operands and profile.node_nm


def test_horowitz_figures_are_those_of_the_talk():
    profile = cost.profile("horowitz_45nm")
    for name, multiply, add in (
        ("float32", 3.7, 0.9),
        ("float16", 1.1, 0.4),
        ("int8", 0.2, 0.1),
    ):
        assert profile.arithmetic[name].multiply == pytest.approx(multiply * 1e-12)
        assert profile.arithmetic[name].add == pytest.approx(add * 1e-12)
    sizes = {size: joules * 64e12 for size, joules in profile.memory.on_chip}
    assert sizes == pytest.approx({8192: 10, 32768: 20, 1048576: 100})
    assert 1300 <= profile.memory.off_chip * 64e12 <= 2600


def test_a_file_of_ones_own_is_read_in_joules(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(VALID)
    profile = cost.profile(path)
    assert profile.arithmetic["int8"].multiply == pytest.approx(1e-13)
    assert profile.memory.off_chip == pytest.approx(2e-11)
    assert profile.memory.on_chip == ((1024, pytest.approx(5e-12 / 32)),)
    assert cost.profile(str(path)) == profile


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "mine"', "", "`name` is missing"),
        ("node_nm = 7", "node_nm = -7", "`node_nm` must be a positive"),
        ('["data sheet"]', "[]", "`sources`"),
        ("multiply_pj = 0.1", 'multiply_pj = "low"', "`arithmetic.int8.multiply_pj`"),
        ("multiply_pj = 0.1", "multiply_pj = 0", "`arithmetic.int8.multiply_pj`"),
        ("add_pj = 0.02", "add_pj = nan", "`arithmetic.int8.add_pj`"),
        ("add_pj = 0.02", "add_nj = 0.02", "`arithmetic.int8.add_pj` is missing"),
        ("add_pj = 0.02", "add_pj = 0.02\nspeed = 3", "`arithmetic.int8.speed`"),
        ("arithmetic.int8", "arithmetic.int", "`arithmetic.int`"),
        ("bytes = 1024", "bytes = 0", "`memory.on_chip.bytes`"),
        ("bytes = 1024", "bytes = 0.5", "`memory.on_chip.bytes` must be a whole"),
        (
            "off_chip_pj = 640",
            "off_chip_pj = 640\nindex_bits = 4.9",
            "`memory.index_bits` must be a whole",
        ),
        ("pj = 5\n", f"pj = 50\n{SECOND}pj = 5\n", "grow in bytes and in energy"),
        ("1024", f"4096\npj = 5\n{SECOND}", "grow in bytes and in energy"),
        ("[memory]", "[memory", "Expected"),
    ],
)
def test_an_invalid_file_is_refused_with_the_key(tmp_path, old, new, message):
    path = tmp_path / "mine.toml"
    path.write_text(VALID.replace(old, new))
    with pytest.raises(ValueError, match=message):
        cost.profile(path)


def test_an_unknown_profile_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="horowitz_45nm"):
        cost.profile("horowitz_7nm")
    with pytest.raises(TypeError, match="name_or_path"):
        cost.profile(45)


def test_the_template_must_be_filled_in_before_it_works(tmp_path):
    path = cost.write_template(tmp_path / "mine.toml")
    with pytest.raises(ValueError, match="must be"):
        cost.profile(path)
    filled = path.read_text()
    for old, new in (
        ('description = ""', 'description = "a chip"'),
        ("node_nm = 0", "node_nm = 7"),
        ('operands = ""', 'operands = "not stated"'),
        ("sources = []", 'sources = ["data sheet"]'),
        ("_pj = 0.0", "_pj = 1.0"),
        ("\npj = 0.0", "\npj = 1.0"),
    ):
        filled = filled.replace(old, new)
    path.write_text(filled)
    assert cost.profile(path).drum.default_bits == (5, 5)
    with pytest.raises(ValueError, match=r"\.toml"):
        cost.write_template(tmp_path / "mine.txt")


def test_the_calibration_script_derives_the_profiles_as_shipped(
    monkeypatch, script, cross_stack_cost
):
    calibration = script("scripts/calibrate_cross_stack.py")
    monkeypatch.setattr(
        calibration, "macs", lambda *names: cross_stack_cost(*names).macs
    )
    assert calibration.main() == 0
    # Constants of the paper's Table II: one for each data set.
    constants = {name: round(pj, 1) for name, pj in calibration.constants().items()}
    assert constants["cifar10", "regular"] == 319.9
    assert constants["cifar10", "shallow"] == 320.1
    assert constants["stl10", "regular"] == 335.7
    assert constants["stl10", "shallow"] == 335.8


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a=" + "[" * 50_000, "a line has more than 2000 characters"),
        ("a=" + "[\n" * 5_000, "nested too deeply"),
        ("a." * 20_000 + "a=1", "a line has more than 2000 characters"),
        ("#\n" * 40_000, "more than 65536 characters"),
    ],
    ids=["one-line", "deep", "dotted", "long"],
)
def test_hostile_toml_costs_one_line_and_little_time(tmp_path, text, message):
    path = tmp_path / "hostile.toml"
    path.write_text(text)
    start = time.process_time()
    with pytest.raises(ValueError, match=f"argument `name_or_path`.*{message}"):
        cost.profile(path)
    assert time.process_time() - start < 1
