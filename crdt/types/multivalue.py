"""MultiValue: every concurrent value is kept and read; whoever writes next resolves them.

Rules. An entry [stamp, value] per write; a write takes the place of all entries its writer had
seen. All that is left is read. Concurrent writes: both values are read, until somebody writes or
deletes the field having seen them. A concurrent write survives a deletion. The multi-value
register of Shapiro, Preguiça, Baquero, Zawirski: "A Comprehensive Study of Convergent and
Commutative Replicated Data Types" (2011).
"""

from collections.abc import Iterable
from typing import Any, ClassVar, TypeVar, overload

from crdt.access import Access, Entry
from crdt.codec import decode_stamped, encode, encode_stamped, stamp_of
from crdt.paths import TypeCode
from crdt.types.expect import Expectation, expectation, refuse
from crdt.types.field import Child, Declaration, Handle, clear, ranked

T = TypeVar("T")


class MultiValue(Child[tuple[T, ...], T]):
    """A register that shows all concurrent values: assigned a value, it reads as a tuple.

    The tuple is empty while nothing is written, has one value after a write, and several after
    concurrent ones: distinct by their canonical encoding, the one with the latest stamp first, in
    the same order on every replica. Assigning replaces all of them; `del document.field` removes
    them.
    """

    code: ClassVar[TypeCode] = TypeCode.MULTIVALUE

    def __init__(self, label: str, expected: Expectation) -> None:
        super().__init__(label)
        self._expected = expected

    @classmethod
    def declare(cls, declaration: Declaration) -> "MultiValue[Any]":
        declaration.arguments_are(1, "MultiValue[str], MultiValue[int], …")
        declaration.options_are()
        return MultiValue(
            declaration.label, expectation(declaration.arguments[0], declaration.label)
        )

    @overload
    def __get__(self, instance: None, owner: type) -> "MultiValue[T]": ...
    @overload
    def __get__(self, instance: Handle, owner: type) -> tuple[T, ...]: ...
    def __get__(self, instance: Handle | None, owner: type) -> "MultiValue[T] | tuple[T, ...]":
        if instance is None:
            return self
        return self.view(instance._access, instance._id, self.path)

    def __set__(self, instance: Handle, value: T) -> None:
        self.assign(instance._access, instance._id, self.path, value)

    def __delete__(self, instance: Handle) -> None:
        clear(instance._access, instance._id, self.path)

    def view(self, access: Access, document: str, path: bytes) -> tuple[T, ...]:
        entries = access.entries(document, path)
        if len(entries) == 1:
            return (decode_stamped(entries[0][2])[1],)
        return tuple(distinct(entries))

    def plain(self, access: Access, document: str, path: bytes) -> list[Any]:
        return list(self.view(access, document, path))

    def assign(self, access: Access, document: str, path: bytes, value: Any) -> None:
        if not self._expected.accepts(value):
            refuse(self.label, self._expected.text, value)
        live = access.entries(document, path)
        greatest = max([stamp_of(payload) for _, _, payload in live], default=0)
        access.replace(document, path, encode_stamped(access.stamp(greatest), value), live)


def distinct(entries: Iterable[Entry]) -> list[Any]:
    """The values of [stamp, value] entries, each once, the latest first."""
    found = {encode(value): value for _, _, _, value in reversed(ranked(entries))}
    return list(found.values())
