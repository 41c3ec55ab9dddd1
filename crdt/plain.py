"""What a shard holds, as plain data, without the classes its documents were declared by.

Paths say of everything what it is, so a document can be shown by whoever has its bytes: tools, and
readers of another version. Less is known than a class knows: wire names instead of attributes, no
defaults, nothing for fields that were never written, and a flag written both ways at once reads as
enabled, also where its class says that the disable counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from crdt.codec import decode_stored
from crdt.errors import InvalidId
from crdt.lattice import Entry, Shard
from crdt.paths import TypeCode, field_path, parse_path
from crdt.types.field import ranked
from crdt.types.rules import ABSENT, ENABLED, PRESENCE, PRESENT

__all__ = ("plain_document", "plain_documents")

_KEYS: Final = (str, int, bytes)
# The marker of a document that was created and not yet written to: it exists, and shows nothing.
_PRESENCE_PATH: Final = field_path("_exists", TypeCode.FLAG)


def plain_documents(shard: Shard) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every existing document of the shard with its fields, by id.

    Registers give their latest value, counters and flags what they count and say, sets a list in
    the order of canonical encoding, maps a dict, feeds a list, decisions {"epoch", "value"}, texts
    str. Costs a copy of the shard besides.
    """
    texts = shard.snapshot().texts
    for document in sorted(shard.documents()):
        yield document, _document(shard, document, texts.get(document, ()))


def plain_document(shard: Shard, document: str) -> dict[str, Any]:
    """One document, as in `plain_documents`. Raises InvalidId if it does not exist."""
    if not shard.exists(document):
        raise InvalidId(f"there is no document {document!r}")
    return _document(shard, document, shard.snapshot().texts.get(document, ()))


def _document(shard: Shard, document: str, texts: Iterable[bytes]) -> dict[str, Any]:
    root = _Node(TypeCode.MAP)
    for path, entries in shard.under(document, b""):
        if path != _PRESENCE_PATH:
            root.at(path).entries = entries
    for path in texts:
        state = shard.text(document, path)
        root.at(path).text = "" if state is None else state.value()
    fields: dict[str, Any] = root.plain()
    return fields


class _Node:
    """One component of a path, with what lies at it and below it."""

    __slots__ = ("children", "code", "entries", "text")

    def __init__(self, code: TypeCode | None) -> None:
        self.code = code
        self.children: dict[tuple[bytes, TypeCode | None], _Node] = {}
        self.entries: tuple[Entry, ...] = ()
        self.text = ""

    def at(self, path: bytes) -> _Node:
        """The node of a path below this one, made if it is not there."""
        node = self
        for key, code in parse_path(path).components:
            node = node.children.setdefault((key, code), _Node(code))
        return node

    def plain(self) -> Any:
        """The value."""
        if self.code is TypeCode.MAP:
            return self._map()
        if self.code is TypeCode.SET:
            return [decode_stored(key) for (key, _), child in self._sorted() if child.present()]
        if self.code is TypeCode.TEXT:
            return self.text
        read = _READERS.get(self.code) if self.code is not None else None
        return (read or _payloads)(self.entries)

    def present(self) -> bool:
        """Whether this element is in its set: asserted, and not denied by a remove-wins set."""
        markers = {payload for _, _, payload in self.entries}
        return PRESENT in markers and ABSENT not in markers

    def _map(self) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        for (key, code), child in self._sorted():
            name = decode_stored(key)
            if type(name) not in _KEYS:
                name = repr(name)
            if name in found and code is not None:
                # Two versions of a program disagree on the type; neither's data is left out.
                name = f"{name} ({code.name.lower()})"
            found[name] = child.plain()
        return found

    def _sorted(self) -> list[tuple[tuple[bytes, TypeCode | None], _Node]]:
        return sorted(self.children.items(), key=lambda item: (item[0][0], item[0][1] or 0))


def _payloads(entries: Iterable[Entry]) -> list[Any]:
    return [decode_stored(payload) for _, _, payload in entries]


def _register(entries: Iterable[Entry]) -> Any:
    found = ranked(entries)
    return found[-1][3] if found else None


def _values(entries: Iterable[Entry]) -> list[Any]:
    return [value for _, _, _, value in ranked(entries)]


def _feed(entries: Iterable[Entry]) -> list[Any]:
    return _values(entry for entry in entries if entry[2] != PRESENCE)


def _flag(entries: Iterable[Entry]) -> bool:
    return any(payload == ENABLED for _, _, payload in entries)


def _decided(entries: Iterable[Entry]) -> dict[str, Any] | None:
    found = ranked(entries)
    return {"epoch": found[-1][0], "value": found[-1][3]} if found else None


def _counter(entries: Iterable[Entry]) -> int:
    return sum(_payloads(entries))


_READERS: Final[dict[TypeCode, Callable[[Iterable[Entry]], Any]]] = {
    TypeCode.REGISTER: _register,
    TypeCode.MULTIVALUE: _values,
    TypeCode.COUNTER: _counter,
    TypeCode.FLAG: _flag,
    TypeCode.FEED: _feed,
    TypeCode.DECIDED: _decided,
}
