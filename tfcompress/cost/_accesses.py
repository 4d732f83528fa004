"""Memory accesses of a layer in training, phase by phase.

Table I of "Pruning filters while training for efficiently optimizing deep
learning networks" (Roy et al., 2020) lists multiply–accumulates and memory
accesses of one convolution for forward propagation (FP), back-propagation (BP)
and weight update (WU). With N² input positions, M² output positions, a k × k
kernel, I input and O output channels they are, for one sample:

| | FP | BP | WU |
|---|---|---|---|
| MACs | M² k² I O | M² k² I O | M² k² I O |
| inputs read | N² I | | N² I |
| output gradients read | | M² O | M² O |
| weights read | k² I O | k² I O | k² I O |
| activations or gradients written | M² O | N² I | |
| weights written | | | k² I O |

BP convolves the gradient of the output with the kernel, WU with the input; both
take as many products as FP, whatever the stride. A pruned fraction P_p of the
input and P_c of the output channels scales I by 1 − P_p and O by 1 − P_c. Any
other layer follows the same pattern.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass
from functools import reduce

__all__ = ["Accesses", "PhaseAccesses", "total"]


@dataclass(frozen=True)
class Accesses:
    """Elements read and written in one phase.

    Attributes:
        input_reads: elements of the layer's input.
        weight_reads: weights.
        output_reads: gradients of the layer's output.
        input_writes: gradients of the layer's input.
        weight_writes: weights.
        output_writes: elements of the layer's output.
    """

    input_reads: int = 0
    weight_reads: int = 0
    output_reads: int = 0
    input_writes: int = 0
    weight_writes: int = 0
    output_writes: int = 0

    def __add__(self, other: Accesses) -> Accesses:
        pairs = zip(astuple(self), astuple(other), strict=True)
        return Accesses(*(a + b for a, b in pairs))

    @property
    def activations(self) -> int:
        """Accesses to activations and their gradients."""
        data = self.input_reads + self.output_reads
        return data + self.input_writes + self.output_writes

    @property
    def weights(self) -> int:
        """Accesses to weights."""
        return self.weight_reads + self.weight_writes

    @property
    def total(self) -> int:
        """All accesses."""
        return self.activations + self.weights


@dataclass(frozen=True)
class PhaseAccesses:
    """Elements read and written for one sample.

    Attributes:
        forward: forward propagation, all that inference takes.
        backward: gradients of the layers' inputs.
        update: gradients of the weights, and plain gradient descent. Optimizers
            with a state of their own read and write more.
    """

    forward: Accesses
    backward: Accesses
    update: Accesses

    def __add__(self, other: PhaseAccesses) -> PhaseAccesses:
        return PhaseAccesses(
            self.forward + other.forward,
            self.backward + other.backward,
            self.update + other.update,
        )

    @property
    def activations(self) -> int:
        """Accesses to activations and their gradients in all phases."""
        phases = (self.forward, self.backward, self.update)
        return sum(phase.activations for phase in phases)

    @property
    def weights(self) -> int:
        """Accesses to weights in all phases."""
        phases = (self.forward, self.backward, self.update)
        return sum(phase.weights for phase in phases)

    @property
    def total(self) -> int:
        """All accesses in all phases."""
        return self.activations + self.weights


def total(parts: Iterable[PhaseAccesses]) -> PhaseAccesses:
    """The sum of several."""
    nothing = PhaseAccesses(Accesses(), Accesses(), Accesses())
    return reduce(PhaseAccesses.__add__, parts, nothing)
