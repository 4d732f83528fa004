"""What a target's tool says of a file."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["COMPUTED", "Check", "TargetFigures"]

# The setting that says what a latency was computed from, where no tool gave it.
COMPUTED = "latency computed from"


@dataclass(frozen=True)
class Check:
    """One budget of a target profile against what a file needs.

    Attributes:
        quantity: `"flash"`, `"RAM"`, `"latency"` or `"energy"`.
        needed: bytes, milliseconds or microjoules; `None` where nothing on this
            machine can tell.
        budget: as much as there is.
        unit: `"B"`, `"ms"` or `"µJ"`.
        dominated_by: what takes the largest part, and which; may be empty.
    """

    quantity: str
    needed: float | None
    budget: float
    unit: str
    dominated_by: str = ""

    @property
    def fits(self) -> bool | None:
        """Whether the budget is kept; `None` if not known."""
        return None if self.needed is None else self.needed <= self.budget

    def __str__(self) -> str:
        def amount(value: float) -> str:
            if self.unit != "B":
                return f"{value:.3g} {self.unit}"
            return f"{value / 1024:,.1f} KiB" if value >= 1024 else f"{value:.0f} B"

        if self.needed is None:
            return f"{self.quantity} not known, {amount(self.budget)} allowed"
        text = f"{self.quantity} {amount(self.needed)} of {amount(self.budget)}"
        if self.needed > self.budget:
            text += f", {amount(self.needed - self.budget)} too much"
            if self.dominated_by:
                text += f" (most of it: {self.dominated_by})"
        return text


@dataclass(frozen=True)
class TargetFigures:
    """Figures of a file from a target's tool; `None` where it has no figure.

    Attributes:
        target: name of the target.
        tool: the tool and its version.
        kind: `"estimated"` by a model of the hardware, or `"measured"`.
        file: format of the file that was looked at.
        flash: bytes of flash for the model.
        ram: bytes of memory while it runs.
        latency: milliseconds for one inference; from the speed of a profile where
            that has one, which `settings` then say.
        fallback: operators that the target cannot run itself.
        exact: whether the target's kernels give the same numbers, bit for bit,
            as LiteRT's reference kernels.
        settings: what the tool was told, and what the latency was computed from.
        checks: the budgets of the user's profile.
        note: what else to know.
    """

    target: str
    tool: str
    kind: str
    file: str = ""
    flash: int | None = None
    ram: int | None = None
    latency: float | None = None
    fallback: tuple[str, ...] = ()
    exact: bool | None = None
    settings: dict[str, str] = field(default_factory=dict)
    checks: tuple[Check, ...] = ()
    note: str = ""

    @property
    def inferences_per_second(self) -> float | None:
        """How often it can run in a second."""
        return 1e3 / self.latency if self.latency else None

    @property
    def fits(self) -> bool | None:
        """Whether all budgets are kept; `None` without any, or if one is not known."""
        states = [check.fits for check in self.checks]
        if not states or (None in states and False not in states):
            return None
        return all(states)

    @property
    def verdict(self) -> str:
        """The budgets in words; empty without any."""
        if not self.checks:
            return ""
        word = {True: "fits", False: "does not fit", None: "may fit"}[self.fits]
        return f"{word}: " + "; ".join(map(str, self.checks))

    def __str__(self) -> str:
        parts = []
        if self.flash is not None:
            parts.append(f"flash {self.flash / 1024:,.1f} KiB")
        if self.ram is not None:
            parts.append(f"RAM {self.ram / 1024:,.1f} KiB")
        if self.latency is not None:
            words = f"{self.inferences_per_second:,.0f} inferences a second"
            if COMPUTED in self.settings:
                words += f", computed from {self.settings[COMPUTED]}"
            parts.append(f"{self.latency:.3g} ms ({words})")
        if self.fallback:
            parts.append(f"not supported: {', '.join(self.fallback)}")
        if self.exact is not None:
            parts.append("bit for bit" if self.exact else "not bit for bit")
        lines = [f"{self.target} ({self.kind} by {self.tool}): {', '.join(parts)}"]
        lines += [text for text in (self.verdict, self.note) if text]
        return "\n".join(lines)
