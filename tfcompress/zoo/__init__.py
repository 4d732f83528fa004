"""The networks of the papers and of MLPerf Tiny, as plain Functional Keras models.

Every function takes `width` (a factor on the number of channels), `classes`
and, where the network allows it, `input_shape`. All but the autoencoder end in a
softmax layer called "classifier", to be trained with (sparse) categorical
cross-entropy on probabilities. Activations are layers of their own, and names are
stable, so that methods can address them.
"""

from tfcompress.zoo._alexnet import alexnet
from tfcompress.zoo._cross_stack import cross_stack
from tfcompress.zoo._lenet import lenet5
from tfcompress.zoo._mlperf_tiny import autoencoder, ds_cnn, mobilenet_v1, resnet8
from tfcompress.zoo._resnet import (
    resnet18,
    resnet20,
    resnet32,
    resnet44,
    resnet56,
    resnet110,
)
from tfcompress.zoo._vgg import vgg16, vgg19

__all__ = [
    "alexnet",
    "autoencoder",
    "cross_stack",
    "ds_cnn",
    "lenet5",
    "mobilenet_v1",
    "resnet8",
    "resnet18",
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet56",
    "resnet110",
    "vgg16",
    "vgg19",
]
