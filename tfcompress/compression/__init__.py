"""One call from a model, data and a budget to a smaller model that meets it."""

from tfcompress.compression._data import range_fault, scaled_data, warn_of_range

__all__ = ["range_fault", "scaled_data", "warn_of_range"]
