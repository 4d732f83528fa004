"""Derives the hardware profiles `cross_stack_65nm*` from the paper's figures.

    python scripts/calibrate_cross_stack.py

prints the calibration and compares it with the profiles that the library ships;
the exit code is 1 if they differ.

The paper (network pruning combined with DRUM multipliers on the FlexFlow
accelerator, TSMC 65 nm) states two things that fix the energy of a
multiply–accumulate:

1. Table II, column "Incremental": all multiplications of an unpruned network at
   k = (1, 5). Divided by the network's multiply–accumulates this is one constant
   for each data set, because switching depends on the operands.
2. Figure 1a and its text: approximation alone saves 66.7 % of the energy of the
   original CIFAR-10 network, which the same accelerator computes in its
   high-accuracy mode, k = (5, 5).

The core of a DRUM multiplier is an array of k0 × k1 cells; everything else in a
processing element does not depend on k. So two points fix

    energy(k0, k1) = fixed + per_bit_product × k0 × k1.

The columns "Pruning" and "Proposed" cannot be used: the pruning rates they were
taken at are not given.
"""

from __future__ import annotations

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np

from tfcompress import cost, zoo

# Table II, "Incremental": millijoules for one inference.
INCREMENTAL_MJ = {
    ("cifar10", "regular"): 200.3728,
    ("cifar10", "shallow"): 413.0913,
    ("cifar100", "regular"): 200.3967,
    ("cifar100", "shallow"): 413.1149,
    ("stl10", "regular"): 40.6913,
    ("stl10", "shallow"): 227.3043,
}
SAVED_BY_APPROXIMATION = 0.667  # Figure 1a
PROFILES = {"cross_stack_65nm": "cifar10", "cross_stack_65nm_stl10": "stl10"}


def macs(dataset: str, variant: str) -> int:
    """Multiply–accumulates of a network."""
    return cost.count(zoo.cross_stack(dataset, variant)).macs


def constants() -> dict[tuple[str, str], float]:
    """Picojoules per multiply–accumulate at k = (1, 5) of each network."""
    return {
        network: millijoules * 1e9 / macs(*network)
        for network, millijoules in INCREMENTAL_MJ.items()
    }


def calibrate(per_mac: dict[tuple[str, str], float], dataset: str) -> dict[str, float]:
    """Constants of one data set's profile, in picojoules."""
    approximate = np.mean([pj for (name, _), pj in per_mac.items() if name == dataset])
    accurate = approximate / (1 - SAVED_BY_APPROXIMATION)
    slope = (accurate - approximate) / (5 * 5 - 1 * 5)
    return {
        "fixed_pj": round(float(approximate - 5 * slope), 2),
        "per_bit_product_pj": round(float(slope), 3),
    }


def main() -> int:
    """Prints the calibration and compares it with the shipped profiles."""
    per_mac = constants()
    print("pJ per multiply–accumulate at k = (1, 5):")
    for (dataset, variant), picojoules in per_mac.items():
        print(f"  {dataset:9} {variant:8} {picojoules:7.1f}")
    wrong = 0
    for name, dataset in PROFILES.items():
        derived = calibrate(per_mac, dataset)
        drum = cost.profile(name).drum
        shipped = {
            "fixed_pj": round(drum.fixed * 1e12, 2),
            "per_bit_product_pj": round(drum.per_bit_product * 1e12, 3),
        }
        same = derived == shipped
        wrong += not same
        print(f"{name}: derived {derived}, {'as shipped' if same else shipped}")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
