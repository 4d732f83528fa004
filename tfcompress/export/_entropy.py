"""Symbols of unequal frequency in as few bits as their entropy: a range code.

Asymmetric numeral systems (Duda 2013), in the form that is called rANS. A state x
holds all symbols so far; coding one of frequency f out of M multiplies x by about
M / f, which adds log2(M / f) bits. What outgrows 64 bits leaves in words of 32. The
decoder undoes the steps in reverse, so the encoder works from the last symbol to the
first.

One state is a loop over all symbols, which Python is too slow for. Here symbols are
dealt out to many states in turn, as cards to players, and NumPy takes one step of all
of them at once. Each of them costs 4 bytes that carry nothing, so that there is one
for every 8 192 symbols.

A step, with M = 4 and the symbols a (f = 3, start 0) and b (f = 1, start 3):

    code b    x = 5  ->  x // f · M + x % f + start = 5 · 4 + 0 + 3 = 23
    decode   23 % 4 = 3 is b's slot  ->  x = f · (23 // 4) + 3 - start = 5 + 3 - 3 = 5

A code of a would take 5 to 1 · 4 + 2 + 0 = 6: the frequent symbol grows x less.
"""

from __future__ import annotations

import numpy as np

__all__ = ["MAX_SYMBOLS", "frequencies", "from_ranges", "to_ranges"]

_BITS = 16  # of the sum of all frequencies
_TOTAL = 1 << _BITS
MAX_SYMBOLS = 1 << 12

_STEPS = 1 << 13
_LEAST = np.uint64(1 << 32)  # states lie between this and 2^64
_WORD = np.uint64(32)


def frequencies(counts: np.ndarray) -> np.ndarray:
    """Whole numbers that add up to 2^16, as near to the shares as can be.

    Args:
        counts: how often each of 2 to `MAX_SYMBOLS` symbols occurs, at least once.
    """
    shares = counts / counts.sum() * _TOTAL
    found = np.maximum(np.rint(shares), 1).astype(np.int64)
    # What is left goes where it changes least: to the most frequent symbols. It can be
    # negative, because rare symbols were raised to 1; no symbol loses more than half
    # at once, so that none falls below 1, and the loop ends.
    while rest := _TOTAL - int(found.sum()):
        largest = int(found.argmax())
        found[largest] += max(rest, 1 - int(found[largest]) // 2)
    return found


def to_ranges(symbols: np.ndarray, frequency: np.ndarray) -> bytes:
    """Codes symbols, numbers of places in `frequency`: states, and then words."""
    # Invariant: 2^32 <= x < 2^64 before and after each step. A step multiplies x by
    # about 2^16 / f, so it fits if x < f · 2^48; otherwise 32 bits leave first. One
    # word is enough: x >> 32 is at least f · 2^16 then, and the step takes that to
    # 2^32 or more. The decoder falls below 2^32 exactly where a word has left, and
    # therefore needs no marks to know when to read one. (f < 2^16, because there are
    # two symbols or more, so that the shift below fits.)
    share = frequency.astype(np.uint64)
    start = (np.cumsum(frequency) - frequency).astype(np.uint64)
    states = np.full(_states(symbols.size), _LEAST)
    words: list[np.ndarray] = []
    for first in reversed(range(0, symbols.size, states.size)):
        now = symbols[first : first + states.size]
        f, x = share[now], states[: now.size]
        full = x >= f << np.uint64(64 - _BITS)
        words.append(x[full].astype("<u4"))
        x = np.where(full, x >> _WORD, x)
        states[: now.size] = ((x // f) << np.uint64(_BITS)) + x % f + start[now]
    # The decoder reads the last row first; within a row both go by number of state.
    tail = np.concatenate(words[::-1]) if words else np.zeros(0, "<u4")
    return states.astype("<u8").tobytes() + tail.tobytes()


def from_ranges(data: bytes, count: int, frequency: np.ndarray) -> np.ndarray:
    """Reads `count` symbols, at least one.

    Raises:
        ValueError: if `frequency` is not that of two symbols or more, which add up to
            2^16, or `data` does not hold exactly so many symbols.
    """
    # Each one is looked at before the sum: of numbers up to 2^63, as a file can hold
    # them, the sum may pass 2^64 and come back to 2^16.
    valid = frequency.min() >= 1 and frequency.max() < _TOTAL
    if not valid or int(frequency.sum()) != _TOTAL:
        raise ValueError("frequencies of values do not add up")
    number = _states(count)
    if len(data) < 8 * number or len(data) % 4:
        raise ValueError("a range code has another size")
    states = np.frombuffer(data, "<u8", number).astype(np.uint64)
    words = np.frombuffer(data, "<u4", offset=8 * number).astype(np.uint64)
    share = frequency.astype(np.uint64)
    start = (np.cumsum(frequency) - frequency).astype(np.uint64)
    # Which symbol owns each of the 2^16 slots: a table, instead of a search.
    symbol_at = np.repeat(np.arange(frequency.size), frequency)
    symbols = np.empty(count, np.int64)
    place = 0
    for first in range(0, count, number):
        x = states[: min(number, count - first)]  # a view
        slot = x & np.uint64(_TOTAL - 1)
        now = symbol_at[slot.astype(np.int64)]
        symbols[first : first + now.size] = now
        x[:] = share[now] * (x >> np.uint64(_BITS)) + slot - start[now]
        empty = np.flatnonzero(x < _LEAST)
        if place + empty.size > words.size:
            raise ValueError("a range code is cut short")
        x[empty] = x[empty] << _WORD | words[place : place + empty.size]
        place += empty.size
    # The encoder began with these states, and has no words left over.
    if place != words.size or (states != _LEAST).any():
        raise ValueError("a range code does not end as it should")
    return symbols


def _states(count: int) -> int:
    return max(1, -(-count // _STEPS))
