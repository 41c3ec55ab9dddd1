"""Document: the base of every document type, and what can be done with documents as a whole."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NoReturn, Self

from crdt.access import Access
from crdt.errors import EditMisuse, InvalidId, SchemaError, UnknownField
from crdt.ids import check_document_id
from crdt.paths import TypeCode, field_path
from crdt.schema import Schema, collect
from crdt.types.expect import printed
from crdt.types.field import Field, Handle
from crdt.types.rules import ENABLED
from crdt.types.text import Delete

_PRESENCE_PATH = field_path("_exists", TypeCode.FLAG)


class UnknownAttributeError(UnknownField, AttributeError):
    """Read access to what the document class neither declares nor defines."""


class Document(Handle):
    """A document type is a subclass with annotated fields:

        class Task(Document):
            title: Register[str]
            effort: Counter

    Its objects are handles: an access (a live view, or the overlay of one edit) and an id, nothing
    else. They are made by a replica (`get`, `edit`, `create`), not by calling the class. Class
    arguments: `name` is the type's name in ids and stored data (default: the class name);
    `on_delete="merge"`: what others wrote at the time of a deletion, without having seen it,
    survives it.
    """

    __slots__ = ()

    _schema: ClassVar[Schema]

    def __init__(self) -> None:
        raise EditMisuse(
            f"{type(self).__name__} objects come from a replica: "
            f"replica.get({type(self).__name__}, …) or replica.edit({type(self).__name__}, …)"
        )

    def __init_subclass__(
        cls, *, name: str | None = None, on_delete: Literal["merge"] = "merge", **rest: Any
    ) -> None:
        super().__init_subclass__(**rest)
        inherited: dict[str, Field[Any]] = {}
        for base in reversed(cls.__mro__[1:]):
            schema = base.__dict__.get("_schema")
            if isinstance(schema, Schema):
                inherited.update(schema.fields)
        cls._schema = collect(cls, name, on_delete, inherited)

    @classmethod
    def bind(cls, access: Access, document_id: str) -> Self:
        """The document of that id ("Task/42"), read from and written to through `access`.

        It need not exist. Raises InvalidId for an id that is malformed or of another type.
        """
        _check_id(cls._schema.type_name, document_id)
        handle = object.__new__(cls)
        _set_access(handle, access)
        _set_id(handle, document_id)
        return handle

    @property
    def id(self) -> str:
        """The whole id, "Task/42"."""
        return self._id

    def snapshot(self) -> dict[str, Any]:
        """All fields as plain data: a copy that does not change any more.

        Registers give their value or None, counters int, flags bool, sets a list in canonical
        order, maps a dict, feeds a list, texts str, decisions {"epoch", "value"} or None.
        """
        access, document = self._access, self._id
        return {
            name: field.plain(access, document, field.path)
            for name, field in self._schema.fields.items()
        }

    def conflicts(self, field: str) -> list[Any]:
        """Values of a Register (or Decided) that lost against a concurrent write, the latest first.

        Empty when there is no conflict; the next write of the field, having seen them, clears them.
        Raises UnknownField, or SchemaError for a type that merges instead.
        """
        declared = self._schema.field(field)
        read: Callable[[Access, str, bytes], list[Any]] | None = getattr(
            declared, "conflicts", None
        )
        if read is None:
            raise SchemaError(
                f"{declared.label} is a {type(declared).__name__}: it merges and has no conflicts"
            )
        return read(self._access, self._id, declared.path)

    def __repr__(self) -> str:
        if getattr(self._access, "closed", False):
            return f"<{self._id}, of an edit that has ended>"
        written = {
            name: value for name, value in self.snapshot().items() if value not in _UNWRITTEN
        }
        fields = [f"{name}={printed(value)}" for name, value in written.items()]
        return f"<{' '.join([self._id, *fields])}>"

    if not TYPE_CHECKING:
        # Hidden from type checkers, which would take them for leave to use any name.

        def __setattr__(self, name: str, value: object) -> None:
            field = self._schema.fields.get(name)
            if field is not None:
                field.__set__(self, value)
            elif hasattr(getattr(type(self), name, None), "__set__"):
                object.__setattr__(self, name, value)  # a property with a setter
            else:
                raise UnknownField(self._schema.unknown(name))

        def __getattr__(self, name: str) -> NoReturn:
            raise UnknownAttributeError(self._schema.unknown(name))


_UNWRITTEN: tuple[Any, ...] = (None, 0, False, "", [], {})
# The slots' own descriptors, because __setattr__ above knows only fields.
_set_access = Handle.__dict__["_access"].__set__
_set_id = Handle.__dict__["_id"].__set__


@functools.lru_cache(maxsize=16_384)
def _check_id(type_name: str, document_id: str) -> None:
    check_document_id(document_id)
    if not document_id.startswith(f"{type_name}/"):
        raise InvalidId(f'{document_id!r} is no {type_name}; its ids begin with "{type_name}/"')


def schema_of(cls: type[Document]) -> Schema:
    """The declared fields of a document class."""
    return cls._schema


def document_id(cls: type[Document], name: str) -> str:
    """The whole id of the document `name` of a type: document_id(Task, "42") is "Task/42". Raises
    InvalidId.
    """
    whole = f"{cls._schema.type_name}/{name}"
    _check_id(cls._schema.type_name, whole)
    return whole


def document_exists(access: Access, cls: type[Document], document_id: str) -> bool:
    """Whether the document has any live entry or a text that is not empty."""
    if any(True for _ in access.under(document_id, b"")):
        return True
    return any(access.text(document_id, text.path) for text in cls._schema.texts)


def create_document(access: Access, cls: type[Document], document_id: str) -> bool:
    """Make the document exist with nothing in it; False, and nothing is written, if it exists
    already.

    Writes one marker, which no field shows and a deletion removes. Writing any field makes a
    document exist too; this is for documents that shall exist before anybody knows what to write.
    """
    _check_id(cls._schema.type_name, document_id)
    if document_exists(access, cls, document_id):
        return False
    access.write(document_id, _PRESENCE_PATH, ENABLED)
    return True


def delete_document(access: Access, cls: type[Document], document_id: str) -> bool:
    """Remove everything this replica sees in the document; False, and nothing is written, if there
    is nothing.

    What others write at the same time, without having seen the deletion, survives it. The content
    of declared Text fields is deleted too.
    """
    _check_id(cls._schema.type_name, document_id)
    removal = access.removal(document_id, b"", prefix=True)
    deleted = removal is not None
    if removal is not None:
        access.write(document_id, b"", None, (removal,))
    for text in cls._schema.texts:
        length = len(access.text(document_id, text.path))
        if length:
            access.edit_text(document_id, text.path, Delete(0, length))
            deleted = True
    return deleted
