"""Damage to the bytes of a file, as hypothesis draws and shrinks it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from hypothesis import strategies as st

# What headers and parsers stumble over: signs, extremes of each width, NaN and infinity, ends of text.
TELLING = [
    *(value.to_bytes(width, "little", signed=True) for width in (1, 2, 4, 8) for value in (-1, 0, 1)),
    *((2 ** (8 * width - 1) - 1).to_bytes(width, "little") for width in (2, 4, 8)),
    bytes.fromhex("0000807f"),  # infinity, float32
    bytes.fromhex("0000c07f"),  # NaN, float32
    bytes.fromhex("0000807f")[::-1],
    b"\x00" * 16,
    b"\xff" * 16,
    b"../../",
    b'"',
    b"{",
    b"]",
    b": ",
    b"\n",
    b"\xef\xbb\xbf",
    b"!!python/object/apply:os.system",
]


class Mutation(NamedTuple):
    """One change: what, where (as a share of the length, so that it survives other changes), and with what."""

    kind: str
    at: float
    payload: bytes


def _spot(data: bytes, at: float) -> int:
    return min(int(at * len(data)), max(0, len(data) - 1))


KINDS: dict[str, Callable[[bytes, int, bytes], bytes]] = {
    "overwrite": lambda data, i, new: data[:i] + new + data[i + len(new) :],
    "insert": lambda data, i, new: data[:i] + new + data[i:],
    "flip": lambda data, i, new: data[:i] + bytes([data[i] ^ (1 << (new[0] % 8))]) + data[i + 1 :],
    "delete": lambda data, i, new: data[:i] + data[i + 1 + new[0] :],
    "repeat": lambda data, i, new: data[:i] + data[i : i + 1 + new[0]] * 2 + data[i + 1 + new[0] :],
    "cut": lambda data, i, new: data[:i],
}

mutations = st.lists(
    st.builds(
        Mutation,
        st.sampled_from(sorted(KINDS)),
        # Headers and the first lines decide most: half of the changes fall there.
        st.one_of(st.floats(0, 1, exclude_max=True), st.floats(0, 0.05)),
        st.one_of(st.sampled_from(TELLING), st.binary(min_size=1, max_size=8)),
    ),
    min_size=1,
    max_size=4,
)


def mutate(data: bytes, changes: list[Mutation]) -> bytes:
    """Apply the changes one after the other; nothing is left to change in an empty file."""
    for change in changes:
        if not data:
            break
        data = KINDS[change.kind](data, _spot(data, change.at), change.payload)
    return data
