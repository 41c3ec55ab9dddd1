"""What a checker is: told of everything that happens, it keeps what is wrong as `Violation`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from persistence.base import FrameRecord
from simulations.checkers import Evidence

if TYPE_CHECKING:
    from simulations.world import Host, World

__all__ = ("HARM", "Checker", "Violation", "lost_shards")

_MOST = 5
HARM = ("disk.restored", "disk.damaged")
"""What leaves a disk with less on it than there was."""


@dataclass(frozen=True, slots=True)
class Violation:
    """An invariant that did not hold, and when (virtual seconds)."""

    invariant: str
    at: float
    message: str

    def __str__(self) -> str:
        return f"{self.invariant} at {self.at:.3f} s: {self.message}"


def lost_shards(fields: Mapping[str, object]) -> Callable[[int], bool]:
    """Which shards of a disk are lost; all, where nothing says which."""
    if "shards" not in fields:
        return lambda shard: True  # noqa: ARG005
    shards = {int(one) for one in str(fields["shards"]).split(",") if one}
    return shards.__contains__


class Checker:
    """The hooks; each does nothing unless a checker says otherwise."""

    tolerated: frozenset[str] = frozenset()
    """What is not judged in this world: kinds of events, names of checkers."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.violations: list[Violation] = []

    @property
    def name(self) -> str:
        """What the invariant is called."""
        return type(self).__name__

    def wrong(self, message: str) -> None:
        """It does not hold. What comes after the first few is of the same cause."""
        if len(self.violations) < _MOST and self.name not in self.tolerated:
            self.violations.append(Violation(self.name, self.world.now, message))

    def event(self, host: str, kind: str, fields: Mapping[str, object]) -> None:
        """A probe event of this host."""

    def journaled(self, host: Host, frames: Sequence[FrameRecord]) -> None:
        """Frames came on this host's disk."""

    def look(self) -> None:
        """Every now and then."""

    def end(self, found: Sequence[Evidence]) -> None:
        """Everything has converged, or had the time to."""
