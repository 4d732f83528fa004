"""How each operation treats channels.

A rule does two things: `trace` says what happens to channel labels, and
`configure` (layers) or `adjust` (other operations) edits the operation for the
rebuild, given which labels stay. Every rule also states its `kind` and a `note`
for the generated documentation. Operations without a rule are probed.
"""

from tfcompress.structure.rules._base import Kept, Rule
from tfcompress.structure.rules._channelwise import Registered
from tfcompress.structure.rules._producers import RegisteredProducer
from tfcompress.structure.rules._table import (
    counts_as,
    register_channelwise,
    register_producer,
    rule_for,
    rules,
)

__all__ = [
    "Kept",
    "Registered",
    "RegisteredProducer",
    "Rule",
    "counts_as",
    "register_channelwise",
    "register_producer",
    "rule_for",
    "rules",
]
