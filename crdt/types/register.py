"""Register: one value; the latest write wins, concurrent ones can be read until the next."""

from typing import Any, ClassVar, TypeVar, overload

from crdt.access import Access, Entry
from crdt.codec import decode_stamped, decode_stored, encode, encode_stamped
from crdt.errors import SchemaError
from crdt.paths import TypeCode
from crdt.types.expect import Expectation, expectation, refuse
from crdt.types.field import Child, Declaration, Handle, ranked

T = TypeVar("T")


class Register(Child[T]):
    """A last-writer-wins register holding any storable value.

    Wins: the greatest (stamp, session, seq). A stamp is above every stamp its writer had seen in
    the field, so a write that knew of another always beats it. Concurrent writes are all kept, and
    shown by `document.conflicts(name)`, until somebody writes or deletes the field having seen
    them. Reads None, or its Default, while nothing is written; `del document.field` goes back to
    that.
    """

    code: ClassVar[TypeCode] = TypeCode.REGISTER
    implicit = False

    def __init__(self, label: str, expected: Expectation, default: bytes | None) -> None:
        super().__init__(label)
        self._expected = expected
        self._accepts = expected.accepts
        self._default = default

    @classmethod
    def declare(cls, declaration: Declaration) -> "Register[Any]":
        declaration.arguments_are(1, "Register[str], Register[int], …")
        declaration.options_are("default")
        expected = expectation(declaration.arguments[0], declaration.label)
        if declaration.options.default is None:
            return Register(declaration.label, expected, None)
        if not expected.accepts(declaration.options.default.value):
            raise SchemaError(
                f"{declaration.label}: its default {declaration.options.default.value!r} is no "
                f"{expected.text}"
            )
        return Register(declaration.label, expected, encode(declaration.options.default.value))

    @overload
    def __get__(self, instance: None, owner: type) -> "Register[T]": ...
    @overload
    def __get__(self, instance: Handle, owner: type) -> T | None: ...
    def __get__(self, instance: Handle | None, owner: type) -> "Register[T] | T | None":
        if instance is None:
            return self
        return self._read(instance._access.entries(instance._id, self.path))

    def __set__(self, instance: Handle, value: T) -> None:
        self.assign(instance._access, instance._id, self.path, value)

    def __delete__(self, instance: Handle) -> None:
        removal = instance._access.removal(instance._id, self.path)
        if removal is not None:
            instance._access.write(instance._id, self.path, None, (removal,))

    def view(self, access: Access, document: str, path: bytes) -> T:
        return self._read(access.entries(document, path))  # type: ignore[return-value]

    def plain(self, access: Access, document: str, path: bytes) -> Any:
        return self._read(access.entries(document, path))

    def assign(self, access: Access, document: str, path: bytes, value: Any) -> None:
        if not self._accepts(value):
            refuse(self.label, self._expected.text, value)
        entries = access.entries(document, path)
        if entries:
            greatest = max([decode_stamped(entry[2])[0] for entry in entries])
            access.replace(document, path, encode_stamped(access.stamp(greatest), value))
        else:
            access.replace(document, path, encode_stamped(access.stamp(), value))

    def conflicts(self, access: Access, document: str, path: bytes) -> list[T]:
        """The values that lost against a concurrent write, the latest first; empty without a
        conflict.
        """
        return [each[3] for each in ranked(access.entries(document, path))[-2::-1]]

    def _read(self, entries: tuple[Entry, ...]) -> T | None:
        if len(entries) == 1:
            value: T = decode_stamped(entries[0][2])[1]
            return value
        if entries:
            winner: T = ranked(entries)[-1][3]
            return winner
        return None if self._default is None else decode_stored(self._default)
