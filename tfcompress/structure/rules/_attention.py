"""Attention layers: whole heads, and the features of the output projection."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfcompress.structure._graph import Call
from tfcompress.structure._labels import Abstract
from tfcompress.structure._trace import Trace
from tfcompress.structure.rules._base import PRODUCER, Kept, Weighted, shape_of

__all__ = ["Attention", "GroupedAttention"]


class Attention(Weighted):
    """MultiHeadAttention: whole heads, and the output projection's features."""

    kind = PRODUCER
    note = "features of the output projection; whole heads as group 'NAME/heads'"

    def weigh(
        self, trace: Trace, op: Any, call: Call, inputs: list[Abstract]
    ) -> list[Abstract]:
        name = trace.key(op)
        arguments = call.node.arguments
        named = dict(zip(("query", "value", "key"), arguments.args, strict=False))
        named |= {k: v for k, v in arguments.kwargs.items() if hasattr(v, "shape")}
        if set(named) - {"query", "value", "key"} or getattr(op, "_use_gate", False):
            return trace.freeze(
                inputs, f"{name!r} has a mask input or a gate", call.outputs
            )
        given = {k: trace.tensors[id(v)] for k, v in named.items() if v is not None}
        given.setdefault("key", given["value"])
        shape = shape_of(call.outputs[0])
        if len(shape) != 3 or len(inputs[0].shape) != 3:
            return trace.freeze(
                inputs, f"{name!r} attends over several axes", call.outputs
            )
        for part, dense in self._denses(op).items():
            labels, constant = trace.vector(given[part], -1, f"{name!r}")
            trace.consume(op, dense.kernel, 0, labels, constant)
        # A head leaves as a whole; `key_dim` stays. Masking zeroes its query, key and
        # value. A value of zeros alone makes the head's output zero, whatever the
        # attention weights are, so that zero reaches the output projection.
        heads = self._heads(trace, op)
        final = op._output_dense
        trace.bind(op, final.kernel, 0, heads, "input")
        if len(call.outputs) > 1:
            trace.table.freeze(heads, f"scores of {name!r} are read")
        out = trace.create(op, final.kernel.shape[-1])
        trace.bind(op, final.kernel, -1, out, "kernel", zero=True)
        trace.bind(op, final.bias, 0, out, "bias", zero=True)
        result = trace.produce(op, out, -1, shape)
        return [result, *(Abstract.frozen(shape_of(t)) for t in call.outputs[1:])]

    @staticmethod
    def _denses(op: Any) -> dict[str, Any]:
        return {
            "query": op._query_dense,
            "key": op._key_dense,
            "value": op._value_dense,
        }

    def _heads(self, trace: Trace, op: Any) -> np.ndarray:
        heads = trace.create(op, op._query_dense.kernel.shape[1], "heads")
        for dense in self._denses(op).values():
            trace.bind(op, dense.kernel, 1, heads, "kernel", zero=True)
            trace.bind(op, dense.bias, 0, heads, "bias", zero=True)
        return heads

    def configure(self, op: Any, call: Call, config: dict, kept: Kept) -> None:
        config["num_heads"] = kept.size(op._query_dense.kernel, 1)
        size = kept.size(op._output_dense.kernel, -1)
        if size != op._output_dense.kernel.shape[-1] or config["output_shape"]:
            config["output_shape"] = (size,)
        else:
            # Without it Keras takes the query's size, which may shrink.
            config["output_shape"] = (
                None if kept.size(op._query_dense.kernel, 0) == size else (size,)
            )


class GroupedAttention(Attention):
    """GroupedQueryAttention: key-value heads with all their query heads."""

    note = (
        "a key-value head with all its query heads as group 'NAME/heads'; the "
        "output projection follows the query's features"
    )

    def _heads(self, trace: Trace, op: Any) -> np.ndarray:
        # Keras repeats each key-value head for consecutive query heads: with 4 query
        # heads and 2 key-value heads, these belong to the heads 0 0 1 1.
        queries = op._query_dense.kernel.shape[1]
        groups = op._key_dense.kernel.shape[1]
        heads = trace.create(op, groups, "heads")
        wide = np.repeat(heads, queries // groups)
        trace.bind(op, op._query_dense.kernel, 1, wide, "kernel", zero=True)
        trace.bind(op, op._query_dense.bias, 0, wide, "bias", zero=True)
        for dense in (op._key_dense, op._value_dense):
            trace.bind(op, dense.kernel, 1, heads, "kernel", zero=True)
            trace.bind(op, dense.bias, 0, heads, "bias", zero=True)
        return wide

    def weigh(
        self, trace: Trace, op: Any, call: Call, inputs: list[Abstract]
    ) -> list[Abstract]:
        results = super().weigh(trace, op, call, inputs)
        # Keras gives the output the query's size, always.
        out = trace.outputs.get(trace.key(op))
        if out is not None:
            labels, _ = trace.vector(inputs[0], -1, f"{trace.key(op)!r}")
            trace.table.tie(out, labels, f"{trace.key(op)!r} reads a frozen query")
        return results

    def configure(self, op: Any, call: Call, config: dict, kept: Kept) -> None:
        config["num_query_heads"] = kept.size(op._query_dense.kernel, 1)
        config["num_key_value_heads"] = kept.size(op._key_dense.kernel, 1)
