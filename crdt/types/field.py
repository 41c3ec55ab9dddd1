"""What all field types have in common: a descriptor with a precomputed path, and plain reading and
writing.

A field object belongs to a document class (or to a Map, as its child type) and holds no state:
every method is given the access, the document and the path to work on.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

from crdt.access import Access, Entry
from crdt.codec import decode_stamped
from crdt.errors import SchemaError
from crdt.paths import TypeCode

V_co = TypeVar("V_co", covariant=True)
W = TypeVar("W")


@dataclass(frozen=True, slots=True)
class Wire:
    """`Annotated[Register[str], Wire("old")]`: the name this field has in stored data, after a
    rename.
    """

    name: str


@dataclass(frozen=True, slots=True)
class Default:
    """`Annotated[Register[str], Default("new")]`: what a Register reads as while nothing was
    written.
    """

    value: Any


@dataclass(frozen=True, slots=True)
class DisableWins:
    """`Annotated[Flag, DisableWins()]`: of a concurrent enable and disable, the disable counts."""


@dataclass(frozen=True, slots=True)
class RemoveWins:
    """`Annotated[Set[str], RemoveWins()]`: of a concurrent add and removal of an element, the
    removal counts. The set remembers up to `markers` removed elements.
    """

    markers: int = 10_000


@dataclass(frozen=True, slots=True)
class AtLeast:
    """`Annotated[BoundedCounter, AtLeast(10)]`: the bound a BoundedCounter starts at and never
    goes below.
    """

    bound: int


@dataclass(frozen=True, slots=True)
class Keep:
    """`Annotated[Feed[str], Keep(100)]`: appending removes what lies before the newest `count`
    items.
    """

    count: int


@dataclass(frozen=True, slots=True)
class Convert:
    """`Annotated[Register[int], Convert(str, int)]`: values that older versions of the class stored
    as `stored` are read through `function`, which must give a value of the declared type.

    Nothing is written: what is stored changes with the next write. A value of the declared type is
    read as it is; one that is of neither type, or that `function` refuses, makes the read raise a
    SchemaError. `function` must depend on nothing but the value, so that every replica reads alike.
    """

    stored: Any
    function: Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Formerly:
    """`Annotated[Register[list[str]], Formerly(Set[str], "labels", list)]`: while nothing is
    written in this Register, it reads `function` of what the field `field`, stored under the name
    `name`, holds in plain data; where nothing is written there either, its Default or None.

    Nothing is written, and the former field stays what it is for peers that still use it: what they
    write there after this field's first write is not seen here. `function` must depend on nothing
    but its argument, and give a value of the declared type (the read raises SchemaError else).
    """

    field: Any
    name: str
    function: Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Options:
    """What a declaration's `Annotated` said, by kind; None where it said nothing."""

    wire: Wire | None = None
    default: Default | None = None
    disable_wins: DisableWins | None = None
    remove_wins: RemoveWins | None = None
    at_least: AtLeast | None = None
    keep: Keep | None = None
    convert: Convert | None = None
    formerly: Formerly | None = None

    @staticmethod
    def collect(metadata: Iterable[object], label: str) -> "Options":
        """Sort out the metadata of an Annotated; other libraries' metadata is left alone."""
        found: dict[str, object] = {}
        for each in metadata:
            if each is DisableWins or each is RemoveWins:
                each = each()
            if isinstance(each, type) and each in _KINDS:
                raise SchemaError(f"{label}: {each.__name__} takes arguments: {each.__name__}(…)")
            name = _KINDS.get(type(each))
            if name is None:
                continue
            if name in found:
                raise SchemaError(f"{label}: {type(each).__name__} is given twice")
            found[name] = each
        return Options(**found)  # type: ignore[arg-type]


_KINDS: dict[type, str] = {
    Wire: "wire",
    Default: "default",
    DisableWins: "disable_wins",
    RemoveWins: "remove_wins",
    AtLeast: "at_least",
    Keep: "keep",
    Convert: "convert",
    Formerly: "formerly",
}


class Declaration(NamedTuple):
    """One annotation taken apart: type arguments, options, what errors call the field, and `build`,
    which makes the children of containers."""

    arguments: tuple[Any, ...]
    options: Options
    label: str
    build: "Callable[[Any, str], Field[Any]]"

    def arguments_are(self, expected: int, shape: str) -> None:
        """Raise SchemaError unless there are as many type arguments as the type takes."""
        if len(self.arguments) != expected:
            raise SchemaError(f"{self.label}: declare it as {shape}")

    def options_are(self, *allowed: str) -> None:
        """Raise SchemaError for an option the type does not know; a Wire name suits every type."""
        for each in fields(self.options):
            option = getattr(self.options, each.name)
            if option is not None and each.name not in ("wire", *allowed):
                raise SchemaError(f"{self.label}: {type(option).__name__} is not for this type")


class Handle:
    """A document as its fields see it: an access and an id."""

    __slots__ = ("_access", "_id")

    _access: Access
    _id: str


class Field(ABC, Generic[V_co]):
    """A declared field; V_co is what reading it gives in a Map (an editor, or the value itself).

    `path` is set when the class is made; `former_path` is that of the field read in its place while
    nothing is written, if it has one; `label` is what errors call the field ("Task.title").
    """

    code: ClassVar[TypeCode]
    cure: ClassVar[str] = ""
    path: bytes = b""
    former_path: bytes = b""
    label: str

    def __init__(self, label: str) -> None:
        self.label = label

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.label}>"

    @classmethod
    @abstractmethod
    def declare(cls, declaration: Declaration) -> "Field[Any]":
        """Make the field of a declaration. Raises SchemaError naming the cure."""

    @abstractmethod
    def view(self, access: Access, document: str, path: bytes) -> V_co:
        """The value at the path, or the editor for it."""

    @abstractmethod
    def plain(self, access: Access, document: str, path: bytes) -> Any:
        """The value at the path as plain data, a copy."""

    def assign(self, access: Access, document: str, path: bytes, value: Any) -> None:
        """Write the value; raises InvalidValue if it is of the wrong type.

        A field that is changed through its editor accepts that editor, which is what `|=` and `+=`
        assign back, and refuses all else with a SchemaError naming the cure.
        """
        own = (
            isinstance(value, Editor)
            and value._access is access
            and value._document == document
            and value._path == path
        )
        if not own:
            raise SchemaError(f"{self.label} cannot be assigned; {self.cure}")


class Child(Field[V_co], Generic[V_co, W]):
    """A field type that may also stand under a Map; W is what assigning it takes.

    `implicit`: reading it where nothing was written gives an empty value instead of KeyError.
    """

    implicit: ClassVar[bool] = True


class Editor:
    """What reading a composite field gives: a place in a document, and methods to change what is
    there.
    """

    __slots__ = ("_access", "_document", "_path")

    def __init__(self, access: Access, document: str, path: bytes) -> None:
        self._access = access
        self._document = document
        self._path = path


def require_writable(access: Access) -> None:
    """Raise what a write raises, also where none turns out to be needed."""
    if not access.writable:
        access.stamp()


def clear(access: Access, document: str, path: bytes) -> None:
    """Remove what is live at exactly this path; what others write at the same time stays."""
    removal = access.removal(document, path)
    if removal is not None:
        access.write(document, path, None, (removal,))


def ranked(entries: Iterable[Entry]) -> list[tuple[int, int, int, Any]]:
    """Entries whose payload is [rank, value] as (rank, session, seq, value), ascending by the first
    three.
    """
    found = []
    for session, seq, payload in entries:
        rank, value = decode_stamped(payload)
        found.append((rank, session, seq, value))
    found.sort(key=lambda each: each[:3])
    return found
