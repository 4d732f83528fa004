"""Layers that methods put into a model while it trains."""

from tfcompress.layers._gates import ChannelGate, LayerGate

__all__ = ["ChannelGate", "LayerGate"]
