"""Drivers that own the training loop: several fits that act as one."""

from tfcompress.training._shrinking import fit_shrinking

__all__ = ["fit_shrinking"]
