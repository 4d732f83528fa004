"""The package as a whole: what it imports, who knows whom, what is documented."""

import ast
import importlib
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

import tfcompress

PACKAGE = Path(tfcompress.__file__).parent
MODULES = sorted(
    name
    for name in tfcompress.__all__
    if (PACKAGE / f"{name}.py").exists() or (PACKAGE / name / "__init__.py").exists()
)

# Heavy or optional: imported inside the functions that need them, or never.
NEVER_AT_IMPORT = {
    "tensorflow_model_optimization",
    "tf_keras",
    "tensorflow_datasets",
    "sklearn",
    "joblib",
    "ray",
    "ai_edge_litert",
    "vl_convert",
    "matplotlib",
    "pandas",
}

# Who may import whom, by the first part of the module name. The helpers are small
# and below everything; `_samples` reads what `data` loads.
HELPERS = {
    "_checks",
    "_files",
    "_figures",
    "_made",
    "_processes",
    "_progress",
    "_share",
    "_models",
    "_own",
    "_samples",
    "_taps",
    "_toml",
    "_meters",
}
KNOWS = {
    "structure": {"_checks", "_made", "_own"},
    "_checks": set(),
    "_files": set(),
    "_figures": set(),
    "_made": set(),
    "_processes": set(),
    "_progress": set(),
    "_share": {"_checks"},
    "_toml": set(),
    "_models": {"_files", "_made"},
    "_own": {"_models"},
    "_samples": {"structure", "data"},
    "_taps": {"structure"},
    "_meters": {"_samples", "_taps"},
    "schedules": set(),
    "data": set(),
    "zoo": set(),
    "constraints": set(),
    "ops": set(),
    "layers": {"ops", "structure", "policy"},
    "gates": {"structure", "policy", "layers"},
    "criteria": {"structure"},
    "policy": {"structure"},
    "cost": {"structure"},
    "export": {"structure", "cost", "ops", "policy", "layers", "quantization"},
    "quantization": {"structure", "policy", "layers"},
    "report": {"structure", "cost", "export"},
    "callbacks": {
        "structure",
        "schedules",
        "criteria",
        "policy",
        "constraints",
        "cost",
        "layers",
        "ops",
    },
    "analysis": {"structure", "policy", "cost", "export", "callbacks"},
    "interop": {"schedules", "policy", "layers", "quantization"},
    "training": {
        "structure",
        "schedules",
        "policy",
        "constraints",
        "callbacks",
        "cost",
        "layers",
    },
    "_finalize": {"structure", "policy", "layers", "gates"},
    "compression": {
        "_finalize",
        "callbacks",
        "constraints",
        "cost",
        "criteria",
        "data",
        "export",
        "gates",
        "layers",
        "policy",
        "report",
        "schedules",
        "structure",
        "training",
        "quantization",
    },
    "__main__": {"cli"},
    "cli": {
        "compression",
        "structure",
        "cost",
        "export",
        "report",
        "data",
        "_finalize",
    },
}


def in_fresh_python(code):
    """Runs `code`, which prints JSON last, in a Python of its own."""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return json.loads(result.stdout.splitlines()[-1])


def test_import_of_the_package_imports_nothing_heavy():
    modules = in_fresh_python(
        "import json, sys, tfcompress; print(json.dumps(list(sys.modules)))"
    )
    assert (NEVER_AT_IMPORT | {"tensorflow", "keras"}) & set(modules) == set()


def test_a_program_that_imports_keras_and_the_package_loads_saved_models(tmp_path):
    model = tfcompress.gates.add_layer_gates(tfcompress.zoo.resnet20(width=0.125))
    path = tmp_path / "gated.keras"
    model.save(path)
    loaded = in_fresh_python(
        "import json, keras, tfcompress\n"
        f"model = keras.saving.load_model({str(path)!r})\n"
        "print(json.dumps([type(layer).__name__ for layer in model.layers]))"
    )
    assert loaded.count("LayerGate") == 9


def test_import_of_every_module_imports_no_extra():
    modules = in_fresh_python(
        "import importlib, json, sys\n"
        "import keras, tensorflow  # which bring some of their own\n"
        "before = set(sys.modules)\n"
        f"for name in {MODULES}: importlib.import_module('tfcompress.' + name)\n"
        "print(json.dumps(list(set(sys.modules) - before)))"
    )
    assert NEVER_AT_IMPORT & set(modules) == set()


def test_public_names_resolve():
    for name in tfcompress.__all__:
        value = getattr(tfcompress, name)
        if inspect.ismodule(value):
            assert value.__file__, f"tfcompress.{name} is an empty folder"
    assert set(dir(tfcompress)) == set(tfcompress.__all__)
    with pytest.raises(AttributeError, match="no attribute 'prune'"):
        _ = tfcompress.prune


def own_methods(cls):
    """Public methods of `cls` that no base class from elsewhere declares."""
    foreign = [c for c in cls.__mro__ if not c.__module__.startswith("tfcompress")]
    return [
        name
        for name, _ in inspect.getmembers(cls, inspect.isfunction)
        if not name.startswith("_") and not any(name in vars(c) for c in foreign)
    ]


@pytest.mark.parametrize("name", MODULES)
def test_public_names_are_documented(name):
    module = importlib.import_module(f"tfcompress.{name}")
    assert inspect.getdoc(module)
    for public in module.__all__:
        value = getattr(module, public)
        if not (inspect.isclass(value) or inspect.isfunction(value)):
            continue
        assert value.__doc__, f"{name}.{public} has no docstring"
        if inspect.isclass(value):
            for member in own_methods(value):
                documented = inspect.getdoc(getattr(value, member))
                assert documented, f"{name}.{public}.{member} has no docstring"


def imports(file):
    """Full names of what `file` imports from tfcompress when it runs."""
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.startswith("tfcompress.")}


def imported_parts(file):
    """First parts of the tfcompress modules that `file` imports when it runs."""
    return {name.split(".")[1] for name in imports(file)}


def part_of(file):
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


SOURCES = [f for f in sorted(PACKAGE.rglob("*.py")) if f != PACKAGE / "__init__.py"]


@pytest.mark.parametrize("file", SOURCES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_dependencies_point_one_way(file):
    part = part_of(file)
    helpers = set() if part in HELPERS | {"structure"} else HELPERS
    allowed = KNOWS[part] | helpers | {part}
    assert imported_parts(file) <= allowed


def test_the_table_of_dependencies_has_no_cycle():
    def reach(part, seen):
        for other in KNOWS[part]:
            assert other not in seen, f"{other} depends on itself"
            reach(other, {*seen, other})

    for part in KNOWS:
        reach(part, {part})


def file_of(name):
    """The file that the longest importable beginning of a dotted name stands for."""
    parts = name.split(".")[1:]
    while parts:
        place = PACKAGE.joinpath(*parts)
        for file in (place.with_suffix(".py"), place / "__init__.py"):
            if file.exists():
                return file
        parts.pop()
    return PACKAGE / "__init__.py"


def circles(graph):
    """Sets of at least two nodes that all reach each other."""

    def reached(start):
        seen, waiting = set(), [start]
        while waiting:
            for other in graph[waiting.pop()] - seen:
                seen.add(other)
                waiting.append(other)
        return seen

    reach = {node: reached(node) for node in graph}
    return {
        frozenset(other for other in reach[node] if node in reach[other])
        for node in graph
        if node in reach[node]
    }


def test_no_file_imports_another_in_a_circle():
    # The package itself loads everything lazily, by name.
    graph = {
        file: {file_of(name) for name in imports(file)} - {PACKAGE / "__init__.py"}
        for file in SOURCES
    }
    found = {
        frozenset(str(file.relative_to(PACKAGE)) for file in circle)
        for circle in circles(graph)
    }
    assert found == set()


def test_circles_are_found():
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}, "e": {"e"}}
    assert circles(graph) == {frozenset("bc"), frozenset("e")}


def test_nothing_uses_the_keras_inside_tensorflow():
    for file in SOURCES:
        used = {
            ast.unparse(node)
            for node in ast.walk(ast.parse(file.read_text()))
            if isinstance(node, ast.Attribute)
        }
        assert "tf.keras" not in used, file
