"""A dict that forgets: bounded, least recently used first out."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class BoundedCache(Generic[K, V]):
    """At most `limit` entries; putting one more forgets the one unused for longest. Any thread may
    use it.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: OrderedDict[K, V] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: K) -> V | None:
        """The value, now the most recently used; None if it is not (or no longer) there."""
        value = self._entries.get(key)
        if value is not None:
            self._touch(key)
        return value

    def peek(self, key: K) -> V | None:
        """As `get`, but for counting as a use: who only peeks forgets what was put first."""
        return self._entries.get(key)

    def put(self, key: K, value: V) -> None:
        """Remember a value (never None)."""
        self._entries[key] = value
        self._touch(key)
        if len(self._entries) > self._limit:
            self._entries.popitem(last=False)

    def _touch(self, key: K) -> None:
        try:
            self._entries.move_to_end(key)
        except KeyError:
            return  # another thread has just had it forgotten
