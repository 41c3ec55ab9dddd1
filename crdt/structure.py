"""MessagePack structures of this product's own: tables, headers, messages. No canonical values.

Their readers check every part themselves. What is here keeps them from being made to allocate more
than they were sent: msgpack makes room for a container when it begins, up to a thousand of them
inside each other.
"""

from __future__ import annotations

from typing import Any, Final

import msgpack  # type: ignore[import-untyped]

from crdt.errors import CodecError
from crdt.limits import MAX_DEPTH

UNDECODABLE: Final = (ValueError, TypeError, OverflowError, msgpack.UnpackException)
"""What msgpack raises where there is nothing to be read."""

_FEW_ITEMS: Final = 1 << 12
_OWN_DEPTH: Final = 16
_unpackb: Final = msgpack.unpackb


def pack(obj: object) -> bytes:
    """MessagePack of lists, tuples, dicts, ints, bytes, str, bool and None. Raises TypeError on
    anything else.
    """
    data: bytes = msgpack.packb(obj, strict_types=False)
    return data


def unpack(data: bytes, *, max_bytes: int | None = None, max_items: int | None = None) -> Any:
    """What `pack` packed; lists come back as tuples. Raises CodecError only.

    Bounded by the input: no container is made larger than the bytes that are there, and none deep
    in others before it is known that they end. `max_items` bounds every container besides. The
    caller must check every type it relies on.
    """
    if max_bytes is not None and len(data) > max_bytes:
        raise CodecError(f"{len(data)} bytes are over the bound of {max_bytes}")
    most = len(data) if max_items is None else min(max_items, len(data))
    try:
        return bounded(data, most, _OWN_DEPTH, use_list=False)
    except UNDECODABLE as error:
        raise CodecError(
            f"not a structure: {data[:24].hex()} ({type(error).__name__}: {error})"
        ) from None


def bounded(data: bytes, most: int, depth: int, *, use_list: bool) -> Any:
    """What msgpack makes of the data, if no container has more than `most` items.

    msgpack allocates a container when it begins, up to a thousand of them inside each other. So
    large ones are read only where it is known how deep they lie.
    """
    bound = min(most, _FEW_ITEMS)
    try:
        return _unpackb(data, use_list=use_list, max_array_len=bound, max_map_len=bound)
    except ValueError as error:
        if bound == most or "_len" not in str(error):
            raise
    piece_end(data, 0, max_depth=depth)
    return _unpackb(data, use_list=use_list, max_array_len=most, max_map_len=most)


# Tag → (bytes of the length that follows, bytes besides those counted, children per counted item).
_SIZED: Final = {
    0xC4: 1, 0xC5: 2, 0xC6: 4,  # bytes
    0xC7: 1, 0xC8: 2, 0xC9: 4,  # extension (its type byte comes on top)
    0xD9: 1, 0xDA: 2, 0xDB: 4,  # str
}  # fmt: skip
_FIXED: Final = {
    0xC0: 0, 0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8,
    0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8,
    0xD4: 2, 0xD5: 3, 0xD6: 5, 0xD7: 9, 0xD8: 17,
}  # fmt: skip
_CONTAINERS: Final = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}


def piece_end(data: bytes, start: int, *, max_depth: int = MAX_DEPTH) -> int:
    """Where the MessagePack object that begins at `start` ends. Proves nothing else about it.

    Raises CodecError if it is cut off, or nested deeper than `max_depth`. Steps are at most the
    bytes passed over.
    """
    position, size = start, len(data)
    wanted = [1]  # how many objects are still to come, for each container that is open
    while wanted:
        if not wanted[-1]:
            wanted.pop()
            continue
        if position >= size:
            raise CodecError(f"cut off at byte {size}")
        if len(wanted) > max_depth + 1:
            raise CodecError(f"nested deeper than {max_depth}")
        tag = data[position]
        position += 1
        wanted[-1] -= 1
        if tag < 0x80 or tag >= 0xE0:
            continue
        if tag < 0xA0:
            wanted.append((tag & 0x0F) * (2 if tag < 0x90 else 1))
        elif tag < 0xC0:
            position += tag & 0x1F
        elif tag in _FIXED:
            position += _FIXED[tag]
        elif tag in _SIZED:
            width = _SIZED[tag]
            position += width + int.from_bytes(data[position : position + width])
            position += 1 if 0xC7 <= tag <= 0xC9 else 0
        elif tag in _CONTAINERS:
            width, per_item = _CONTAINERS[tag]
            wanted.append(per_item * int.from_bytes(data[position : position + width]))
            position += width
        else:
            raise CodecError(f"byte 0x{tag:02x} begins nothing")
    if position > size:
        raise CodecError(f"cut off at byte {size}")
    return position
