"""The structure engine: analyze, edit and shrink Keras graphs, exactly.

Finds which channels of a model can be removed together, and builds smaller
models without them. It knows nothing of how channels are chosen. What is imported
as `X as X` serves other parts of this library and is not public.
"""

from tfcompress.structure._edit import (
    bypass,
    fold_batch_norm,
    insert_after,
    remove_channels,
    resize,
    rewire,
    shrink,
    wrap,
    zero_channels,
)
from tfcompress.structure._groups import (
    ChannelGroup,
    ChannelGroups,
    channel_groups,
)
from tfcompress.structure._groups import keep_masks as keep_masks
from tfcompress.structure._groups import zero_indices as zero_indices
from tfcompress.structure._rebuild import Edit
from tfcompress.structure._verify import VerificationError
from tfcompress.structure.rules import register_channelwise, register_producer

__all__ = [
    "ChannelGroup",
    "ChannelGroups",
    "Edit",
    "VerificationError",
    "bypass",
    "channel_groups",
    "fold_batch_norm",
    "insert_after",
    "register_channelwise",
    "register_producer",
    "remove_channels",
    "resize",
    "rewire",
    "shrink",
    "wrap",
    "zero_channels",
]
