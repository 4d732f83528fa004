"""The structure engine: analyse, edit and shrink Keras graphs, exactly.

Finds which channels of a model can be removed together, and builds smaller
models without them. Knows nothing of how channels are chosen.
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
    Member,
    channel_groups,
    keep_masks,
    zero_indices,
)
from tfcompress.structure._rebuild import Edit
from tfcompress.structure._verify import VerificationError
from tfcompress.structure.rules import register_channelwise, register_producer

__all__ = [
    "ChannelGroup",
    "ChannelGroups",
    "Edit",
    "Member",
    "VerificationError",
    "bypass",
    "channel_groups",
    "fold_batch_norm",
    "insert_after",
    "keep_masks",
    "register_channelwise",
    "register_producer",
    "remove_channels",
    "resize",
    "rewire",
    "shrink",
    "wrap",
    "zero_channels",
    "zero_indices",
]
