"""Maximum and Minimum: the greatest or the smallest of all values ever assigned.

Rules. An entry per concurrent write, its payload the value and nothing else. Values are compared by
kind (numbers, datetimes, strings, bytes), then by value, and equal numbers of two types by their
canonical encoding: one order, the same everywhere. A write takes the place of all entries its
writer had seen, unless it gains nothing: then it is no operation. Every receiver enforces that no
assignment removes what outranks it. Concurrent writes: the outermost is read, whatever the stamps.
A concurrent write survives a deletion. The max register of Baquero, Almeida, Cunha, Ferreira:
"Composition in State-based Replicated Data Types" (2017).
"""

import typing
from abc import abstractmethod
from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Any, ClassVar, Self, TypeVar, overload

from crdt.access import Access
from crdt.codec import decode_stored, encode
from crdt.errors import SchemaError
from crdt.paths import TypeCode
from crdt.types.expect import Expectation, expectation, refuse
from crdt.types.field import Child, Declaration, Handle, clear, require_writable
from crdt.types.guards import rank

T = TypeVar("T", bound=int | float | datetime | str | bytes)

_ORDERED = (int, float, datetime, str, bytes)


class Extremum(Child[T, T]):
    """What Maximum and Minimum have in common; they differ in which end of the order they read."""

    implicit = False

    def __init__(self, label: str, expected: Expectation) -> None:
        super().__init__(label)
        self._expected = expected

    @classmethod
    def declare(cls, declaration: Declaration) -> Self:
        name = cls.__name__
        declaration.arguments_are(1, f"{name}[int], {name}[datetime], …")
        declaration.options_are()
        argument = kind = declaration.arguments[0]
        while True:
            if isinstance(kind, typing.NewType):
                kind = kind.__supertype__
            elif typing.get_origin(kind) is Annotated:
                kind = typing.get_args(kind)[0]
            else:
                break
        if kind not in _ORDERED:
            raise SchemaError(
                f"{declaration.label}: a {name} is of int, float, datetime, str or bytes, which "
                f"have an order, not of {argument!r}"
            )
        return cls(declaration.label, expectation(argument, declaration.label))

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: Handle, owner: type) -> T | None: ...
    def __get__(self, instance: Handle | None, owner: type) -> Self | T | None:
        if instance is None:
            return self
        return self.plain(instance._access, instance._id, self.path)

    def __set__(self, instance: Handle, value: T) -> None:
        self.assign(instance._access, instance._id, self.path, value)

    def __delete__(self, instance: Handle) -> None:
        clear(instance._access, instance._id, self.path)

    def view(self, access: Access, document: str, path: bytes) -> T:
        return self.plain(access, document, path)  # type: ignore[return-value]

    def plain(self, access: Access, document: str, path: bytes) -> T | None:
        entries = access.entries(document, path)
        if not entries:
            return None
        value: T = decode_stored(self.outermost([payload for _, _, payload in entries]))
        return value

    def assign(self, access: Access, document: str, path: bytes, value: Any) -> None:
        if not self._expected.accepts(value):
            refuse(self.label, self._expected.text, value)
        if value != value:
            refuse(self.label, "what can be compared", value)
        payload = encode(value)
        live = access.entries(document, path)
        held = [each for _, _, each in live]
        if self.outermost([payload, *held]) in held:
            require_writable(access)
        else:
            access.replace(document, path, payload, live)

    @staticmethod
    @abstractmethod
    def outermost(payloads: Iterable[bytes]) -> bytes:
        """Of one or more payloads the one that is read."""


class Maximum(Extremum[T]):
    """The greatest of all values assigned; reads None while nothing is written.

    `task.best = 3` raises it to 3 if it is lower. T is int, float, datetime, str or bytes; NaN is
    refused. `del document.field` removes the values seen here, so that lower ones count again.
    """

    code: ClassVar[TypeCode] = TypeCode.MAXIMUM

    @staticmethod
    def outermost(payloads: Iterable[bytes]) -> bytes:
        return max(payloads, key=rank)


class Minimum(Extremum[T]):
    """The smallest of all values assigned; reads None while nothing is written.

    `task.first = now` lowers it to `now` if it is higher. T is int, float, datetime, str or bytes;
    NaN is refused. `del document.field` removes the values seen here, so that higher ones count
    again.
    """

    code: ClassVar[TypeCode] = TypeCode.MINIMUM

    @staticmethod
    def outermost(payloads: Iterable[bytes]) -> bytes:
        return min(payloads, key=rank)
