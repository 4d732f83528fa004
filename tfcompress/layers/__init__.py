"""Layers that methods put into a model while it trains."""

from tfcompress.layers._clustered import ClusteredKernel
from tfcompress.layers._drum import DrumMultiply
from tfcompress.layers._gates import ChannelGate, LayerGate
from tfcompress.layers._kernel_wrapper import KernelWrapper
from tfcompress.layers._masked_kernel import MaskedKernel
from tfcompress.layers._quantized import FakeQuantize, InFloat, QuantizedKernel
from tfcompress.layers._wrap import wrap_kernels

__all__ = [
    "ChannelGate",
    "ClusteredKernel",
    "DrumMultiply",
    "FakeQuantize",
    "InFloat",
    "KernelWrapper",
    "LayerGate",
    "MaskedKernel",
    "QuantizedKernel",
    "wrap_kernels",
]
