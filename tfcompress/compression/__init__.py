"""One call from a model, data and a budget to a smaller model that meets it."""

from tfcompress.compression._budget import FIGURES, Budget
from tfcompress.compression._compress import compress
from tfcompress.compression._data import data_for, range_fault, warn_of_range
from tfcompress.compression._plan import Offer, Saving
from tfcompress.compression._plan_file import read_plan
from tfcompress.compression._result import Compressed, TrialResult
from tfcompress.compression._task import quality_of_file

__all__ = [
    "FIGURES",
    "Budget",
    "Compressed",
    "Offer",
    "Saving",
    "TrialResult",
    "compress",
    "data_for",
    "quality_of_file",
    "range_fault",
    "read_plan",
    "warn_of_range",
]
