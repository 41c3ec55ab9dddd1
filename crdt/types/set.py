"""Set: add-wins; elements differ if their canonical encodings do: 1, 1.0 and True are three."""

import collections.abc
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, TypeVar, overload

from crdt.access import Access
from crdt.codec import decode_stored, encode
from crdt.errors import InvalidValue
from crdt.paths import TypeCode, element_path
from crdt.types.expect import Expectation, expectation, refuse
from crdt.types.field import Child, Declaration, Editor, Handle
from crdt.types.rules import PRESENT

T = TypeVar("T")


class SetEditor(Editor, collections.abc.MutableSet[T]):
    """The elements of one Set field, live: what is read is what is there at that moment.

    Iteration is in the order of the elements' canonical encoding, the same on every replica, over
    the elements present when it began. Adding an element that is present is a write too: the new
    assertion is what survives a concurrent removal. Removing takes away what this replica has seen;
    a concurrent add stays.
    """

    __slots__ = ("_field",)

    def __init__(self, field: "Set[T]", access: Access, document: str, path: bytes) -> None:
        super().__init__(access, document, path)
        self._field = field

    def __repr__(self) -> str:
        return f"{{{', '.join(repr(element) for element in self)}}}" if len(self) else "set()"

    def __eq__(self, other: object) -> bool:
        if isinstance(other, collections.abc.Set):
            return len(self) == len(other) and all(value in self for value in other)
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __contains__(self, value: object) -> bool:
        try:
            element = encode(value)
        except InvalidValue:
            return False
        return bool(self._access.entries(self._document, self._path + element))

    def __iter__(self) -> Iterator[T]:
        return iter([decode_stored(element) for element in sorted(self._elements())])

    def __len__(self) -> int:
        return sum(1 for _ in self._elements())

    def add(self, value: T) -> None:
        """Add, or assert again, an element. Raises InvalidValue if it is of the wrong type."""
        path = self._field.element(self._path, value)
        self._access.replace(self._document, path, PRESENT)

    def update(self, values: Iterable[T]) -> None:
        """Add each of `values`."""
        for value in list(values):
            self.add(value)

    def discard(self, value: T) -> None:
        """Remove an element if it is present."""
        path = self._field.element(self._path, value)
        removal = self._access.removal(self._document, path)
        if removal is not None:
            self._access.write(self._document, path, None, (removal,))

    def clear(self) -> None:
        """Remove every element present here; one operation. In a Map the child goes with them."""
        removal = self._access.removal(self._document, self._path, prefix=True)
        if removal is not None:
            self._access.write(self._document, self._path, None, (removal,))

    @classmethod
    def _from_iterable(cls, it: Iterable[Any]) -> set[Any]:
        """What `&`, `|`, `-` and `^` give: a plain set."""
        return set(it)

    def _elements(self) -> Iterator[bytes]:
        start = len(self._path)
        for path, _ in self._access.under(self._document, self._path):
            if len(path) > start:
                yield path[start:]


class Set(Child[SetEditor[T]]):
    """An add-wins (observed-remove) set of values; `document.labels` gives its SetEditor."""

    code: ClassVar[TypeCode] = TypeCode.SET
    cure = "use .add(…), |=, .discard(…) or .clear()"

    def __init__(self, label: str, expected: Expectation) -> None:
        super().__init__(label)
        self._expected = expected

    @classmethod
    def declare(cls, declaration: Declaration) -> "Set[Any]":
        declaration.arguments_are(1, "Set[str], Set[int], …")
        declaration.options_are()
        return Set(declaration.label, expectation(declaration.arguments[0], declaration.label))

    @overload
    def __get__(self, instance: None, owner: type) -> "Set[T]": ...
    @overload
    def __get__(self, instance: Handle, owner: type) -> SetEditor[T]: ...
    def __get__(self, instance: Handle | None, owner: type) -> "Set[T] | SetEditor[T]":
        if instance is None:
            return self
        return SetEditor(self, instance._access, instance._id, self.path)

    def __set__(self, instance: Handle, value: SetEditor[T]) -> None:
        self.assign(instance._access, instance._id, self.path, value)

    def element(self, path: bytes, value: Any) -> bytes:
        """The path of an element of the set at `path`; raises InvalidValue if it is of the wrong
        type.
        """
        if not self._expected.accepts(value):
            refuse(self.label, f"elements of type {self._expected.text}", value)
        return element_path(path, value)

    def view(self, access: Access, document: str, path: bytes) -> SetEditor[T]:
        return SetEditor(self, access, document, path)

    def plain(self, access: Access, document: str, path: bytes) -> list[Any]:
        return list(SetEditor(self, access, document, path))
