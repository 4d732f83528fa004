"""Operations with gradients of their own."""

from tfcompress.ops._binary import binary_step, gumbel_step, mean_step

__all__ = ["binary_step", "gumbel_step", "mean_step"]
