"""Mutators: bytes that are wrong in ways that a reader might not expect.

Three kinds: blind ones (`damaged`), ones that know where MessagePack has its headers (`misstated`),
and ones that change the structure and encode it properly again (`restructured`).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from random import Random
from typing import Any, Final

import msgpack  # type: ignore[import-untyped]

INTERESTING: Final = (0, 1, 0x7F, 0x80, 0x90, 0x9F, 0xA0, 0xC0, 0xC1, 0xC4, 0xC7, 0xCF, 0xD4, 0xDD,
                      0xDF, 0xFF)  # fmt: skip
NUMBERS: Final = (-1, 0, 1, 2, 127, 128, 255, 1 << 16, (1 << 31) - 1, 1 << 31, (1 << 32) - 1,
                  (1 << 53) - 1, 1 << 53, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)  # fmt: skip
HEADERS: Final = (b"\x91", b"\x81", b"\x92", b"\x9f", b"\x81\xa1a", b"\xdc\x0f\xff",
                  b"\xdd\x00\x00\x0f\xff", b"\xdd\x00\x01\x00\x00", b"\xdd\x00\x10\x00\x00",
                  b"\xde\x0f\xff", b"\xdf\x00\x01\x00\x00", b"\xdd\xff\xff\xff\xff")  # fmt: skip
DEPTHS: Final = (2, 9, 17, 33, 34, 40, 200, 511, 1023, 1024, 1025, 6000)
LARGE_DEPTHS: Final = (60_000, 400_000)
MOST_NODES: Final = 4000


def damaged(random: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """A few flips, cuts, copies, splices and interesting bytes."""
    out = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        at = random.randrange(len(out) + 1)
        match random.randrange(8):
            case 0:
                out[at : at + 1] = bytes((random.randrange(256),))
            case 1:
                out[at : at + 1] = bytes((random.choice(INTERESTING),))
            case 2:
                del out[at : at + random.choice((1, 2, 5, 30))]
            case 3:
                del out[at:]
            case 4:
                size = random.choice((1, 4, 20, 200))
                out[at:at] = out[max(0, at - size) : at] * random.choice((1, 1, 2, 50))
            case 5:
                other = random.choice(others)
                out[at:] = other[random.randrange(len(other) + 1) :]
            case 6:
                out[at:at] = random.randbytes(random.choice((1, 2, 8)))
            case _ if at < len(out):
                out[at] ^= 1 << random.randrange(8)
    return bytes(out)


def nested(random: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Container headers inside each other, at the start or anywhere."""
    depth = random.choice(LARGE_DEPTHS if random.random() < 0.01 else DEPTHS)
    headers = random.choice(HEADERS) * depth
    if random.random() < 0.3:
        return headers + random.choice((b"", b"\xc0", b"\xc0" * depth))
    at = random.choice([start for start, _ in pieces(data)] or [0])
    return data[:at] + headers + data[at:]


def misstated(random: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """One header's tag or length is another, or a piece lies where another was."""
    found = pieces(data)
    if not found:
        return damaged(random, data, others)
    start, end = random.choice(found)
    match random.randrange(6):
        case 0:
            return data[:start] + bytes((data[start] ^ 1 << random.randrange(4),)) + data[end:]
        case 1:
            return data[:start] + _stated(random, data[start:end]) + data[end:]
        case 2:
            return data[:start] + data[end:]
        case 3:
            return data[:end] + data[start:end] + data[end:]
        case 4:
            tag = bytes((random.randrange(0x80, 0x100),))
            return data[:start] + tag + data[start + 1 :]
    other = random.choice(others)
    first, last = random.choice(pieces(other) or [(0, len(other))])
    return data[:start] + other[first:last] + data[end:]


def _stated(random: Random, header: bytes) -> bytes:
    """The same header with another number in it, or the same number in a longer form."""
    tag = header[0]
    if len(header) > 1 and (0xC4 <= tag <= 0xC9 or 0xD9 <= tag <= 0xDF):
        width = len(header) - 1
        number = int.from_bytes(header[1:]) + random.choice((-1, 1, 7, 1 << 20))
        if random.random() < 0.3:
            number = (1 << (8 * width)) - 1
        return header[:1] + (number % (1 << (8 * width))).to_bytes(width)
    if 0x90 <= tag < 0xA0:
        return random.choice((b"\xdc\x00", b"\xdd\x00\x00\x00")) + bytes((tag & 0x0F,))
    if 0x80 <= tag < 0x90:
        return random.choice((b"\xde\x00", b"\xdf\x00\x00\x00")) + bytes((tag & 0x0F,))
    if 0xA0 <= tag < 0xC0:
        return random.choice((b"\xd9", b"\xda\x00", b"\xc4")) + bytes((tag & 0x1F,))
    if tag < 0x80:
        return random.choice((b"\xcc", b"\xcd\x00", b"\xd0")) + bytes((tag,))
    return bytes((tag, *(random.randrange(256) for _ in header[1:])))


_WIDTHS: Final = {
    0xC0: 0, 0xC2: 0, 0xC3: 0, 0xC4: 1, 0xC5: 2, 0xC6: 4, 0xC7: 1, 0xC8: 2, 0xC9: 4, 0xCA: 4,
    0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8, 0xD4: 2,
    0xD5: 3, 0xD6: 5, 0xD7: 9, 0xD8: 17, 0xD9: 1, 0xDA: 2, 0xDB: 4, 0xDC: 2, 0xDD: 4, 0xDE: 2,
    0xDF: 4,
}  # fmt: skip
"""Bytes that belong to a header, after its tag."""


def pieces(data: bytes) -> list[tuple[int, int]]:
    """(start, end) of the headers in a valid sample: of scalars of fixed size the whole."""
    found: list[tuple[int, int]] = []
    at = 0
    while at < len(data) and len(found) < MOST_NODES:
        tag = data[at]
        end = at + 1 + _WIDTHS.get(tag, 0)
        found.append((at, end))
        if 0xA0 <= tag < 0xC0:
            end += tag & 0x1F
        elif 0xC4 <= tag <= 0xC9 or 0xD9 <= tag <= 0xDB:
            end += int.from_bytes(data[at + 1 : end]) + (0xC7 <= tag <= 0xC9)
        at = end
    return found


# ------------------------------------------------------------------------------------- structure


def restructured(random: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """The structure with some nodes changed, properly encoded again."""
    try:
        root, donor = [_unpacked(data)], [_unpacked(random.choice(others))]
        for _ in range(random.choice((1, 1, 2, 5))):
            _change(random, root, donor)
        return b"".join(map(_packed, root[0]))
    except _NO_STRUCTURE:
        return damaged(random, data, others)  # e.g. a yrs update, or a number of 65 bits


_NO_STRUCTURE: Final = (ValueError, TypeError, OverflowError, LookupError, msgpack.UnpackException)


def _unpacked(data: bytes) -> list[Any]:
    """The objects that lie one behind the other; mostly just one."""
    unpacker = msgpack.Unpacker(strict_map_key=False, max_buffer_size=0)
    unpacker.feed(data)
    found = list(unpacker)
    if unpacker.tell() != len(data):
        raise ValueError("no MessagePack")
    return found


def _packed(value: Any) -> bytes:
    packed: bytes = msgpack.packb(value)
    return packed


def _change(random: Random, root: list[Any], donor: list[Any]) -> None:
    places = _places(root)
    parent, key = random.choice(places) if random.random() < 0.6 else _descended(random, root)
    node = parent[key]
    match random.randrange(7):
        case 0:
            parent[key] = random.choice(NUMBERS)
        case 1:
            parent[key] = random.choice((None, True, b"", "", [], {}, 0.5, b"\xc0", "x/y"))
        case 2:
            elsewhere, other = random.choice(_places(donor))
            parent[key] = copy.deepcopy(elsewhere[other])
        case 3 if isinstance(parent, list) and parent is not root:
            del parent[key]
        case 4 if isinstance(parent, list) and parent is not root:
            parent.insert(key, copy.deepcopy(node))
        case 5:
            elsewhere, other = random.choice(places)
            if not _places([node])[1:] and not _places([elsewhere[other]])[1:]:
                parent[key], elsewhere[other] = elsewhere[other], node
        case _:
            parent[key] = _other_scalar(random, node)


def _other_scalar(random: Random, node: Any) -> Any:
    """Nearly the same scalar."""
    if type(node) is int:
        return node + random.choice((-1, 1, 2, 64))
    if type(node) is bytes:
        return random.choice((restructured, damaged))(random, node, [node])
    if type(node) is str:
        return node + random.choice(("x", "\x00", "é", "y" * 600, "/"))
    if type(node) is list:
        return node[::-1]
    return [node]


def _places(root: list[Any]) -> list[tuple[Any, Any]]:
    """(container, key) of every node."""
    found: list[tuple[Any, Any]] = []
    open_: list[Any] = [root]
    while open_ and len(found) < MOST_NODES:
        node = open_.pop()
        keys = range(len(node)) if isinstance(node, list) else list(node)
        for key in keys:
            found.append((node, key))
            if isinstance(node[key], list | dict):
                open_.append(node[key])
    return found


def _descended(random: Random, root: list[Any]) -> tuple[Any, Any]:
    """(container, key) of a node, those near the root as likely as the many far from it."""
    parent, key = root, 0
    while (node := parent[key]) and isinstance(node, list) and random.random() < 0.7:
        parent, key = node, random.randrange(len(node))
    return parent, key


MUTATORS: Final = (damaged, damaged, misstated, misstated, restructured, restructured, restructured)


def mutated(random: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """The sample, changed in one of the ways there are."""
    if random.random() < 0.04:
        return nested(random, data, others)
    return random.choice(MUTATORS)(random, data, others)
