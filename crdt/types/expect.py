"""Runtime checks of values against a field's declared type.

mypy sees most mistakes first; these catch what it cannot see: `Any`, decoded JSON, untyped callers.
Types are compared exactly, never through subclassing, because values are stored with their exact
type: True is no int, an enumeration member is no str. The one kindness is the one mypy grants: an
int may stand where a float is declared, and is stored as the int it is.
"""

import collections.abc
import reprlib
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple, NoReturn

from crdt.errors import InvalidValue, SchemaError

_SHOWN = 80
_PRINTED = 400
_SCALARS = (bool, int, str, bytes, datetime)
_LISTS = (list, collections.abc.Sequence, collections.abc.MutableSequence, collections.abc.Iterable)
_DICTS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)


@dataclass(frozen=True, slots=True)
class Check:
    """`Annotated[Register[int], Check(lambda value: 0 <= value <= 100, "0 to 100")]`: a rule for
    every value, element or item written through this class; what `accepts` is false for is refused.

    `text` says in an error what is allowed. `accepts` is called with values of the declared type
    only; what it raises, the writer gets, and nothing was written. It is a rule for writers: what
    peers with another version of the class wrote is read as it is.
    """

    accepts: Callable[[Any], bool]
    text: str


class Expectation(NamedTuple):
    """What a field takes: `text` for messages, `accepts` tells whether a value is of it, deeply."""

    text: str
    accepts: Callable[[Any], bool]


class _Shortened(reprlib.Repr):
    """Python's own bounded repr, wide enough for the data of a document."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 4
        self.maxlist = self.maxdict = 12
        self.maxstring = self.maxother = self.maxlong = 120
        self.fillvalue = "…"


_shortened = _Shortened().repr


def printed(value: object) -> str:
    """A repr of bounded length, whatever the value: what is too long or too deep is cut with "…".

    Also where Python refuses a repr: an int of more than 4,300 digits.
    """
    try:
        shown = _shortened(value)
    except (ValueError, RecursionError):
        return f"<{type(value).__name__} that cannot be printed>"
    return shown if len(shown) <= _PRINTED else shown[:_PRINTED] + "…"


def refuse(label: str, expected: str, value: object) -> NoReturn:
    """Raise the InvalidValue that names the field, what it takes, and what came."""
    shown = printed(value)
    if len(shown) > _SHOWN:
        shown = shown[:_SHOWN] + "…"
    raise InvalidValue(f"{label} takes {expected}, not {type(value).__name__}: {shown}")


def expectation(annotation: Any, label: str) -> Expectation:
    """Compile a declared value type into a check.

    Known: None, bool, int, float, str, bytes, datetime, list[X], dict[str, X] (and the abstract
    Sequence and Mapping for them), unions, Literal, NewType, TypedDict (its keys are mypy's to
    check), Any and object, each also as Annotated[…, Check(…)]. Raises SchemaError for a type whose
    values would not come back as they went in.
    """
    while isinstance(annotation, typing.NewType):
        annotation = annotation.__supertype__
    simple = _simple(annotation)
    if simple is not None:
        return simple
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _checked(expectation(arguments[0], label), arguments[1:], label)
    if origin in (typing.Union, types.UnionType):
        return _union([expectation(each, label) for each in arguments])
    if origin is typing.Literal:
        return _literal(arguments)
    if origin in _LISTS:
        return _list_of(expectation(arguments[0], label))
    if origin in _DICTS and arguments[0] is str:
        return _dict_of(expectation(arguments[1], label))
    raise SchemaError(
        f"{label}: values of type {annotation!r} cannot be stored exactly; use None, bool, int, "
        "float, str, bytes, datetime, list[…], dict[str, …] or a union of them"
    )


def without_checks(annotation: Any) -> Any:
    """The annotation as readers take it: with no Check anywhere inside."""
    holder = types.SimpleNamespace(__annotations__={"value": annotation})
    return typing.get_type_hints(holder)["value"]


def _checked(inner: Expectation, metadata: tuple[Any, ...], label: str) -> Expectation:
    """What `inner` expects, and what every Check among the metadata wants besides."""
    for check in metadata:
        if check is Check or (isinstance(check, Check) and not callable(check.accepts)):
            raise SchemaError(f'{label}: write Check(lambda value: …, "what is allowed")')
        if isinstance(check, Check):
            inner = _both(inner, check)
    return inner


def _both(inner: Expectation, check: Check) -> Expectation:
    fits, allows = inner.accepts, check.accepts
    return Expectation(
        f"{inner.text} ({check.text})", lambda value: fits(value) and bool(allows(value))
    )


def _simple(annotation: Any) -> Expectation | None:
    if annotation is Any or annotation is object:
        return Expectation("any value", lambda _: True)
    if annotation is None or annotation is types.NoneType:
        return Expectation("None", lambda value: value is None)
    if annotation is float:
        return Expectation("float", lambda value: type(value) is float or type(value) is int)
    if annotation in _SCALARS:
        return Expectation(annotation.__name__, lambda value: type(value) is annotation)
    if annotation in _LISTS:
        return Expectation("list", lambda value: type(value) is list)
    if annotation in _DICTS or typing.is_typeddict(annotation):
        return Expectation("dict with str keys", _is_dict)
    return None


def _is_dict(value: Any) -> bool:
    return type(value) is dict and all(type(key) is str for key in value)


def _union(members: list[Expectation]) -> Expectation:
    checks = [member.accepts for member in members]
    text = " | ".join(member.text for member in members)
    return Expectation(text, lambda value: any(check(value) for check in checks))


def _literal(allowed: tuple[Any, ...]) -> Expectation:
    kinds = {(type(each), each) for each in allowed}

    def accepts(value: Any) -> bool:
        return (
            type(value) in (str, bytes, int, bool, types.NoneType) and (type(value), value) in kinds
        )

    return Expectation(f"one of {', '.join(repr(each) for each in allowed)}", accepts)


def _list_of(item: Expectation) -> Expectation:
    check = item.accepts
    return Expectation(
        f"list[{item.text}]", lambda value: type(value) is list and all(map(check, value))
    )


def _dict_of(item: Expectation) -> Expectation:
    check = item.accepts
    return Expectation(
        f"dict[str, {item.text}]",
        lambda value: _is_dict(value) and all(map(check, value.values())),
    )
