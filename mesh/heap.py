"""Keeping the garbage collector away from what stays.

A replica's entries live as long as it does, and no cycle is among them. Python's cyclic collector
does not know that: each of its full rounds stops every thread and walks through all of them, some
100 ms for a million. So what there is is frozen (`gc.freeze`) whenever the state has grown much.
That is for all of the process: what only a cycle keeps and exists then is never freed, which is why
`replica.gc_freeze` can turn it off.
"""

from __future__ import annotations

import gc

GROWTH = 50_000
"""Entries more than there were, for which it is worth it."""


class Heap:
    """See the module. One per replica, which begins with the state it had when it started."""

    def __init__(self, *, freeze: bool) -> None:
        self._freeze = freeze
        self._frozen = 0

    def __repr__(self) -> str:
        return f"<Heap frozen at {self._frozen} entries>"

    def grown(self, entries: int) -> None:
        """The state has so many entries now. Costs microseconds, however many they are."""
        if self._freeze and entries - self._frozen >= GROWTH:
            gc.freeze()
            self._frozen = entries
