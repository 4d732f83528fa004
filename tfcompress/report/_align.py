"""Layers of several models side by side, also where their names differ."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from difflib import SequenceMatcher

from tfcompress.report._figures import LayerFigures, ReportFigures

__all__ = ["Line", "aligned"]


@dataclass
class Line:
    """One layer of the first model, and what stands in its place in the others.

    Attributes:
        label: the layer's name; names that differ are joined.
        kind: its type.
        cells: figures by number of the model; `None` where it has no such layer.
    """

    label: str
    kind: str
    cells: list[LayerFigures | None]


def aligned(report: ReportFigures) -> list[Line]:
    """One line for each layer.

    Layers of one name belong together. The others are matched by their place: among
    layers that lie between the same two matched ones, in order, by type.
    """
    # The lines are those of the first model; each further model fills cells in them,
    # and layers that have no line yet get one behind the layer before them:
    #
    #   first   conv1   conv2             fc
    #   other   conv1   conv2_new   drop  fc
    #
    # conv1 and fc have the same names. Between them conv2_new is of conv2's type, and
    # shares its line; drop gets a line of its own.
    count = len(report.models)
    lines: list[Line] = []
    for number, model in enumerate(report.models):
        places = _match(lines, model.layers)
        cursor = 0
        for layer, place in zip(model.layers, places, strict=True):
            if place is None:
                line = Line(layer.name, layer.kind, [None] * count)
                lines.insert(cursor, line)
            else:
                line = place
            line.cells[number] = layer
            cursor = next(i for i, known in enumerate(lines) if known is line) + 1
    for line in lines:
        names = dict.fromkeys(cell.name for cell in line.cells if cell is not None)
        line.label = " / ".join(names)
    return _unique(lines)


def _match(lines: list[Line], layers: tuple[LayerFigures, ...]) -> list[Line | None]:
    """The line of each layer, or `None`; in order, so that lines never cross."""
    result: list[Line | None] = [None] * len(layers)
    names = [line.label for line in lines]
    same = SequenceMatcher(None, names, [layer.name for layer in layers], False)
    anchors = [(a + i, b + i) for a, b, size in same.get_matching_blocks()
               for i in range(size)]  # fmt: skip
    for line, layer in anchors:
        result[layer] = lines[line]
    ends = [(-1, -1), *anchors, (len(lines), len(layers))]
    for (line0, layer0), (line1, layer1) in itertools.pairwise(ends):
        left, right = range(line0 + 1, line1), range(layer0 + 1, layer1)
        kinds = SequenceMatcher(
            None, [lines[i].kind for i in left], [layers[j].kind for j in right], False
        )
        for a, b, size in kinds.get_matching_blocks():
            for i in range(size):
                result[right[b + i]] = lines[left[a + i]]
    return result


def _unique(lines: list[Line]) -> list[Line]:
    seen: dict[str, int] = {}
    for line in lines:
        seen[line.label] = seen.get(line.label, 0) + 1
        if seen[line.label] > 1:
            line.label += f" ({seen[line.label]})"
    return lines
