"""Drivers that own the training loop: several fits that act as one."""

from tfcompress.training._admm import (
    AdmmPhase,
    AdmmResult,
    admm_compress,
    fix_levels,
    hard_prune,
)
from tfcompress.training._density import (
    DensityResult,
    resize_by_density,
)
from tfcompress.training._search import HardwarePlan, search_fractions
from tfcompress.training._shrinking import fit_shrinking

__all__ = [
    "AdmmPhase",
    "AdmmResult",
    "DensityResult",
    "HardwarePlan",
    "admm_compress",
    "fit_shrinking",
    "fix_levels",
    "hard_prune",
    "resize_by_density",
    "search_fractions",
]
