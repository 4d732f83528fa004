"""Bridges to other libraries, none of which this one imports."""

from tfcompress.interop import tfmot

__all__ = ["tfmot"]
