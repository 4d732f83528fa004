"""How a model was made, step by step, and how this travels with it.

A record is a dict of plain values that JSON can hold. What is written by whom:

| key | content |
|---|---|
| `method` | what was done, such as `"FilterPruning"` or `"finalize"` |
| `config` | the settings of the method, from its `get_config` |
| `epochs` | epochs of training that it took |
| `command` | the command line of the program |
| `package` | version of this package |

Further keys are free. Records belong to a model object. `carry` hands them to a model
that is made from another one; the structure engine does so for every copy that it
makes. A model with records saves them with itself: they lie among the assets of its
`.keras` file, where `made` finds them. Keras ignores them when it loads the file, so
that nothing of this library is needed; the model that it returns has no records, but
the path has, and what this library loads has them.
"""

from __future__ import annotations

import json
import os
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

__all__ = ["carry", "made", "note"]

_ATTRIBUTE = "_how_it_was_made"
_FILE = "tfcompress_made.json"
_MOST_BYTES = 1 << 20


def note(model: keras.Model, method: str, **facts: Any) -> None:
    """Adds a record to `model`.

    Args:
        model: the model that was made.
        method: what was done.
        **facts: further keys; what JSON cannot hold is written as text.
    """
    record = {"method": method, **facts}
    record.setdefault("command", " ".join(sys.argv)[:500])
    plain = json.loads(json.dumps(record, default=str))
    _attach(model, [*made(model), plain])


def carry(source: keras.Model | str | os.PathLike[str], result: keras.Model) -> None:
    """Gives `result`, made from the model or file `source`, the records of it."""
    records = made(source)
    if records and result is not source:
        _attach(result, [*records, *made(result)])


def made(model: keras.Model | str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The records of a model, or of the model in a `.keras` file, oldest first.

    Empty where there are none.
    """
    if isinstance(model, str | os.PathLike):
        return _from_file(Path(model))
    return [dict(record) for record in getattr(model, _ATTRIBUTE, ())]


def _attach(model: keras.Model, records: list[dict[str, Any]]) -> None:
    def save_assets(folder: str) -> None:
        """Keras calls this when it saves the model."""
        # This attribute hides the method of the model's class, which has files to
        # save that `load_assets` will want back.
        own = getattr(type(model), "save_assets", None)
        if own is not None:
            own(model, folder)
        Path(folder, _FILE).write_text(json.dumps(records), encoding="utf-8")

    # Past Keras' tracking, which would wrap the list and count it as state.
    object.__setattr__(model, _ATTRIBUTE, tuple(records))
    object.__setattr__(model, "save_assets", save_assets)


def _from_file(path: Path) -> list[dict[str, Any]]:
    try:
        with zipfile.ZipFile(path) as archive:
            found = [name for name in archive.namelist() if name.endswith(_FILE)]
            # Models inside of the model have files of their own, in longer paths.
            own = min(found, key=len, default=None)
            if own is None or archive.getinfo(own).file_size > _MOST_BYTES:
                return []
            records = json.loads(archive.read(own))
    except (OSError, ValueError, zipfile.BadZipFile, RecursionError):
        return []
    if not isinstance(records, list):
        return []
    return [dict(record) for record in records if isinstance(record, Mapping)]
