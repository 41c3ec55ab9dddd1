"""What a checker is: told of everything that happens, it keeps what is wrong as `Violation`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crdt.ids import shard_of
from persistence.base import FrameRecord
from simulations.checkers import Evidence

if TYPE_CHECKING:
    from simulations.world import Host, World

__all__ = ("HARM", "Checker", "Spoiled", "Violation", "lost_shards")

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


class Spoiled:
    """The shards in which the same operations may make different states: somebody lied there, or a
    value in memory turned into another. All others are judged as in any world.
    """

    def __init__(self, shards: int) -> None:
        self._count = shards
        self.shards: set[int] = set()

    def event(self, host: str, kind: str, fields: Mapping[str, object]) -> None:
        """See `Checker.event`; to be told before any checker is."""
        del host
        if kind in ("equivocated", "memory.rotten"):
            self.shards.add(self.shard(fields))

    def shard(self, fields: Mapping[str, object]) -> int:
        """Where an event happened: -1, if it is of no shard."""
        if "document" in fields:
            return self.of(str(fields["document"]))
        return int(str(fields.get("shard", -1)))

    def of(self, document: str) -> int:
        """The shard that a document is in."""
        return shard_of(document, self._count)


class Checker:
    """The hooks; each does nothing unless a checker says otherwise."""

    tolerated: frozenset[str] = frozenset()
    """What is not judged in spoiled shards of this world, nor where no shard is said: kinds of
    events, names of checkers.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.violations: list[Violation] = []
        self.spoiled = Spoiled(world.authority.mesh.shards)

    @property
    def name(self) -> str:
        """What the invariant is called."""
        return type(self).__name__

    def excused(self, what: str, shard: int = -1) -> bool:
        """Whether this is not judged: everywhere (-1), or in this shard."""
        return what in self.tolerated and (shard < 0 or shard in self.spoiled.shards)

    def wrong(self, message: str, shard: int = -1) -> None:
        """It does not hold, in this shard. What comes after the first few is of the same cause."""
        if len(self.violations) < _MOST and not self.excused(self.name, shard):
            self.violations.append(Violation(self.name, self.world.now, message))

    def event(self, host: str, kind: str, fields: Mapping[str, object]) -> None:
        """A probe event of this host."""

    def journaled(self, host: Host, frames: Sequence[FrameRecord]) -> None:
        """Frames came on this host's disk."""

    def look(self) -> None:
        """Every now and then."""

    def end(self, found: Sequence[Evidence]) -> None:
        """Everything has converged, or had the time to."""
