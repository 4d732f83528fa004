"""Text that others wrote, such as names of layers, made safe to print."""

from __future__ import annotations

__all__ = ["printable"]


def printable(text: str) -> str:
    """`text` with control characters, such as those of escape sequences, escaped.

    Names of layers come with models, which may come from anyone. Printed as they are,
    control characters could move the cursor of a terminal or change its settings.
    """
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode()
        for char in text
    )
