"""Labeled data: read once into arrays, fed batch by batch.

`load` gives the same samples in the same splits for the same seed, from
scikit-learn's bundled digits, a folder of images, an `.npz` or CSV file, or any
image-classification set of TensorFlow Datasets. TensorFlow is needed for the last
of these only. `mfcc` turns sounds into what a network for keywords takes.
"""

from tfcompress.data._load import load
from tfcompress.data._sets import Dataset, DatasetUnavailableError, Split
from tfcompress.data._sound import mfcc

__all__ = ["Dataset", "DatasetUnavailableError", "Split", "load", "mfcc"]
