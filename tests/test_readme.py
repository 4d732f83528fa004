"""What the README shows works as it is written there."""

import re
import shlex
from pathlib import Path

import pytest

from tfcompress import cli

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_example_runs_and_leaves_its_files(tmp_path, monkeypatch):
    (example,) = blocks("python")
    assert "end=20" in example
    assert "epochs=30" in example
    shorter = example.replace("end=20", "end=1").replace("epochs=30", "epochs=2")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(shorter, names)
    assert {p.name for p in tmp_path.iterdir()} == {"small.keras"}
    assert names["small"].count_params() < names["model"].count_params() / 4


def shell_commands():
    return [
        shlex.split(line, comments=True)
        for block in blocks("sh")
        for line in block.splitlines()
        if line.strip() and not line.startswith("pip ")
    ]


@pytest.mark.parametrize("command", shell_commands(), ids=" ".join)
def test_commands_exist(command):
    if command[0] == "tfcompress":
        assert callable(cli._parse(command).command)
    else:
        assert (ROOT / command[0]).stat().st_mode & 0o100


def test_the_picture_is_small():
    assert (ROOT / "docs" / "report.png").stat().st_size < 200_000


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target
