"""Document: the base of every document type, and what can be done with documents as a whole."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Self

from crdt.access import Access, Overlay
from crdt.errors import CallerError, EditMisuse, InvalidId, SchemaError, UnknownField
from crdt.ids import check_document_id
from crdt.paths import TypeCode, leaf_code
from crdt.plain import PRESENCE_PATH, Written, plain_fields, written_at
from crdt.schema import OnDelete, Schema, collect
from crdt.types.expect import printed
from crdt.types.field import Field, Handle, require_writable
from crdt.types.rules import ENABLED
from crdt.types.text import Delete

# Who wrote which part of these is not kept, and no removal of entries removes them.
_TEXTS = frozenset({TypeCode.TEXT, TypeCode.SEQUENCE})
# What no removal takes away; only a document that is gone for good is rid of it.
_GUARDED = frozenset({TypeCode.DECIDED, TypeCode.BOUNDED})


class UnknownAttributeError(UnknownField, AttributeError):
    """Read access to what the document class neither declares nor defines."""


class Document(Handle):
    """A document type is a subclass with annotated fields:

        class Task(Document):
            title: Register[str]
            effort: Counter

    Its objects are handles: an access (a live view, or the overlay of one edit) and an id, nothing
    else. They are made by a replica (`get`, `edit`, `create`), not by calling the class.

    Class arguments: `name` is the type's name in ids and stored data (default: the class name).
    `on_delete` says what deleting a document does with what others write at the same time, without
    having seen the deletion: "merge" (the default) keeps it, so that the document is back with just
    that; "gone" drops it whenever it arrives, and whoever writes the document after the deletion
    begins an empty one. "gone" is the only choice for a class with a Decided or a BoundedCounter,
    and the default there and for classes derived from one that is "gone". All versions of a class
    should agree on it.
    """

    __slots__ = ()

    _schema: ClassVar[Schema]
    _fields: ClassVar[dict[str, Field[Any]]]

    def __init__(self) -> None:
        raise EditMisuse(
            f"{type(self).__name__} objects come from a replica: "
            f"replica.get({type(self).__name__}, …) or replica.edit({type(self).__name__}, …)"
        )

    def __init_subclass__(
        cls, *, name: str | None = None, on_delete: OnDelete | None = None, **rest: Any
    ) -> None:
        super().__init_subclass__(**rest)
        found = [base.__dict__.get("_schema") for base in reversed(cls.__mro__[1:])]
        bases = [schema for schema in found if isinstance(schema, Schema)]
        cls._schema = collect(cls, name, on_delete, bases)
        cls._fields = dict(cls._schema.fields)

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

        Registers, maxima and minima give their value or None, multi-values a list, counters int,
        flags bool, sets a list in canonical order, maps a dict, feeds a list, texts str, decisions
        {"epoch", "value"} or None.
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

    def history_of(self, field: str) -> list[Written]:
        """Every write of a field that the state still knows, the latest first: who, when, what.

        What was overwritten or removed by somebody who had seen it is not known any more. Types
        without stamps are in order of (session, seq), which says little about time. Raises
        UnknownField, or SchemaError for a Text or Sequence, which do not keep who wrote what.
        """
        declared = self._schema.field(field)
        if declared.code in _TEXTS:
            raise SchemaError(
                f"{declared.label} is a {type(declared).__name__}: it does not keep who wrote "
                "which part; write what must be attributed to a Feed"
            )
        return written_at(self._access, self._id, declared.path)

    def undeclared(self) -> dict[str, Any]:
        """What the document holds besides its class's fields, as plain data by stored name.

        It was written by another version of the class. It is kept and passed on as it is, and
        deleting the document deletes it too.
        """
        return plain_fields(self._access, self._id, self._schema.paths)

    def validate(self) -> None:
        """Override it to say what the document as a whole must be; raise whatever you like if it
        is not.

        Called at the end of every edit that wrote to the document through this class, before
        anything is committed: if it raises, nothing was written, and the caller gets the exception.
        Read only. It sees what this replica has; merging with what others write at the same time
        calls nobody, so what must hold everywhere belongs to one field, or to a Decided.
        """

    def __repr__(self) -> str:
        if getattr(self._access, "closed", False):
            return f"<{self._id}, of an edit that has ended>"
        parts = [self._id]
        for name, field in self._schema.fields.items():
            try:
                value = field.plain(self._access, self._id, field.path)
            except CallerError as error:  # of a field's Convert or Formerly
                parts.append(f"{name}=<{type(error).__name__}>")
                continue
            if value not in _UNWRITTEN:
                parts.append(f"{name}={printed(value)}")
        return f"<{' '.join(parts)}>"

    if not TYPE_CHECKING:
        # Hidden from type checkers, which would take them for leave to use any name.

        def __setattr__(self, name: str, value: object) -> None:
            field = self._fields.get(name)
            if field is not None:
                # What its __set__ does, without going there: the hottest line of writing.
                field.assign(self._access, self._id, field.path, value)
            elif hasattr(getattr(type(self), name, None), "__set__"):
                object.__setattr__(self, name, value)  # a property with a setter
            else:
                raise UnknownField(self._schema.unknown(name))

        def __getattr__(self, name: str) -> NoReturn:
            raise UnknownAttributeError(self._schema.unknown(name))


_UNWRITTEN: tuple[Any, ...] = (None, 0, False, "", [], (), {})
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


def document_exists(access: Access, document_id: str) -> bool:
    """Whether the document has any live entry or a text that is not empty."""
    if any(True for _ in access.under(document_id, b"")):
        return True
    return any(access.text_length(document_id, path) for path in access.text_paths(document_id))


def create_document(access: Access, cls: type[Document], document_id: str) -> bool:
    """Make the document exist with nothing in it; False, and nothing is written, if it exists
    already.

    Writes one marker, which no field shows and a deletion removes. Writing any field makes a
    document exist too; this is for documents that shall exist before anybody knows what to write.
    """
    _check_id(cls._schema.type_name, document_id)
    if document_exists(access, document_id):
        return False
    access.write(document_id, PRESENCE_PATH, ENABLED)
    return True


def delete_document(access: Access, cls: type[Document], document_id: str) -> bool:
    """Remove everything this replica sees in the document, also what its class does not declare;
    False, and nothing is written, if there is nothing.

    What others write at the same time, without having seen the deletion, survives it, unless the
    class is `on_delete="gone"` or the document holds a decision or a bounded counter: then it is
    gone for good (see `Document`).
    """
    _check_id(cls._schema.type_name, document_id)
    if not document_exists(access, document_id):
        require_writable(access)
        return False
    paths = [path for path, _ in access.under(document_id, b"")]
    if cls._schema.on_delete == "gone" or any(leaf_code(path) in _GUARDED for path in paths):
        access.retire(document_id)
        return True
    removal = access.removal(document_id, b"", prefix=True)
    if removal is not None:
        access.write(document_id, b"", None, (removal,))
    for path in access.text_paths(document_id):
        length = access.text_length(document_id, path)
        if length:
            access.edit_text(document_id, path, Delete(0, length))
    return True


def validate_document(document: Document, overlay: Overlay) -> None:
    """Call the document's `validate`, if its class has one of its own, the open transaction has
    written to the document, and it still exists there. Raises what that raises.
    """
    if type(document).validate is Document.validate or document.id not in overlay.documents:
        return
    if document_exists(overlay, document.id):
        document.validate()
