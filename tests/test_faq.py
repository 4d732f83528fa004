"""The answers in the list of questions run as they stand."""

import re
from pathlib import Path

FAQ = Path(__file__).resolve().parents[1] / "docs" / "faq.md"


def test_every_answer_runs(tmp_path, monkeypatch):
    text = FAQ.read_text(encoding="utf-8")
    beginning, *sections = text.split("\n## ")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec("\n".join(_blocks(beginning)), names)
    for section in sections:
        question = section.partition("\n")[0]
        assert _blocks(section), f"no code answers {question!r}"
        for block in _blocks(section):
            try:
                exec(compile(block, question, "exec"), names)
            except Exception as error:
                raise AssertionError(f"the answer to {question!r} fails") from error


def _blocks(text):
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
