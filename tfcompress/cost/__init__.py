"""What a model costs: multiply–accumulates, parameters, memory, energy."""

from tfcompress.cost._count import LayerCost, ModelCost, count
from tfcompress.cost._energy import EnergyEstimate, LayerEnergy, energy
from tfcompress.cost._operands import Operands
from tfcompress.cost._profiles import Profile, profile, profiles, write_template
from tfcompress.cost._rules import register

__all__ = [
    "EnergyEstimate",
    "LayerCost",
    "LayerEnergy",
    "ModelCost",
    "Operands",
    "Profile",
    "count",
    "energy",
    "profile",
    "profiles",
    "register",
    "write_template",
]
