"""The bytes of messages: one registry of words, and checked readers for their fields.

Rules of this package: pure; encoding never fails for what this process built; decoding is total, it
returns a message or raises `CodecError`; every list has a bound. A message of a kind this version
does not know is returned as `Unknown` and skipped, so that a newer replica can say more than an
older one understands.

A message is msgpack of `[kind, fields…]`. A *word* is one kind of message; words are declared in
the other files of the package, grouped by what they are for, and put together in its `__init__`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from crdt.errors import CodecError
from crdt.frontier import from_flat
from crdt.structure import pack, unpack
from persistence.limits import MAX_SEQ, MAX_SHARDS, MAX_SNAPSHOT_SESSIONS

WIRE_OLDEST = 1
WIRE_NEWEST = 3
MAX_MESSAGE_BYTES = 8 << 20
"""No message is larger (the largest frame fits); a transport may close a link that announces one.
"""
MAX_SESSIONS = MAX_SNAPSHOT_SESSIONS
MAX_NAME_BYTES = 256


@dataclass(frozen=True, slots=True)
class Word:
    """One kind of message: its number, its class, its fields as msgpack takes them, and back.

    `size` is how many fields there are; `build` gets exactly so many, unchecked. `since`: the first
    wire version that knows it; an older peer must not be sent it.
    """

    kind: int
    cls: type[Any]
    fields: Callable[[Any], Sequence[Any]]
    size: int
    build: Callable[[tuple[Any, ...]], Any]
    since: int = 1


@dataclass(frozen=True, slots=True)
class Unknown:
    """A message of a kind this version does not know. Skipped."""

    kind: int


class Vocabulary:
    """All words of this version. Two of one kind or class are a bug: AssertionError."""

    def __init__(self, words: Iterable[Word]) -> None:
        self._by_kind: dict[int, Word] = {}
        self._by_class: dict[type[Any], Word] = {}
        for word in words:
            assert word.kind not in self._by_kind, f"kind {word.kind} is taken"
            assert word.cls not in self._by_class, f"{word.cls.__name__} has two kinds"
            self._by_kind[word.kind] = self._by_class[word.cls] = word

    def __repr__(self) -> str:
        return f"<Vocabulary of {len(self._by_kind)} words>"

    def since(self, cls: type[Any]) -> int:
        """The first wire version that knows this class of message."""
        return self._by_class[cls].since

    def encode(self, message: Any) -> bytes:
        """The message's bytes."""
        word = self._by_class[type(message)]
        return pack([word.kind, *word.fields(message)])

    def decode(self, data: bytes) -> Any:
        """The message, `Unknown`, or `CodecError`. Costs a small multiple of the bytes."""
        if len(data) > MAX_MESSAGE_BYTES:
            raise CodecError(f"a message of {len(data)} bytes, at most {MAX_MESSAGE_BYTES}")
        parts = unpack(data)
        if type(parts) is not tuple or not parts or type(parts[0]) is not int:
            raise CodecError("a message is a list that starts with its kind")
        word = self._by_kind.get(parts[0])
        if word is None:
            return Unknown(parts[0])
        if len(parts) != word.size + 1:
            raise CodecError(
                f"a message of kind {parts[0]} with {len(parts) - 1} fields, not {word.size}"
            )
        return word.build(parts[1:])


def number(value: Any, limit: int = MAX_SEQ, least: int = 0) -> int:
    """An int from `least` to `limit`."""
    if type(value) is not int or not least <= value <= limit:
        # Never the text of anything but a number: of lists in lists it is beyond the stack.
        found = value if type(value) is int else f"a {type(value).__name__}"
        raise CodecError(f"{found} is not a number from {least} to {limit}")
    return value


def blob(value: Any, limit: int = MAX_MESSAGE_BYTES) -> bytes:
    """Bytes, at most `limit` of them."""
    if type(value) is not bytes or len(value) > limit:
        raise CodecError(f"not a byte string of at most {limit} bytes")
    return value


def blobs(value: Any, limit: int) -> tuple[bytes, ...]:
    """A list of at most `limit` byte strings."""
    return tuple(blob(one) for one in items(value, limit))


def flag(value: Any) -> bool:
    """A bool."""
    if type(value) is not bool:
        raise CodecError("not true or false")
    return value


def text(value: Any) -> str:
    """Text of at most MAX_NAME_BYTES characters."""
    if type(value) is not str or len(value) > MAX_NAME_BYTES:
        raise CodecError(f"not a text of at most {MAX_NAME_BYTES} characters")
    return value


def items(value: Any, limit: int) -> tuple[Any, ...]:
    """A list of at most `limit` items, unchecked."""
    if type(value) is not tuple or len(value) > limit:
        raise CodecError(f"not a list of at most {limit} items")
    return value


def pairs(value: Any) -> dict[int, int]:
    """{session: seq}."""
    return from_flat(items(value, 2 * MAX_SESSIONS))


def shard_index(value: Any) -> int:
    """The number of a shard, of any mesh."""
    return number(value, MAX_SHARDS - 1)
