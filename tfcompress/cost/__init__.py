"""What a model costs: multiply–accumulates, parameters, memory, energy."""

from tfcompress.cost._bits import mac_bits
from tfcompress.cost._break_even import SparseHardware, overall_speedup
from tfcompress.cost._count import count
from tfcompress.cost._energy import EnergyEstimate, Products, energy
from tfcompress.cost._measure import MeasuredEnergy, measure_energy
from tfcompress.cost._operands import Operands
from tfcompress.cost._profiles import Profile, profile, profiles, write_template
from tfcompress.cost._results import LayerCost, ModelCost
from tfcompress.cost._rules import register
from tfcompress.cost._training import (
    TrainingCost,
    pruning_while_training_saving,
    training_complexity,
    training_cost,
    training_latency,
    training_memory_complexity,
)

__all__ = [
    "EnergyEstimate",
    "LayerCost",
    "MeasuredEnergy",
    "ModelCost",
    "Operands",
    "Products",
    "Profile",
    "SparseHardware",
    "TrainingCost",
    "count",
    "energy",
    "mac_bits",
    "measure_energy",
    "overall_speedup",
    "profile",
    "profiles",
    "pruning_while_training_saving",
    "register",
    "training_complexity",
    "training_cost",
    "training_latency",
    "training_memory_complexity",
    "write_template",
]
