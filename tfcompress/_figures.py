"""Lines and grids of numbers that methods and analyses have to show.

They say nothing of how they are drawn: `tfcompress.report` does that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Curves", "Heatmap"]


@dataclass(frozen=True)
class Curves:
    """Lines to show in a report, such as the sensitivity of every layer.

    Example:

    ```python
    tfc.report.Curves(
        title="Sensitivity",
        x_label="fraction of filters removed",
        y_label="accuracy",
        series={"conv1": [(0.0, 0.99), (0.5, 0.97)], "conv2": [(0.0, 0.99)]},
    )
    ```

    Attributes:
        title: heading of the chart.
        x_label: what runs along the horizontal axis, with its unit.
        y_label: what runs along the vertical axis, with its unit.
        series: points `(x, y)` of every line, by its name.
        description: a sentence for the reader. Defaults to `""`.
    """

    title: str
    x_label: str
    y_label: str
    series: Mapping[str, Sequence[tuple[float, float | None]]]
    description: str = ""


@dataclass(frozen=True)
class Heatmap:
    """A grid of numbers to show in a report.

    Attributes:
        title: heading of the chart.
        x_label: what the columns are.
        y_label: what the rows are.
        value_label: what the numbers are, with their unit.
        columns: name of each column.
        rows: name of each row.
        values: one sequence for each row; `None` leaves a cell empty.
        description: a sentence for the reader. Defaults to `""`.

    Raises:
        ValueError: if `values` do not have the shape of `rows` and `columns`.
    """

    title: str
    x_label: str
    y_label: str
    value_label: str
    columns: Sequence[str]
    rows: Sequence[str]
    values: Sequence[Sequence[float | None]]
    description: str = ""

    def __post_init__(self) -> None:
        shape = [len(row) for row in self.values]
        if shape != [len(self.columns)] * len(self.rows):
            raise ValueError(
                "Invalid value for argument `values`. Expected "
                f"{len(self.rows)} rows of {len(self.columns)} numbers. Received: "
                f"rows of {shape} numbers"
            )
