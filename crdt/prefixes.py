"""Which paths of a document lie below which prefix: map children and set elements, no plain fields.

So that reading, or removing, a map's child costs what it holds, not what the document holds.
"""

from __future__ import annotations

from typing import Final

from crdt.paths import parse_path

_NONE: Final[dict[bytes, dict[bytes, None]]] = {}


class PrefixIndex:
    """document → prefix → the paths strictly below it, in the order they were added."""

    __slots__ = ("_below",)

    def __init__(self) -> None:
        # A dict for a set: its order is that of insertion.
        self._below: dict[str, dict[bytes, dict[bytes, None]]] = {}

    def __repr__(self) -> str:
        return f"<PrefixIndex of {len(self._below)} documents>"

    def below(self, document: str, prefix: bytes) -> list[bytes]:
        """The paths strictly below a prefix."""
        return list(self._below.get(document, _NONE).get(prefix, ()))

    def add(self, document: str, path: bytes) -> None:
        """Enter a path."""
        prefixes = parse_path(path).prefixes
        if prefixes:
            below = self._below.setdefault(document, {})
            for prefix in prefixes:
                below.setdefault(prefix, {})[path] = None

    def drop(self, document: str, path: bytes) -> None:
        """Take a path out; it must be in."""
        below = self._below.get(document)
        if below is None:
            return
        for prefix in parse_path(path).prefixes:
            paths = below[prefix]
            del paths[path]
            if not paths:
                del below[prefix]
        if not below:
            del self._below[document]

    def drop_document(self, document: str) -> None:
        """Take all of a document's paths out."""
        self._below.pop(document, None)
