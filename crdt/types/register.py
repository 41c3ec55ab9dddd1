"""Register: one value; the latest write wins, concurrent ones can be read until the next.

Rules. An entry [stamp, value] per write; a write takes the place of all entries its writer had
seen. The greatest (stamp, session, seq) is read. Concurrent writes: the one with the later stamp is
read, the others stay visible as conflicts until the next write. A concurrent write survives a
deletion. After the LWW-register of Shapiro, Preguiça, Baquero, Zawirski: "A Comprehensive Study of
Convergent and Commutative Replicated Data Types" (2011), kept as a multi-value register so that no
write is lost unseen.
"""

from typing import Any, ClassVar, TypeVar, overload

from crdt.access import Access
from crdt.codec import decode_stamped, decode_stored, encode, encode_stamped, stamp_of
from crdt.errors import SchemaError
from crdt.paths import TypeCode
from crdt.types.expect import Expectation, expectation, refuse
from crdt.types.field import Child, Declaration, Handle, clear, ranked
from crdt.types.migration import Converter, Former, converter, former

T = TypeVar("T")


class Register(Child[T, T]):
    """A last-writer-wins register holding any storable value.

    Wins: the greatest (stamp, session, seq). A stamp is above every stamp its writer had seen in
    the field, so a write that knew of another always beats it. Concurrent writes are all kept, and
    shown by `document.conflicts(name)`, until somebody writes or deletes the field having seen
    them. Reads None, or its Default, while nothing is written; `del document.field` goes back to
    that.
    """

    code: ClassVar[TypeCode] = TypeCode.REGISTER
    implicit = False

    def __init__(
        self,
        label: str,
        expected: Expectation,
        default: bytes | None = None,
        convert: Converter | None = None,
        formerly: Former | None = None,
    ) -> None:
        super().__init__(label)
        self._expected = expected
        self._accepts = expected.accepts
        self._default = default
        self._convert = convert
        self._former = formerly
        if formerly is not None:
            self.former_path = formerly.path

    @classmethod
    def declare(cls, declaration: Declaration) -> "Register[Any]":
        declaration.arguments_are(1, "Register[str], Register[int], …")
        declaration.options_are("default", "convert", "formerly")
        label, options = declaration.label, declaration.options
        expected = expectation(declaration.arguments[0], label)
        default = None
        if options.default is not None:
            if not expected.accepts(options.default.value):
                raise SchemaError(
                    f"{label}: its default {options.default.value!r} is no {expected.text}"
                )
            default = encode(options.default.value)
        return Register(
            label,
            expected,
            default,
            converter(declaration),
            former(declaration, cls.code),
        )

    @overload
    def __get__(self, instance: None, owner: type) -> "Register[T]": ...
    @overload
    def __get__(self, instance: Handle, owner: type) -> T | None: ...
    def __get__(self, instance: Handle | None, owner: type) -> "Register[T] | T | None":
        if instance is None:
            return self
        return self._read(instance._access, instance._id, self.path)

    def __set__(self, instance: Handle, value: T) -> None:
        self.assign(instance._access, instance._id, self.path, value)

    def __delete__(self, instance: Handle) -> None:
        clear(instance._access, instance._id, self.path)

    def view(self, access: Access, document: str, path: bytes) -> T:
        return self._read(access, document, path)  # type: ignore[return-value]

    def plain(self, access: Access, document: str, path: bytes) -> Any:
        return self._read(access, document, path)

    def assign(self, access: Access, document: str, path: bytes, value: Any) -> None:
        if not self._accepts(value):
            refuse(self.label, self._expected.text, value)
        live = access.entries(document, path)
        if not live:
            greatest = 0
        elif len(live) == 1:
            greatest = stamp_of(live[0][2])
        else:
            greatest = max([stamp_of(entry[2]) for entry in live])
        payload = encode_stamped(access.stamp(greatest), value)
        access.replace(document, path, payload, live)

    def conflicts(self, access: Access, document: str, path: bytes) -> list[T]:
        """The values that lost against a concurrent write, the latest first; empty without a
        conflict.
        """
        lost = [each[3] for each in ranked(access.entries(document, path))[-2::-1]]
        return lost if self._convert is None else [self._convert(each) for each in lost]

    def _read(self, access: Access, document: str, path: bytes) -> T | None:
        entries = access.entries(document, path)
        value: T
        if len(entries) == 1:
            value = decode_stamped(entries[0][2])[1]
        elif entries:
            value = ranked(entries)[-1][3]
        else:
            return self._absent(access, document)
        return value if self._convert is None else self._convert(value)

    def _absent(self, access: Access, document: str) -> T | None:
        """What is read while nothing is written."""
        if self._former is not None and self._former.written(access, document):
            earlier: T = self._former.read(access, document)
            return earlier
        return None if self._default is None else decode_stored(self._default)
