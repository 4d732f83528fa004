"""Measured energy comes from counters, or is not there at all."""

import pytest

from tfcompress import cost


def counter(folder, path, name, microjoules, limit=1000):
    domain = folder / path
    domain.mkdir()
    (domain / "name").write_text(f"{name}\n")
    (domain / "energy_uj").write_text(f"{microjoules}\n")
    (domain / "max_energy_range_uj").write_text(f"{limit}\n")
    return domain / "energy_uj"


def test_energy_is_the_difference_of_the_counters(tmp_path):
    package = counter(tmp_path, "intel-rapl:0", "package-0", 100)
    core = counter(tmp_path, "intel-rapl:0:0", "core", 50)
    memory = counter(tmp_path, "intel-rapl:0:1", "dram", 900)
    with cost.measure_energy(tmp_path) as energy:
        package.write_text("400")
        core.write_text("300")
        memory.write_text("100")  # wrapped at 1000
    assert energy.domains == {
        "package-0 (intel-rapl:0)": pytest.approx(300e-6),
        "dram (intel-rapl:0:1)": pytest.approx(200e-6),
    }
    assert energy.joules == pytest.approx(500e-6)
    assert energy.label == "measured" and energy.seconds > 0
    assert "measured" in str(energy)


def test_without_a_counter_nothing_is_estimated(tmp_path):
    with cost.measure_energy(tmp_path / "none") as energy:
        pass
    assert (energy.joules, energy.seconds) == (None, None)
    assert str(energy) == "not measured on this machine"


def test_an_unreadable_counter_is_no_counter(tmp_path):
    package = counter(tmp_path, "intel-rapl:0", "package-0", 100)
    with cost.measure_energy(tmp_path) as energy:
        package.unlink()
    assert str(energy) == "not measured on this machine"


def test_the_energy_of_a_block_that_fails_is_measured_too(tmp_path):
    package = counter(tmp_path, "intel-rapl:0", "package-0", 100)
    with pytest.raises(RuntimeError), cost.measure_energy(tmp_path) as energy:
        package.write_text("200")
        raise RuntimeError
    assert energy.joules == pytest.approx(100e-6)
