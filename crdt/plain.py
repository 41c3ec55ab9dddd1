"""What a shard holds, as plain data, without the classes its documents were declared by.

Paths say of everything what it is, so a document can be shown by whoever has its bytes: tools, and
readers of another version. Less is known than a class knows: wire names instead of attributes, no
defaults, nothing for fields that were never written, bounded counters as if their bound were 0, and
a flag written both ways at once as enabled, also where its class says that the disable counts.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Set
from typing import Any, Final, NamedTuple

from crdt.access import Access, ShardView
from crdt.codec import decode_stamped, decode_stored
from crdt.errors import InvalidId, UnknownField
from crdt.lattice import Entry, Shard
from crdt.paths import TypeCode, field_path, parse_path
from crdt.types.bounded import read_rows, remaining
from crdt.types.extremum import Maximum, Minimum
from crdt.types.field import ranked
from crdt.types.multivalue import distinct
from crdt.types.rules import ABSENT, ENABLED, PRESENCE, PRESENT

__all__ = (
    "PRESENCE_PATH",
    "Written",
    "plain_document",
    "plain_documents",
    "plain_fields",
    "plain_value",
    "written_at",
)

PRESENCE_PATH: Final = field_path("_exists", TypeCode.FLAG)
"""The marker of a document that was created and not yet written to: it exists, and shows
nothing.
"""

_KEYS: Final = (str, int, bytes)
_STAMPED: Final = frozenset({TypeCode.REGISTER, TypeCode.MULTIVALUE, TypeCode.FEED})


class Written(NamedTuple):
    """One write of a field that is still in the state: by which session (`session`, `seq` name the
    operation within its shard), when by its writer's clock (`stamp`, in the units of
    `crdt.clock`, None for types that keep none), and what (`value`, plain data).

    `keys`: where in the field: the keys of Maps, outermost first, and last the element of a Set,
    whose `value` is then whether it was added or, in a remove-wins set, removed.
    """

    session: int
    seq: int
    stamp: int | None
    value: Any
    keys: tuple[Any, ...] = ()


def plain_documents(shard: Shard) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every existing document of the shard with its fields, by id.

    Registers give their latest value, multi-values a list, maxima and minima the outermost value,
    counters and flags what they count and say, sets a list in the order of canonical encoding, maps
    a dict, feeds a list, decisions {"epoch", "value"}, texts str.
    """
    view = ShardView(shard)
    for document in sorted(shard.documents()):
        yield document, plain_fields(view, document)


def plain_document(shard: Shard, document: str) -> dict[str, Any]:
    """One document, as in `plain_documents`. Raises InvalidId if it does not exist."""
    _check_exists(shard, document)
    return plain_fields(ShardView(shard), document)


def plain_value(shard: Shard, document: str, path: str | tuple[Any, ...]) -> Any:
    """One part of a document as plain data: `plain_value(shard, "Task/42", "findings.a")`.

    `path` is a field's stored name and then keys of maps or of dicts in a value, or positions in a
    list; in a tuple they are given as they are, between dots as they print. Raises InvalidId if
    there is no such document, UnknownField if it has nothing there, naming the nearest there is.
    """
    _check_exists(shard, document)
    steps = tuple(path.split(".")) if isinstance(path, str) else path
    printed = isinstance(path, str)
    found: Any = _tree(ShardView(shard), document)
    for depth, step in enumerate(steps):
        if isinstance(found, _Node):
            found = found.named() if found.code is TypeCode.MAP else found.plain()
        place = ".".join([document, *map(str, steps[:depth])])
        found = _step(found, step, place, printed)
    return found.plain() if isinstance(found, _Node) else found


def plain_fields(
    access: Access, document: str, without: Set[bytes] = frozenset()
) -> dict[str, Any]:
    """The fields of one document as in `plain_documents`, but those at the paths `without`."""
    fields: dict[str, Any] = _tree(access, document, without).plain()
    return fields


def written_at(access: Access, document: str, path: bytes) -> list[Written]:
    """What is live at and below a path, the latest first: by stamp where there is one, then by
    dot.
    """
    depth = len(parse_path(path).components)
    found = []
    for each, entries in access.under(document, path):
        parsed = parse_path(each)
        keys = tuple(decode_stored(key) for key, _ in parsed.components[depth:])
        for session, seq, payload in entries:
            found.append(Written(session, seq, *_payload(parsed.code, payload), keys))
    found.sort(key=lambda each: (each.stamp or 0, each.session, each.seq), reverse=True)
    return found


def _payload(code: TypeCode, payload: bytes) -> tuple[int | None, Any]:
    if code in _STAMPED and payload != PRESENCE:
        return decode_stamped(payload)
    if code is TypeCode.DECIDED:
        epoch, value = decode_stamped(payload)
        return None, {"epoch": epoch, "value": value}
    return None, decode_stored(payload)


def _check_exists(shard: Shard, document: str) -> None:
    if not shard.exists(document):
        raise InvalidId(f"there is no document {document!r}")


def _step(found: Any, step: Any, place: str, printed: bool) -> Any:
    """What lies at `step` in a dict or list; `printed`: the step is the text of a key."""
    inside: dict[Any, Any]
    if isinstance(found, dict):
        inside = found
    elif isinstance(found, list | tuple):
        inside = dict(enumerate(found))
    else:
        raise UnknownField(f"{place} is {type(found).__name__}: nothing lies inside it")
    names = {str(name): name for name in inside}
    if printed:
        step = names.get(step, step)
    # By type too: the dict would take True for 1.
    if type(step) in _KEYS and step in inside:
        return inside[step]
    nearest = difflib.get_close_matches(str(step), names, n=1, cutoff=0.5)
    if nearest:
        cure = f"did you mean {names[nearest[0]]!r}?"
    else:
        cure = f"it has {', '.join(list(names)[:8]) or 'nothing'}{'…' if len(names) > 8 else ''}"
    raise UnknownField(f"{place} has no {step!r}; {cure}")


def _tree(access: Access, document: str, without: Set[bytes] = frozenset()) -> _Node:
    root = _Node(TypeCode.MAP)
    for path, entries in access.under(document, b""):
        if path != PRESENCE_PATH and _field_of(path) not in without:
            root.at(path).entries = entries
    for path in access.text_paths(document):
        if path not in without and access.text_length(document, path):
            node = root.at(path)
            if node.code is TypeCode.SEQUENCE:
                slots = access.slots(document, path)
                node.text = [slots.all[each].value for each in slots.shown()]
            else:
                node.text = access.text(document, path)
    return root


def _field_of(path: bytes) -> bytes:
    """The path of the field that a path lies in."""
    parsed = parse_path(path)
    return parsed.prefixes[0] if parsed.prefixes else path


class _Node:
    """One component of a path, with what lies at it and below it."""

    __slots__ = ("children", "code", "entries", "text")

    def __init__(self, code: TypeCode | None) -> None:
        self.code = code
        self.children: dict[tuple[bytes, TypeCode | None], _Node] = {}
        self.entries: tuple[Entry, ...] = ()
        self.text: str | list[Any] = ""

    def at(self, path: bytes) -> _Node:
        """The node of a path below this one, made if it is not there."""
        node = self
        for key, code in parse_path(path).components:
            node = node.children.setdefault((key, code), _Node(code))
        return node

    def plain(self) -> Any:
        """The value."""
        if self.code is TypeCode.MAP:
            return {name: child.plain() for name, child in self.named().items()}
        if self.code is TypeCode.SET:
            return [decode_stored(key) for (key, _), child in self._sorted() if child.present()]
        if self.code is TypeCode.TEXT or self.code is TypeCode.SEQUENCE:
            return self.text
        read = _READERS.get(self.code) if self.code is not None else None
        return (read or _payloads)(self.entries)

    def present(self) -> bool:
        """Whether this element is in its set: asserted, and not denied by a remove-wins set."""
        markers = {payload for _, _, payload in self.entries}
        return PRESENT in markers and ABSENT not in markers

    def named(self) -> dict[Any, _Node]:
        """What lies below, by plain names."""
        found: dict[Any, _Node] = {}
        for (key, code), child in self._sorted():
            name = decode_stored(key)
            if type(name) not in _KEYS:
                name = repr(name)
            if name in found and code is not None:
                # Two versions of a program disagree on the type; neither's data is left out.
                name = f"{name} ({code.name.lower()})"
            found[name] = child
        return found

    def _sorted(self) -> list[tuple[tuple[bytes, TypeCode | None], _Node]]:
        return sorted(self.children.items(), key=lambda item: (item[0][0], item[0][1] or 0))


def _payloads(entries: Iterable[Entry]) -> list[Any]:
    return [decode_stored(payload) for _, _, payload in entries]


def _register(entries: Iterable[Entry]) -> Any:
    found = ranked(entries)
    return found[-1][3] if found else None


def _maximum(entries: Iterable[Entry]) -> Any:
    found = [payload for _, _, payload in entries]
    return decode_stored(Maximum.outermost(found)) if found else None


def _minimum(entries: Iterable[Entry]) -> Any:
    found = [payload for _, _, payload in entries]
    return decode_stored(Minimum.outermost(found)) if found else None


def _bounded(entries: Iterable[Entry]) -> int:
    return remaining(read_rows(entries))


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
    TypeCode.MULTIVALUE: distinct,
    TypeCode.MAXIMUM: _maximum,
    TypeCode.MINIMUM: _minimum,
    TypeCode.BOUNDED: _bounded,
    TypeCode.COUNTER: _counter,
    TypeCode.FLAG: _flag,
    TypeCode.FEED: _feed,
    TypeCode.DECIDED: _decided,
}
