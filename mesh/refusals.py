"""Who was refused, why, and how often: counted without a bound, remembered within one. Pure."""

from __future__ import annotations

MAX_KNOWN = 256
"""Pairs of somebody and a reason; the one refused longest ago is forgotten first."""


class Refusals:
    """Counts refusals. Whoever logs them logs the first, and then ever more seldom."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], int] = {}
        self.total = 0

    def __repr__(self) -> str:
        return f"<Refusals {self.total}, of {len(self._counts)} kinds>"

    @property
    def latest(self) -> tuple[str, str, int] | None:
        """Who was refused last, why, and how often by now for that; None: nobody ever was."""
        if not self._counts:
            return None
        (who, why), count = next(reversed(self._counts.items()))
        return who, why, count

    def add(self, who: str, why: str) -> int:
        """One more; how often this one has been refused for this reason by now."""
        self.total += 1
        count = self._counts.pop((who, why), 0) + 1
        self._counts[who, why] = count
        if len(self._counts) > MAX_KNOWN:
            del self._counts[next(iter(self._counts))]
        return count


def worth_saying(count: int) -> bool:
    """Whether the `count`-th of a kind is said aloud: the first, the tenth, the hundredth…"""
    return set(str(count)[1:]) <= {"0"} and str(count)[0] == "1"
