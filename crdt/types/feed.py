"""Feed: an append-only sequence in the order of the writers' clocks.

Rules. An entry [stamp, value] per item, in the order of (stamp, session, seq). Items are removed
only with what is around them, or by Keep. Concurrent appends: both are there, the one with the
earlier stamp first, so an item can turn up before one already read. Appended while the feed is
removed: the item stays. An append-only log in the causal form of Almeida, Shoker, Baquero: "Delta
State Replicated Data Types" (2018), ordered by hybrid logical clocks (Kulkarni et al., 2014).
"""

import collections.abc
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Self, TypeVar, overload

from crdt.access import Access, Entry
from crdt.codec import decode_stamped, encode_stamped
from crdt.errors import SchemaError
from crdt.operation import Removal
from crdt.paths import TypeCode
from crdt.types.expect import Expectation, expectation, printed, refuse
from crdt.types.field import Child, Declaration, Editor, Handle, ranked
from crdt.types.rules import PRESENCE

T = TypeVar("T")


class FeedEditor(Editor, collections.abc.Sequence[T]):
    """The items of one Feed field, live, ordered by (stamp, session, seq): the same on every
    replica.

    An item is stamped above every item its writer had seen in the feed, so an answer stands after
    what it answers. Items of others can arrive before ones already read: an index is no cursor.
    """

    __slots__ = ("_field",)

    def __init__(self, field: "Feed[T]", access: Access, document: str, path: bytes) -> None:
        super().__init__(access, document, path)
        self._field = field

    def __repr__(self) -> str:
        return printed(self._items())

    def __eq__(self, other: object) -> bool:
        if isinstance(other, FeedEditor | list | tuple):
            return self._items() == list(other)
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __len__(self) -> int:
        return len(_items(self._access, self._document, self._path))

    def __iter__(self) -> Iterator[T]:
        return iter(self._items())

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        return self._items()[index]

    def __iadd__(self, values: Iterable[T]) -> Self:
        self.extend(values)
        return self

    def append(self, value: T) -> None:
        """Append an item. Raises InvalidValue if it is of the wrong type."""
        self._field.append(self._access, self._document, self._path, value)

    def extend(self, values: Iterable[T]) -> None:
        """Append each of `values`, in their order."""
        for value in list(values):
            self.append(value)

    def _items(self) -> list[T]:
        return [each[3] for each in ranked(_items(self._access, self._document, self._path))]


def _items(access: Access, document: str, path: bytes) -> tuple[Entry, ...]:
    """The entries that are items; under a Map there may be a presence marker besides."""
    entries = access.entries(document, path)
    if any(payload == PRESENCE for _, _, payload in entries):
        return tuple(entry for entry in entries if entry[2] != PRESENCE)
    return entries


class Feed(Child[FeedEditor[T], FeedEditor[T]]):
    """An append-only feed of storable values; `document.log` gives its FeedEditor.

    `Annotated[Feed[str], Keep(100)]`: each append removes what lies before the newest 100 items it
    sees, so the feed holds about 100 (more only while concurrent appends have not met).
    """

    code: ClassVar[TypeCode] = TypeCode.FEED
    cure = "use .append(…) or .extend(…)"

    def __init__(self, label: str, expected: Expectation, keep: int | None) -> None:
        super().__init__(label)
        self._expected = expected
        self._keep = keep

    @classmethod
    def declare(cls, declaration: Declaration) -> "Feed[Any]":
        declaration.arguments_are(1, "Feed[str], Feed[dict[str, Any]], …")
        declaration.options_are("keep")
        keep = None if declaration.options.keep is None else declaration.options.keep.count
        if keep is not None and keep < 1:
            raise SchemaError(
                f"{declaration.label}: Keep({keep}) would keep nothing; use at least Keep(1)"
            )
        return Feed(
            declaration.label, expectation(declaration.arguments[0], declaration.label), keep
        )

    @overload
    def __get__(self, instance: None, owner: type) -> "Feed[T]": ...
    @overload
    def __get__(self, instance: Handle, owner: type) -> FeedEditor[T]: ...
    def __get__(self, instance: Handle | None, owner: type) -> "Feed[T] | FeedEditor[T]":
        if instance is None:
            return self
        return FeedEditor(self, instance._access, instance._id, self.path)

    def __set__(self, instance: Handle, value: FeedEditor[T]) -> None:
        self.assign(instance._access, instance._id, self.path, value)

    def append(self, access: Access, document: str, path: bytes, value: Any) -> None:
        """One more item at the path, and the removal of what Keep no longer wants."""
        if not self._expected.accepts(value):
            refuse(self.label, f"items of type {self._expected.text}", value)
        # Within a session stamps grow with seqs, so the greatest is among the sessions' last.
        last = [entry[2] for entry in access.last_entries(document, path) if entry[2] != PRESENCE]
        greatest = max([decode_stamped(payload)[0] for payload in last], default=0)
        removals = () if self._keep is None else self._surplus(access, document, path, self._keep)
        access.write(document, path, encode_stamped(access.stamp(greatest), value), removals)

    @staticmethod
    def _surplus(access: Access, document: str, path: bytes, keep: int) -> tuple[Removal, ...]:
        """The removal of what must go if one more item is to make at most `keep`."""
        entries = _items(access, document, path)
        if len(entries) < keep:
            return ()
        seen: dict[int, int] = {}
        for _, session, seq, _ in ranked(entries)[: len(entries) - keep + 1]:
            seen[session] = max(seq, seen.get(session, 0))
        return (Removal(path, False, tuple(sorted(seen.items()))),)

    def view(self, access: Access, document: str, path: bytes) -> FeedEditor[T]:
        return FeedEditor(self, access, document, path)

    def plain(self, access: Access, document: str, path: bytes) -> list[Any]:
        return list(FeedEditor(self, access, document, path))
