"""Documentation and code say the same: examples, arguments, errors, links."""

import ast
import builtins
import functools
import importlib
import inspect
import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest

import tfcompress as tfc

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
MODULES = sorted(
    name for name in tfc.__all__ if inspect.ismodule(getattr(tfc, name, None))
)

# A block of a page is run if this stands before it; blocks of a page share names.
RUNS = "<!-- runs -->"
# So is one of these, with the names of `given`, and for few epochs.
GIVEN = "<!-- runs with a model and data -->"
# Said in the place of it, and why: the block is only read.
NOT_RUN = re.compile(r"<!-- not run: (.+?) -->")
_BLOCK = re.compile(
    r"(?:^(<!-- [^\n]*? -->)\n+)?^( *)```python\n(.*?)^ *```$", re.MULTILINE | re.DOTALL
)


def blocks(page):
    """Pairs of the comment before a block of Python, or "", and its code."""
    found = _BLOCK.findall(page.read_text(encoding="utf-8"))
    return [(comment, inspect.cleandoc(code)) for comment, _, code in found]


def label(page):
    return str(page.relative_to(ROOT))


def given():
    """What a page takes for granted: a trained model, its data, and their parts."""
    data = tfc.data.load("digits")
    model = tfc.zoo.lenet5(0.4, data.classes, data.input_shape)
    loss = "sparse_categorical_crossentropy"
    model.compile("adam", loss, metrics=["accuracy"])
    x, y = data.train.images[:512], data.train.labels[:512]
    model.fit(x, y, epochs=3, verbose=0)
    return {
        **{"tfc": tfc, "shutil": shutil, "loss": loss, "model": model, "dense": model},
        **{"x": x, "y": y, "x_train": x, "train": data.pipeline("train")},
        **{"x_val": x[:64], "y_val": y[:64], "x_test": x[:64], "y_test": y[:64]},
    }


class Short(ast.NodeTransformer):
    """Trains for two epochs where the page says many, for one where it says few.

    Pages show the settings of real training runs; a test asks whether the calls hold.
    """

    def visit_keyword(self, node):
        if node.arg and node.arg.endswith("epochs"):
            node.value = ast.Constant(2 if node.value.value > 7 else 1)
        return self.generic_visit(node)


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if any(c in (RUNS, GIVEN) for c, _ in blocks(page))],
    ids=label,
)
def test_blocks_that_are_marked_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    if any(comment == GIVEN for comment, _ in blocks(page)):
        names |= given()
    for comment, code in blocks(page):
        tree = ast.parse(code)
        if comment == GIVEN:
            tree = ast.fix_missing_locations(Short().visit(tree))
        if comment in (RUNS, GIVEN):
            exec(compile(tree, label(page), "exec"), names)


# Run whole in the tests named beside them.
ELSEWHERE = {
    "README.md": "tests/test_readme.py",
    "docs/examples.md": "tests/examples/test_examples.py",
    "docs/faq.md": "tests/test_faq.py",
    "docs/migrate_from_tfmot.md": "tests/quantization/test_docs.py",
    "docs/quantization.md": "tests/quantization/test_docs.py",
}


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_every_block_runs_or_says_why_not(page):
    if label(page) in ELSEWHERE:
        assert (ROOT / ELSEWHERE[label(page)]).exists()
    else:
        assert all(comment for comment, _ in blocks(page))


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_comments_before_blocks_are_known(page):
    for comment, _ in blocks(page):
        assert comment in ("", RUNS, GIVEN) or NOT_RUN.fullmatch(comment), comment


def named(node):
    """The object that `tfc.a.b` stands for, and its dotted name."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not (isinstance(node, ast.Name) and node.id == "tfc" and parts):
        return None
    return functools.reduce(getattr, reversed(parts), tfc)


def wrong_keywords(call):
    """Keywords of a call of a public name that it does not take."""
    value = named(call.func)
    if value is None:
        return set()
    parameters = inspect.signature(value).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return set()
    return {k.arg for k in call.keywords if k.arg} - {p.name for p in parameters}


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)], ids=label)
def test_names_and_arguments_in_examples_exist(page):
    for _, code in blocks(page):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.Attribute):
                named(node)  # an AttributeError names what is missing
            elif isinstance(node, ast.Call):
                assert not wrong_keywords(node), ast.unparse(node)


def test_wrong_names_and_arguments_are_found():
    call = ast.parse("tfc.callbacks.FilterPruning(0.5, criterium='l1')").body[0].value
    assert wrong_keywords(call) == {"criterium"}
    with pytest.raises(AttributeError):
        named(ast.parse("tfc.callbacks.Prune").body[0].value)


def public_callables():
    """Functions and classes that are public names, by full name."""
    found = {}
    for name in MODULES:
        module = importlib.import_module(f"tfcompress.{name}")
        for public in module.__all__:
            value = getattr(module, public)
            if inspect.isclass(value) or inspect.isfunction(value):
                found[f"{name}.{public}"] = value
    found["finalize"] = tfc.finalize
    return found


def documented_arguments(value):
    """Names in the sections `Args` and `Attributes` of a docstring."""
    text = inspect.getdoc(value) or ""
    if inspect.isclass(value):
        text += "\n\n" + (inspect.getdoc(value.__init__) or "")
    names = set()
    for section in re.findall(
        r"^(?:Args|Attributes):\n((?:[ ]+.*\n|\n)*)", text + "\n", re.M
    ):
        for line in re.findall(r"^    ([\w*`, .]+?):", section, re.M):
            names |= {part.strip(" `*") for part in line.split(",")}
    return names


@pytest.mark.parametrize("name", public_callables())
def test_every_argument_is_documented(name):
    value = public_callables()[name]
    if inspect.isclass(value) and issubclass(value, (Exception, tuple)):
        return
    arguments = {
        p.name
        for p in inspect.signature(value).parameters.values()
        if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL) and p.name[0] != "_"
    }
    assert arguments <= documented_arguments(value)


FIGURES = sorted((ROOT / "docs" / "figures").glob("*.svg"))
METHODS = [
    "pruning_while_training",
    "magnitude_pruning",
    "admm_nn",
    "green_ai_gating",
    "activation_density",
    "cross_stack",
]


@pytest.mark.parametrize("method", METHODS)
def test_the_page_of_a_method_begins_with_its_figure(method):
    page = (ROOT / "docs" / f"{method}.md").read_text(encoding="utf-8")
    beginning = page.partition("\n## ")[0]
    (alternative, name) = re.findall(r"!\[(.+)\]\(figures/(\w+)\.svg\)", beginning)[0]
    assert len(alternative) > 40
    assert (ROOT / "docs" / "figures" / f"{name}.svg") in FIGURES


@pytest.mark.parametrize("figure", FIGURES, ids=lambda path: path.stem)
def test_figures_are_small_and_readable_in_both_schemes(figure):
    text = figure.read_text(encoding="utf-8")
    assert len(text.encode()) < 60_000
    picture = ElementTree.fromstring(text)
    assert picture[0].tag.endswith("title") and picture[0].text
    # Its own background, and colors for a dark scheme.
    assert picture[2].get("class") == "paper"
    light, dark = picture[1].text.split("@media(prefers-color-scheme:dark)")
    for name in re.findall(r"\.(\w+)\{", light):
        assert f".{name}" in dark or f".{name}{{font-size" in light
    # What the script draws is what is there, and no more.
    script = (ROOT / "scripts" / "draw_methods.py").read_text(encoding="utf-8")
    assert f'    "{figure.stem}": {figure.stem},\n' in script


# Exceptions --------------------------------------------------------------------------


@functools.cache
def functions_of(module):
    """The functions of a module's file, by name."""
    tree = ast.parse(inspect.getsource(module))
    return {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}


def raised(node, module, seen):
    """Names of the exceptions that a function raises, itself or in its helpers.

    Helpers are the functions of the same file that it calls by name.
    """
    found = set()
    for part in ast.walk(node):
        if isinstance(part, ast.Raise) and part.exc is not None:
            error = part.exc.func if isinstance(part.exc, ast.Call) else part.exc
            found.add(ast.unparse(error).rpartition(".")[2])
        elif isinstance(part, ast.Call) and isinstance(part.func, ast.Name):
            helper = functions_of(module).get(part.func.id)
            if helper is not None and helper.name not in seen:
                seen.add(helper.name)
                found |= raised(helper, module, seen)
    return {name for name in found if name[0].isupper()}  # not `raise error`


def parts_that_raise(value):
    """Pairs of a docstring and the functions that it speaks for."""
    tree = ast.parse(inspect.getsource(value)).body[0]
    if not inspect.isclass(value):
        return [(inspect.getdoc(value), [tree])]
    methods = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    begin = [node for node in methods if node.name in ("__init__", "__post_init__")]
    # What Keras calls is documented there.
    theirs = re.compile(r"_|on_|build$|call$|compute_output_s|[gs]et_(config|state)$")
    public = [node for node in methods if not theirs.match(node.name)]
    whole = inspect.getdoc(value)
    return [(whole, begin)] + [
        (whole + (ast.get_docstring(node) or ""), [node]) for node in public
    ]


def undocumented(value):
    """Exceptions that a public name raises and its docstring does not tell.

    The name of a base class will do: `ValueError` for `InvalidFileError`.
    """
    missing = set()
    module = inspect.getmodule(value)
    known = {**vars(builtins), **vars(module)}
    for text, nodes in parts_that_raise(value):
        for node in nodes:
            for name in raised(node, module, set()):
                classes = known[name].__mro__
                bases = {base.__name__ for base in classes[: classes.index(Exception)]}
                if not any(base in text for base in bases):
                    missing.add(name)
    return missing


@pytest.mark.parametrize("name", public_callables())
def test_every_exception_is_documented(name):
    value = public_callables()[name]
    if inspect.isclass(value) and issubclass(value, (Exception, tuple)):
        return
    assert not undocumented(value)


def _helper(x):
    if x is None:
        raise TypeError("no")


def _tells_half(x):
    """Works.

    Raises:
        ValueError: if x is negative.
    """
    _helper(x)
    if x < 0:
        raise ValueError("no")


def test_undocumented_exceptions_are_found():
    assert undocumented(_tells_half) == {"TypeError"}
