"""Layers that methods put into a model while it trains."""

__all__: list[str] = []
