"""Hooks of the site's build (mkdocs.yml): formulas, links, notebooks, names.

Formulas become MathML, which browsers show by themselves, so that a page needs no
script from another server. Links out of docs/ become names of files. The examples can
be had as notebooks, and a table lists all public names.
"""

import html
import re
from pathlib import Path
from typing import Any

import document_names  # beside this file, where mkdocs looks, too
import make_notebooks
import nbformat
from latex2mathml.converter import convert
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
_FORMULA = re.compile(
    r'<(div|span) class="arithmatex">\s*\\([\[(])(.*?)\\[\])]\s*</\1>', re.S
)
_OUT = re.compile(r"\[([^\]]+)\]\((\.\./)+((?!docs/)[\w./-]+)\)")


def on_page_content(content: str, **_: Any) -> str:
    """Formulas, which arithmatex has marked, as MathML."""

    def formula(match: re.Match[str]) -> str:
        display = "block" if match[2] == "[" else "inline"
        return convert(html.unescape(match[3].strip()), display=display)

    return _FORMULA.sub(formula, content)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Names in the place of links to the repository's files, which the site lacks."""
    place = (ROOT / "docs" / page.file.src_uri).parent

    def link(match: re.Match[str]) -> str:
        target = (place / match[0].split("](")[1][:-1]).resolve()
        if target.is_relative_to(ROOT / "docs"):
            return match[0]
        if not target.exists():
            raise FileNotFoundError(f"{page.file.src_uri} links to {target}")
        return f"`{target.relative_to(ROOT)}`"

    return _OUT.sub(link, markdown)


def on_files(files: Any, config: Any, **_: Any) -> Any:
    """Adds a notebook for each example, and the table of all names."""
    page = File.generated(config, "reference/names.md", content=document_names.table())
    files.append(page)
    for script in make_notebooks.examples():
        content = nbformat.writes(make_notebooks.notebook(script))
        path = f"notebooks/{make_notebooks.name(script)}"
        files.append(File.generated(config, path, content=content))
    return files
