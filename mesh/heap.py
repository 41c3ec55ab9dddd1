"""Keeping the garbage collector away from what stays.

A replica's entries live as long as it does, and no cycle is among them. Python's cyclic collector
does not know that: each of its full rounds stops every thread and walks through all of them, some
100 ms for a million. So what there is is frozen (`gc.freeze`) whenever the state has grown much.
That is for all of the process: what only a cycle keeps and exists then is never freed, which is why
`replica.gc_freeze` can turn it off.
"""

from __future__ import annotations

import gc
from collections.abc import Callable

GROWTH = 50_000
"""Entries more than there were, for which it is worth it."""
LOOK_EVERY = 256
"""Frames after which the state is measured anew."""


class Heap:
    """See the module. One per replica, which begins with the state it had when it started.

    `entries`: how many there are now.
    """

    def __init__(self, entries: Callable[[], int], *, freeze: bool) -> None:
        self._entries = entries
        self._freeze = freeze
        self._frozen = self._frames = 0

    def __repr__(self) -> str:
        return f"<Heap frozen at {self._frozen} entries>"

    def took(self, frames: int) -> None:
        """So many more frames were applied; a joined snapshot counts for `LOOK_EVERY`."""
        self._frames += frames
        if self._frames < LOOK_EVERY or not self._freeze:
            return
        self._frames = 0
        entries = self._entries()
        if entries - self._frozen >= GROWTH:
            # Costs microseconds, however many they are.
            gc.freeze()
            self._frozen = entries
