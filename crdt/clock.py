"""The hybrid logical clock that stamps writes.

After Kulkarni, Demirbas, Madappa, Avva, Leone: "Logical Physical Clocks" (OPODIS 2014). A stamp is
64 bits: 48 of Unix milliseconds and 16 of a counter; a counter that overflows carries into the
milliseconds. Stamps order what people wrote the way they experienced it; nothing depends on them
being true, or on clocks being right.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from crdt.limits import MAX_STAMP

COUNTER_BITS: Final = 16
DRIFT_MS: Final = 60_000


def stamp_ms(stamp: int) -> int:
    """The Unix milliseconds of a stamp."""
    return stamp >> COUNTER_BITS


class HybridClock:
    """One process's stamps: strictly growing, near the wall clock, after whatever was observed.

    `wall_ms` gives Unix milliseconds and may jump either way. Observed stamps more than `drift_ms`
    ahead of it are not followed: one replica with a wrong clock must not drag everybody into the
    future.
    """

    def __init__(self, wall_ms: Callable[[], int], drift_ms: int = DRIFT_MS) -> None:
        self._wall_ms = wall_ms
        self._drift_ms = drift_ms
        self._last = 0

    def __repr__(self) -> str:
        return f"<HybridClock last={self._last} ({stamp_ms(self._last)} ms)>"

    def now(self) -> int:
        """A stamp greater than every one this clock gave out or followed before."""
        wall = self._wall_ms() << COUNTER_BITS
        if self._last < wall <= MAX_STAMP:
            self._last = wall
        elif wall <= self._last < MAX_STAMP:
            self._last += 1
        else:
            self._last = MAX_STAMP
        return self._last

    def after(self, greatest: int) -> int:
        """A stamp greater than `greatest`, the greatest in the field to be written, and than `now`
        would be.

        If `greatest` is too far ahead, the stamp still exceeds it (else the write would be lost),
        but later stamps of this clock do not. At the very end of the range the stamp equals
        `greatest`; the write still replaces what it saw.
        """
        self.observe(greatest)
        own = self.now()
        return own if own > greatest else min(greatest + 1, MAX_STAMP)

    def observe(self, stamp: int) -> bool:
        """Follow a stamp of somebody else. False: it is too far ahead of the wall and was not
        followed.
        """
        if stamp <= self._last:
            return True
        if stamp_ms(stamp) > self._wall_ms() + self._drift_ms:
            return False
        self._last = stamp
        return True
