"""What a document class declares: its fields, collected from annotations when the class is made.

    class Task(Document):
        title: Register[str]
        state: Annotated[Register[str], Wire("status"), Default("new")]

A mistake in a declaration raises SchemaError then and there, naming the field and the cure.
"""

import difflib
import inspect
import sys
import typing
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from types import FrameType, MappingProxyType
from typing import Annotated, Any, ClassVar, Literal

from crdt.errors import CallerError, SchemaError, UnknownField
from crdt.ids import parse_document_id
from crdt.limits import MAX_PATH_DEPTH
from crdt.paths import TypeCode, field_path
from crdt.types.expect import Check
from crdt.types.field import Declaration, Field, Handle, Options
from crdt.types.map import Map

OnDelete = Literal["merge", "gone"]
"""What deleting a document does with what others write at the same time, without having seen it:
"merge" keeps it, "gone" drops it, now and whenever it arrives.
"""

RESERVED = frozenset(
    {"bind", "conflicts", "history_of", "id", "snapshot", "undeclared", "validate"}
)
"""Names a field cannot have, because a document has them already. Neither can it begin with an
underscore.
"""

_UNMERGEABLE = frozenset({TypeCode.DECIDED, TypeCode.BOUNDED})
"""Types whose promise a deletion would break if parts of the document could survive it."""


class Schema:
    """The declared fields of one document class, by attribute name in the order of declaration.

    `type_name` is the type part of its documents' ids; `on_delete` what deleting does with
    concurrent writes; `paths` are those of all fields, former ones included.
    """

    __slots__ = ("fields", "on_delete", "paths", "type_name")

    def __init__(
        self, type_name: str, fields: Mapping[str, Field[Any]], on_delete: OnDelete
    ) -> None:
        self.type_name = type_name
        self.fields = MappingProxyType(dict(fields))
        self.on_delete = on_delete
        self.paths = frozenset(
            path for each in fields.values() for path in (each.path, each.former_path) if path
        )

    def __repr__(self) -> str:
        return f"<Schema {self.type_name}: {', '.join(self.fields) or 'no fields'}>"

    def field(self, name: str) -> Field[Any]:
        """The field of that name; raises UnknownField naming the nearest one."""
        found = self.fields.get(name)
        if found is None:
            raise UnknownField(self.unknown(name))
        return found

    def unknown(self, name: str) -> str:
        """What to tell somebody who used a field that is not declared."""
        nearest = difflib.get_close_matches(name, self.fields, n=1, cutoff=0.5)
        if nearest:
            cure = f"did you mean {nearest[0]!r}?"
        else:
            cure = f"it declares {', '.join(self.fields) or 'none'}"
        return f"{self.type_name} has no field {name!r}; {cure}"


def _declare(annotation: Any, label: str) -> tuple[Field[Any], Options]:
    """Make the field an annotation declares, and say what its Annotated said besides."""
    metadata: tuple[object, ...] = ()
    if typing.get_origin(annotation) is Annotated:
        annotation, *rest = typing.get_args(annotation)
        metadata = tuple(rest)
    origin = typing.get_origin(annotation)
    if origin is None:
        origin = annotation
    if not (isinstance(origin, type) and issubclass(origin, Field)):
        raise SchemaError(
            f"{label}: {annotation!r} is no field type; write Register[…] around a plain "
            "type, or ClassVar[…] if it is not part of the document"
        )
    options = Options.collect(metadata, label)
    arguments = _with_checks(typing.get_args(annotation), metadata, label)
    return origin.declare(Declaration(arguments, options, label, _build_child)), options


def _with_checks(
    arguments: tuple[Any, ...], metadata: tuple[object, ...], label: str
) -> tuple[Any, ...]:
    """The type arguments, with the Checks of the field around the one value type there is."""
    checks = [each for each in metadata if each is Check or isinstance(each, Check)]
    if not checks:
        return arguments
    if len(arguments) != 1:
        raise SchemaError(
            f"{label}: a Check is for types that hold values of one type; in a Map it stands with "
            "the child: Map[str, Annotated[…, Check(…)]]"
        )
    return (Annotated[(arguments[0], *checks)],)


def _build_child(annotation: Any, label: str) -> Field[Any]:
    """Make the field that a Map has for its children, or one that a Register formerly was."""
    child, options = _declare(annotation, label)
    for option in (options.wire, options.formerly):
        if option is not None:
            raise SchemaError(
                f"{label}: {type(option).__name__} is for a document's fields, which have names"
            )
    return child


def _build(annotation: Any, attribute: str, label: str) -> Field[Any]:
    """Make a document's field, with its path."""
    field, options = _declare(annotation, label)
    wire_name = attribute if options.wire is None else options.wire.name
    if type(wire_name) is not str or wire_name.startswith("_"):
        raise SchemaError(
            f"{label}: the wire name {wire_name!r} is reserved; use one that begins with a letter"
        )
    try:
        field.path = field_path(wire_name, field.code)
    except CallerError as error:
        raise SchemaError(f"{label}: {error}") from error
    depth, inner = 1, field
    while isinstance(inner, Map):
        depth, inner = depth + 1, inner.child
    if depth > MAX_PATH_DEPTH:
        raise SchemaError(f"{label}: {depth} levels are deeper than {MAX_PATH_DEPTH}; flatten it")
    return field


def collect(
    cls: type, name: str | None, on_delete: OnDelete | None, bases: Sequence[Schema]
) -> Schema:
    """Read the declarations of a document class, set its fields as descriptors, and return its
    schema. `bases`: those of its bases, the nearest last.
    """
    type_name = cls.__name__ if name is None else name
    try:
        proper = parse_document_id(f"{type_name}/x")[0] == type_name
    except CallerError:
        proper = False
    if not proper:
        raise SchemaError(
            f"{type_name!r} cannot be a document type, which are a letter and then letters, digits "
            'or ._-; give one with name="…"'
        )
    fields = {name: field for base in bases for name, field in base.fields.items()}
    for attribute, annotation in _declarations(cls, type_name).items():
        label = f"{type_name}.{attribute}"
        _check_name(cls, attribute, label)
        fields[attribute] = field = _build(annotation, attribute, label)
        setattr(cls, attribute, field)
    taken: dict[bytes, str] = {}
    for attribute, field in fields.items():
        other = taken.setdefault(field.path, attribute)
        if other != attribute:
            raise SchemaError(
                f"{type_name}: {attribute} and {other} have one wire name; give one another Wire(…)"
            )
    inherited = {base.on_delete for base in bases}
    return Schema(type_name, fields, _on_delete(type_name, fields, on_delete, inherited))


def _on_delete(
    type_name: str,
    fields: Mapping[str, Field[Any]],
    declared: str | None,
    inherited: AbstractSet[OnDelete],
) -> OnDelete:
    needs = [name for name, field in fields.items() if field.code in _UNMERGEABLE]
    if declared is None:
        return "gone" if needs or "gone" in inherited else "merge"
    if declared == "gone":
        return "gone"
    if declared != "merge":
        raise SchemaError(f'{type_name}: on_delete is "merge" or "gone", not {declared!r}')
    if needs:
        kind = type(fields[needs[0]]).__name__
        raise SchemaError(
            f"{type_name}: {needs[0]} is a {kind}, which must not survive a deletion in parts; "
            'leave on_delete out, or write on_delete="gone"'
        )
    return "merge"


def _declarations(cls: type, type_name: str) -> dict[str, Any]:
    """Own annotations, and those of bases that are no documents, resolved; ClassVars left out."""
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):  # cls itself has no schema of its own yet
        if base is Handle or "_schema" in base.__dict__:
            continue
        own = inspect.get_annotations(base)
        if not own:
            continue
        namespace = (
            dict(vars(sys.modules[base.__module__])) if base.__module__ in sys.modules else {}
        )
        try:
            # Strings (from __future__ import annotations) may name what is local to the function
            # around the class.
            local = {**_locals_around(), **vars(base)}
            resolved = typing.get_type_hints(
                _Annotations(own), globalns=namespace, localns=local, include_extras=True
            )
        except (NameError, TypeError, SyntaxError, AttributeError) as error:
            raise SchemaError(
                f"{type_name}: an annotation cannot be resolved ({error}); import what it names "
                "outside of `if TYPE_CHECKING`"
            ) from error
        found.update({name: hint for name, hint in resolved.items() if not _is_class_var(hint)})
    return found


class _Annotations:
    """What get_type_hints takes for an object of one class's own annotations, and of no base's."""

    def __init__(self, annotations: dict[str, Any]) -> None:
        self.__annotations__ = annotations


def _is_class_var(hint: Any) -> bool:
    return hint is ClassVar or typing.get_origin(hint) is ClassVar


def _locals_around() -> dict[str, Any]:
    """The local names where the class statement stands: the first frame that is not part of making
    a class.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and (
        frame.f_globals.get("__name__") in (__name__, "crdt.document", "typing")
        or frame.f_code.co_name == "__init_subclass__"
    ):
        frame = frame.f_back
    return {} if frame is None else dict(frame.f_locals)


def _check_name(cls: type, attribute: str, label: str) -> None:
    if attribute.startswith("_") or attribute in RESERVED:
        raise SchemaError(
            f"{label}: this name is reserved; use another attribute name "
            f'(with Wire("{attribute.lstrip("_")}") if the stored name matters)'
        )
    if attribute in cls.__dict__:
        raise SchemaError(
            f"{label} has a value; fields are only annotated, a default is Annotated[…, Default(…)]"
        )
