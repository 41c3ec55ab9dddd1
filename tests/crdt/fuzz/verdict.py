"""What comes of one case."""

from __future__ import annotations

import enum


class Outcome(enum.IntEnum):
    """What a reader said, and whether that holds."""

    REFUSED = 0
    ACCEPTED = 1
    REORDERED = 2
    """Accepted; but not everybody shows the parts of a shared field in the same order, or, where
    two states contradict each other, the same parts. Only dishonest authors can bring that about,
    and it is documented that they can (`crdt.types.yrs_check`)."""


class ViolationError(Exception):
    """Something was accepted, or raised, that must not be."""


def expect(holds: bool, what: str) -> None:
    """Raises ViolationError, saying what is wrong, unless it holds."""
    if not holds:
        raise ViolationError(what)
