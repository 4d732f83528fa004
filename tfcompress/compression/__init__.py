"""One call from a model, data and a budget to a smaller model that meets it.

What is imported as `X as X` serves other parts of this library and is not public.
"""

from tfcompress.compression._budget import FIGURES as FIGURES
from tfcompress.compression._budget import Budget
from tfcompress.compression._compress import checked_options as checked_options
from tfcompress.compression._compress import compress
from tfcompress.compression._data import data_for as data_for
from tfcompress.compression._data import range_fault as range_fault
from tfcompress.compression._data import warn_of_range as warn_of_range
from tfcompress.compression._plan_file import add_command as add_command
from tfcompress.compression._plan_file import read_command as read_command
from tfcompress.compression._plan_file import read_plan
from tfcompress.compression._result import Compressed, TrialResult
from tfcompress.compression._task import quality_of_file as quality_of_file

__all__ = [
    "Budget",
    "Compressed",
    "TrialResult",
    "compress",
    "read_plan",
]
