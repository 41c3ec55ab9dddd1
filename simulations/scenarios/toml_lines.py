"""On which line of a TOML text each key and each item of a list stands; `tomllib` does not say.

The text must be valid: `tomllib` has read it before.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Callable, Iterator

__all__ = ("Place", "lines_of")

Place = tuple[str | int, ...]
"""Keys and numbers of items, from the outermost: `("faults", 2, "kind")`."""

_TOKEN = re.compile(
    r'''"""(?:\\.|[^\\])*?"{3,5}|\'{3}.*?\'{3,5}|"(?:\\.|[^"\\])*"|'[^']*\''''
    r"""|\#[^\n]*|[\[\]{}=,\n]|[^\s\[\]{}=,\#"']+""",
    re.DOTALL,
)


def lines_of(text: str) -> dict[Place, int]:
    """The line, from 1, of each place there is."""
    return _Scan(text).lines


class _Scan:
    """One walk through the text."""

    def __init__(self, text: str) -> None:
        self.lines: dict[Place, int] = {}
        self._tokens = self._read(text)
        self._word, self._line = "", 1
        self._next()
        self._tables()

    @staticmethod
    def _read(text: str) -> Iterator[tuple[str, int]]:
        for match in _TOKEN.finditer(text):
            if not match[0].startswith("#"):
                yield match[0], text.count("\n", 0, match.start()) + 1

    def _next(self) -> str:
        was = self._word
        self._word, self._line = next(self._tokens, ("", self._line))
        return was

    def _tables(self) -> None:
        table: Place = ()
        items: Counter[Place] = Counter()
        while self._word:
            if self._word == "\n":
                self._next()
            elif self._word == "[":
                self._next()
                many = self._word == "["
                if many:
                    self._next()
                table = self._key((), "]")
                if many:
                    table, number = (*table, items[table]), items[table]
                    items[table[:-1]] = number + 1
                    self._next()
                self._next()
                self.lines.setdefault(table, self._line)
            else:
                self._pair(table)

    def _key(self, place: Place, end: str) -> Place:
        """The key up to `end`, which is read next; all its parts are on this line."""
        while self._word not in (end, ""):
            token = self._next()
            quoted = token[0] in "\"'"
            for part in [_unquoted(token)] if quoted else filter(None, token.split(".")):
                place = (*place, part)
                self.lines.setdefault(place, self._line)
        return place

    def _pair(self, table: Place) -> None:
        place = self._key(table, "=")
        self._next()
        self._value(place)

    def _value(self, place: Place) -> None:
        opened = self._next()
        if opened == "[":
            self._until("]", lambda number: self._item((*place, number)))
        elif opened == "{":
            self._until("}", lambda number: self._pair(place))  # noqa: ARG005 - keys tell them apart
        else:
            while self._word not in (",", "]", "}", "\n", ""):
                self._next()  # a date may have a space in it

    def _item(self, place: Place) -> None:
        self.lines[place] = self._line
        self._value(place)

    def _until(self, end: str, part: Callable[[int], None]) -> None:
        number = 0
        while self._word not in (end, ""):
            if self._word in (",", "\n"):
                self._next()
            else:
                part(number)
                number += 1
        self._next()


def _unquoted(token: str) -> str:
    return str(ast.literal_eval(token)) if token[0] == '"' else token[1:-1]
