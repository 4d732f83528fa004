"""Derives the hardware profiles `cross_stack_65nm*` from the paper's figures.

    python scripts/calibrate_cross_stack.py

prints the calibration and compares it with the profiles that the library ships;
the exit code is 1 if they differ.

The paper (network pruning combined with DRUM multipliers on the FlexFlow
accelerator, TSMC 65 nm) states three things that fix the energy of a
multiply–accumulate:

1. Table II, column "Incremental": all multiplications of an unpruned network at
   k = (1, 5). Divided by the network's multiply–accumulates this is one constant
   for each data set, because switching depends on the operands.
2. Figure 1a and its text: approximation alone saves 66.7 % of the energy of the
   original CIFAR-10 network, which the same accelerator computes in its
   high-accuracy mode, k = (5, 5).

3. Figure 5 and its text: the proposed scheme, which approximates a pruned network
   at (1, 5), takes 26.23 % less than approximation alone and 29.97 % less than
   pruning alone, which computes at (5, 5).

The core of a DRUM multiplier is an array of k0 × k1 cells; everything else in a
processing element does not depend on k. So the first two fix

    energy(k0, k1) = fixed + per_bit_product × k0 × k1.

The third fixes what a multiply–accumulate with a pruned weight takes. Nothing
would be too little: the accelerator gates the multiplier, it does not save the
cycle. With x the energy of a gated product in units of energy(1, 5), e the ratio
energy(5, 5) / energy(1, 5), and fractions s of the weights pruned,

    (1 − s) + s x = (1 − 0.2623) and
    (1 − s) + s x = (1 − 0.2997) ((1 − s') e + s' x),

where s belongs to the proposed scheme and s' to pruning alone. The paper prints no
fractions; those that its pruning method left on its regular CIFAR-10 network when
we ran it, 74.3 and 82.9 %, give x = 0.647 and x = 0.632. The profile has the mean.
Table II was not used for it, so that its columns "Pruning" and "Proposed" test it:
`benchmarks/paper_tables.py` has them.
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
# Figure 5: what the proposed scheme saves over approximation and pruning alone.
SAVED_BY_PRUNING_TOO = 0.2623
SAVED_BY_APPROXIMATION_TOO = 0.2997
# Pruned fractions of `recipes/cross_stack.py`: docs/cross_stack.md.
PROPOSED_PRUNED = 0.743
PRUNING_PRUNED = 0.829
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
    gated = np.mean(gated_shares()) * approximate
    return {
        "fixed_pj": round(float(approximate - 5 * slope), 2),
        "per_bit_product_pj": round(float(slope), 3),
        "gated_pj": round(float(gated), 1),
    }


def gated_shares() -> tuple[float, float]:
    """Energy of a gated product over that at k = (1, 5), from both savings."""
    accurate = 1 / (1 - SAVED_BY_APPROXIMATION)
    s, other = PROPOSED_PRUNED, PRUNING_PRUNED
    from_approximation = (1 - SAVED_BY_PRUNING_TOO - (1 - s)) / s
    left = 1 - SAVED_BY_APPROXIMATION_TOO
    from_pruning = ((1 - s) - left * (1 - other) * accurate) / (left * other - s)
    return from_approximation, from_pruning


def main() -> int:
    """Prints the calibration and compares it with the shipped profiles."""
    per_mac = constants()
    print("pJ per multiply–accumulate at k = (1, 5):")
    for (dataset, variant), picojoules in per_mac.items():
        print(f"  {dataset:9} {variant:8} {picojoules:7.1f}")
    shares = " and ".join(f"{share:.3f}" for share in gated_shares())
    print(f"A gated product takes {shares} of that.")
    wrong = 0
    for name, dataset in PROFILES.items():
        derived = calibrate(per_mac, dataset)
        drum = cost.profile(name).drum
        shipped = {
            "fixed_pj": round(drum.fixed * 1e12, 2),
            "per_bit_product_pj": round(drum.per_bit_product * 1e12, 3),
            "gated_pj": round((drum.gated or 0) * 1e12, 1),
        }
        same = derived == shipped
        wrong += not same
        print(f"{name}: derived {derived}, {'as shipped' if same else shipped}")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
