"""Paths: where in a document an entry lies.

A path is a concatenation of self-delimiting canonical pieces, so the path of a part begins with
the bytes of the path of its whole, and nothing else does:

    field        encode(wire name) + type code
    set element  … SET + encode(element)
    map child    … MAP + encode(key) + child's type code  (+ the child's own element or children)

Type codes are frozen for ever: they are on the wire and in every journal.
"""

from __future__ import annotations

import enum
import functools
from typing import Final, NamedTuple

from crdt.codec import decode, encode
from crdt.errors import CodecError, InvalidId, InvalidValue
from crdt.limits import MAX_NAME_BYTES, MAX_PATH_BYTES, MAX_PATH_DEPTH
from crdt.structure import piece_end


class TypeCode(enum.IntEnum):
    """What lies at a path. Numbers are never reused."""

    REGISTER = 1
    MULTIVALUE = 2
    COUNTER = 3
    MAXIMUM = 4
    MINIMUM = 5
    FLAG = 6
    SET = 7
    MAP = 8
    FEED = 9
    BOUNDED = 10
    DECIDED = 11
    TEXT = 12
    SEQUENCE = 13


CHILD_CODES: Final = frozenset(TypeCode) - {
    TypeCode.BOUNDED,
    TypeCode.DECIDED,
    TypeCode.TEXT,
    TypeCode.SEQUENCE,
}
"""What may lie in a map. The others may not: what they hold must survive the removal of a key."""

_CODES: Final = {int(code): code for code in TypeCode}


class Component(NamedTuple):
    """One step of a path: the canonical bytes of a name, key or element; elements of sets have no
    code.
    """

    key: bytes
    code: TypeCode | None


class ParsedPath(NamedTuple):
    """A path taken apart. `prefixes`: the paths of everything it lies in, outermost first, itself
    excluded.
    """

    components: tuple[Component, ...]
    code: TypeCode
    prefixes: tuple[bytes, ...]

    @property
    def element(self) -> bytes | None:
        """The canonical bytes of the set element, if the path names one."""
        last = self.components[-1]
        return last.key if last.code is None else None


def field_path(name: str, code: TypeCode) -> bytes:
    """The path of a document's field. Raises InvalidId for an empty or overlong wire name."""
    piece = encode(name)
    if not name or len(name.encode()) > MAX_NAME_BYTES:
        raise InvalidId(f"field name {name!r:.200}: use 1 to {MAX_NAME_BYTES} bytes of UTF-8")
    return piece + bytes((code,))


def element_path(path: bytes, element: object) -> bytes:
    """The path of an element of the set at `path`. Raises InvalidValue."""
    return _checked(path + encode(element))


def child_path(path: bytes, key: object, code: TypeCode) -> bytes:
    """The path of the child `key`, of type `code`, of the map at `path`. Raises InvalidValue."""
    if len(parse_path(path).components) >= MAX_PATH_DEPTH:
        raise InvalidValue(f"maps may nest {MAX_PATH_DEPTH} deep: declare a flatter document")
    return _checked(path + encode(key) + bytes((code,)))


def _checked(path: bytes) -> bytes:
    if len(path) > MAX_PATH_BYTES:
        raise InvalidValue(
            f"a set element or map key of this size makes a path of {len(path)} bytes, at most "
            f"{MAX_PATH_BYTES} are storable: keep the large part in a value"
        )
    return path


@functools.lru_cache(maxsize=16_384)
def parse_path(path: bytes) -> ParsedPath:
    """Take a path apart, proving that every piece is canonical and every type is where it may be.

    Raises CodecError. Cached, bounded.
    """
    if not path or len(path) > MAX_PATH_BYTES:
        raise CodecError(f"a path of {len(path)} bytes, 1 to {MAX_PATH_BYTES} are allowed")
    components: list[Component] = []
    prefixes: list[bytes] = []
    position, code = 0, TypeCode.MAP  # a document's root is a map of fields
    while position < len(path):
        end = piece_end(path, position)
        key = path[position:end]
        value = decode(key)
        if code is TypeCode.SET:
            components.append(Component(key, None))
            if end != len(path):
                raise CodecError(f"a path goes on below a set element: {path[:48].hex()}")
            break
        if code is not TypeCode.MAP:
            raise CodecError(f"a path goes on below a {code.name.lower()}: {path[:48].hex()}")
        if len(components) >= MAX_PATH_DEPTH:
            raise CodecError(f"a path deeper than {MAX_PATH_DEPTH}: {path[:48].hex()}")
        code = _code_at(path, end, components, value)
        components.append(Component(key, code))
        position = end + 1
        if position < len(path):
            prefixes.append(path[:position])
    return ParsedPath(tuple(components), code, tuple(prefixes))


def _code_at(path: bytes, end: int, above: list[Component], name: object) -> TypeCode:
    code = _CODES.get(path[end]) if end < len(path) else None
    if code is None:
        raise CodecError(f"a path without a known type: {path[:48].hex()}")
    if above:
        if code not in CHILD_CODES:
            raise CodecError(f"a {code.name.lower()} inside a map: {path[:48].hex()}")
    elif not isinstance(name, str) or not name or len(name.encode()) > MAX_NAME_BYTES:
        raise CodecError(f"a field without a proper name: {path[:48].hex()}")
    return code


def leaf_code(path: bytes) -> TypeCode:
    """The type of what lies at a path. Raises CodecError. Cached, bounded."""
    return parse_path(path).code
