"""Reading what older versions of a document class stored: the options Convert and Formerly."""

from collections.abc import Callable
from typing import Any

from crdt.access import Access
from crdt.errors import CallerError, SchemaError
from crdt.paths import TypeCode, field_path
from crdt.types.expect import Expectation, expectation, printed, without_checks
from crdt.types.field import Declaration, Field

Converter = Callable[[Any], Any]


def converter(declaration: Declaration) -> Converter | None:
    """What a stored value is read through, None where no Convert is declared."""
    convert = declaration.options.convert
    if convert is None:
        return None
    label, function = declaration.label, convert.function
    expected = _readable(declaration)
    fits = expected.accepts
    stored = expectation(convert.stored, label)

    def read(value: Any) -> Any:
        if fits(value):
            return value
        if not stored.accepts(value):
            raise SchemaError(
                f"{label} holds {type(value).__name__} {printed(value)}, which is neither "
                f"{expected.text} nor {stored.text}, from which it converts; assign it anew, or "
                "declare a Convert that takes it"
            )
        return _converted(label, expected, function, value)

    return read


class Former:
    """The field that was there before, read while nothing is written in its successor."""

    def __init__(
        self, label: str, field: Field[Any], expected: Expectation, function: Converter
    ) -> None:
        self._label = label
        self._field = field
        self._expected = expected
        self._function = function

    @property
    def path(self) -> bytes:
        """The former field's path."""
        return self._field.path

    def written(self, access: Access, document: str) -> bool:
        """Whether the former field holds anything."""
        path = self._field.path
        return any(True for _ in access.under(document, path)) or (
            access.text_length(document, path) > 0
        )

    def read(self, access: Access, document: str) -> Any:
        """The former field's content, through the function. Raises SchemaError."""
        value = self._field.plain(access, document, self._field.path)
        return _converted(self._label, self._expected, self._function, value)


def former(declaration: Declaration, own: TypeCode) -> Former | None:
    """What Formerly declares, None where it is not there. `own` is the successor's type."""
    formerly = declaration.options.formerly
    if formerly is None:
        return None
    label = f"{declaration.label}, formerly {formerly.name!r}"
    if type(formerly.name) is not str or formerly.name.startswith("_"):
        raise SchemaError(f"{label}: no field was ever stored under this name")
    field = declaration.build(formerly.field, label)
    try:
        field.path = field_path(formerly.name, field.code)
    except CallerError as error:
        raise SchemaError(f"{label}: {error}") from error
    if field.code is own:
        raise SchemaError(
            f"{label}: a {type(field).__name__} again; rename it with Wire({formerly.name!r}), and "
            "convert its values with Convert(…)"
        )
    return Former(declaration.label, field, _readable(declaration), formerly.function)


def _readable(declaration: Declaration) -> Expectation:
    """The declared type of values, without the rules that are for writers."""
    return expectation(without_checks(declaration.arguments[0]), declaration.label)


def _converted(label: str, expected: Expectation, function: Converter, value: Any) -> Any:
    name = getattr(function, "__name__", type(function).__name__)
    try:
        result = function(value)
    except Exception as error:
        raise SchemaError(
            f"{label} holds {type(value).__name__} {printed(value)}, which {name} refuses "
            f"({type(error).__name__}: {error}); assign it anew, or let the function take it"
        ) from error
    if not expected.accepts(result):
        raise SchemaError(
            f"{label}: {name} made {type(result).__name__} {printed(result)} of {printed(value)}, "
            f"declared is {expected.text}; correct the function"
        )
    return result
