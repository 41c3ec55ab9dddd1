"""Formats: attributes of stretches of a text, as they lie in yrs (key and JSON) and as they read.

Values are bool, int below 2**53 in size, and str; null ends an attribute. yrs holds numbers as
64-bit floats and writes them again as JSON when it encodes its state, so only what has one form
there is let in, and only in that form.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from crdt.codec import encode
from crdt.errors import CodecError, InvalidValue

Value = bool | int | str
Spans = list[tuple[str, dict[str, Value]]]

MAX_KEY_BYTES: Final = 128
"""The UTF-8 of an attribute's name."""
MAX_JSON_BYTES: Final = 4096
"""An attribute's value in JSON."""
MAX_NUMBER: Final = (1 << 53) - 1

_CONSTANTS: Final[dict[str, bool | None]] = {"true": True, "false": False, "null": None}
_NUMBER: Final = re.compile(r"0|-?[1-9][0-9]{0,15}")


def json_of(value: Value | None) -> str:
    """The JSON of a value, as yrs writes it."""
    return json.dumps(value, ensure_ascii=False)


def check_format(key: str, value: str) -> None:
    """Raises CodecError unless this is a key and the JSON of a value in the only form yrs gives it.
    Total.
    """
    if not 0 < len(key.encode()) <= MAX_KEY_BYTES:
        raise CodecError(f"format key {key!r:.60} is empty or too long")
    if len(value.encode()) > MAX_JSON_BYTES:
        raise CodecError(f"format value of {len(value)} characters")
    if value in _CONSTANTS:
        return
    if _NUMBER.fullmatch(value):
        if abs(int(value)) <= MAX_NUMBER:
            return
    elif value[:1] == '"':
        try:
            text = json.loads(value)
        except ValueError:
            text = None
        if type(text) is str and json_of(text) == value:
            return
    raise CodecError(f"format value {value!r:.60} is no canonical JSON of a plain value")


def checked_attributes(label: str, attributes: Mapping[str, object]) -> dict[str, Value | None]:
    """The attributes, if they can be stored. Raises InvalidValue naming the cure."""
    if not attributes:
        raise InvalidValue(f"{label}: name the attributes to set: .format(0, 4, bold=True)")
    for key, value in attributes.items():
        _check_text(f"{label}: the attribute {key!r:.60}", key)
        if not key or len(key.encode()) > MAX_KEY_BYTES:
            raise InvalidValue(
                f"{label}: attribute names take 1 to {MAX_KEY_BYTES} bytes, not {key!r:.60}"
            )
        if type(value) is str:
            _check_text(f"{label}: the value of {key}", value)
            if len(json_of(value).encode()) > MAX_JSON_BYTES:
                raise InvalidValue(
                    f"{label}: the value of {key} takes more than {MAX_JSON_BYTES} bytes of JSON: "
                    "keep it in a Map and name its key here"
                )
        elif type(value) is int:
            if abs(value) > MAX_NUMBER:
                raise InvalidValue(
                    f"{label}: {key} is beyond 2**53 - 1, which no text attribute holds exactly: "
                    "use str"
                )
        elif value is not None and type(value) is not bool:
            raise InvalidValue(
                f"{label}: attributes are bool, int, str or None (which removes them), not "
                f"{type(value).__name__} for {key}"
            )
    return dict(attributes)  # type: ignore[arg-type]


def _check_text(what: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidValue(f"{what} has a lone surrogate at {error.start}: not Unicode") from None


def normal_spans(diff: Iterable[tuple[str, Mapping[str, Any] | None]]) -> Spans:
    """What pycrdt's `diff` tells, in the one form that equal texts have: no empty attributes, keys
    in order, no two neighbours alike, ints as ints.
    """
    spans: Spans = []
    last = b""
    for text, found in diff:
        attributes: dict[str, Value] = {}
        for key, value in sorted((found or {}).items()):
            if value is not None:
                attributes[key] = int(value) if type(value) is float else value
        this = encode(attributes)  # True and 1 are two values
        if spans and this == last:
            spans[-1] = (spans[-1][0] + text, attributes)
        else:
            spans.append((text, attributes))
        last = this
    return spans
