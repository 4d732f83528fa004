"""Drivers that own the training loop: several fits that act as one."""

from tfcompress.training._admm import (
    AdmmPhase,
    AdmmResult,
    AdmmStage,
    admm_compress,
    fix_levels,
    hard_prune,
)
from tfcompress.training._density import (
    DensityNet,
    DensityResult,
    resize_by_density,
)
from tfcompress.training._search import HardwarePlan, LayerPlan, search_fractions
from tfcompress.training._shrinking import fit_shrinking

__all__ = [
    "AdmmPhase",
    "AdmmResult",
    "AdmmStage",
    "DensityNet",
    "DensityResult",
    "HardwarePlan",
    "LayerPlan",
    "admm_compress",
    "fit_shrinking",
    "fix_levels",
    "hard_prune",
    "resize_by_density",
    "search_fractions",
]
