"""How far a replica has read a stream of frames, and from where it must read on.

Rules of this file: pure. A stream has one sequence of entries per shard, named by positions of the
service's own kind. The position that is kept for the next start is *before the oldest entry whose
frame is not on this replica's disk*: whatever was read and is lost in a crash is read again.

Reading goes on past frames that wait, since what they wait for may come behind them. Only so many
entries are remembered singly; from the first that is not, the shard is read again later. It is also
read again from a frame that got lost (the inbox gave way, its certificate came later), less and
less often where that does not help. It is not for a frame that is held here: that would bring
nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Generic, NamedTuple, TypeVar

P = TypeVar("P")

MAX_WAITING = 4_096
"""Entries of a shard that are remembered singly."""
FIRST_PATIENCE_S = 1.0
LAST_PATIENCE_S = 30.0


class Fate(Enum):
    """What has become of a frame that was read."""

    SETTLED = "settled"
    """It is on disk, or so old that nobody keeps it."""
    APPLIED = "applied"
    """It is on its way to the disk."""
    HELD = "held"
    """It waits here for its causes, or elsewhere for its certificate."""
    LOST = "lost"
    """It is nowhere here, and would be taken in now."""


class Frame(NamedTuple):
    """What a frame is found by. `proven`: its author was known when it was read, and had signed."""

    shard: int
    session: int
    first: int
    last: int
    proven: bool = True


Judge = Callable[[Frame], Fate]


@dataclass(slots=True)
class _Shard(Generic[P]):
    """`waiting`: (position before, frame) of entries not settled, in order. `beyond`: the position
    before the first entry that is not remembered though it was not settled, if there is one.
    """

    next: P
    waiting: deque[tuple[P, Frame]] = field(default_factory=deque)
    beyond: P | None = None
    patience: float = field(default_factory=lambda: FIRST_PATIENCE_S)
    looked: float = 0.0

    @property
    def safe(self) -> P:
        if self.waiting:
            return self.waiting[0][0]
        return self.next if self.beyond is None else self.beyond

    def go_back(self, position: P) -> None:
        self.next, self.beyond = position, None


class Tail(Generic[P]):
    """See the module. `positions` has one for every shard that is to be read."""

    def __init__(self, positions: Mapping[int, P]) -> None:
        self._shards = {shard: _Shard(positions[shard]) for shard in sorted(positions)}
        self.moves = 0
        """Grows whenever reading goes on from elsewhere: what was asked for before must not be
        counted after it."""

    def __repr__(self) -> str:
        return f"<Tail of {len(self._shards)} shards, {self.waiting} entries waiting>"

    @property
    def waiting(self) -> int:
        """Entries remembered whose frames are not known to be on disk."""
        return sum(len(part.waiting) for part in self._shards.values())

    def reading(self, judge: Judge) -> dict[int, P]:
        """Where to read on. Shards of which too much is on its way to the disk are left out."""
        return {
            number: part.next
            for number, part in self._shards.items()
            if (len(part.waiting) < MAX_WAITING and part.beyond is None)
            or judge(part.waiting[-1][1]) is not Fate.APPLIED
        }

    def safe(self) -> dict[int, P]:
        """Where a new start has to read on: every entry before it is on disk, or was refused."""
        return {number: part.safe for number, part in self._shards.items()}

    def positions(self) -> dict[int, P]:
        """Up to where everything was read once."""
        return {number: part.next for number, part in self._shards.items()}

    def taken(self, judge: Judge) -> dict[int, P]:
        """As `positions`, of the shards where nothing that was read is still to come to the disk,
        but for what waits for causes that were not read.
        """
        return {
            number: part.next
            for number, part in self._shards.items()
            if part.beyond is None
            and all(judge(frame) in (Fate.SETTLED, Fate.HELD) for _, frame in part.waiting)
        }

    def passed(self, shard: int, position: P) -> None:
        """An entry was read that needs nothing more: refused, or on disk already."""
        self._shards[shard].next = position

    def took(self, position: P, frame: Frame, now: float) -> None:
        """An entry of the frame's shard was read, and the frame is not on disk yet."""
        part = self._shards[frame.shard]
        if part.beyond is None:
            if len(part.waiting) >= MAX_WAITING:
                part.beyond = part.next
            else:
                if not part.waiting:
                    part.looked = now
                part.waiting.append((part.next, frame))
        part.next = position

    def settle(self, judge: Judge) -> None:
        """Forget what is done."""
        for part in self._shards.values():
            while part.waiting and judge(part.waiting[0][1]) is Fate.SETTLED:
                part.waiting.popleft()
                part.patience = FIRST_PATIENCE_S
            if len(part.waiting) >= MAX_WAITING:
                # What can't settle for long must not keep the rest from being remembered.
                part.waiting = deque(_unsettled(part, judge))
            if not part.waiting and part.beyond is not None:
                part.go_back(part.beyond)
                self.moves += 1

    def review(self, now: float, judge: Judge) -> list[int]:
        """Go back to what was lost, where something has waited long enough; in which shards."""
        late = []
        for number, part in self._shards.items():
            if not part.waiting or now - part.looked < part.patience:
                continue
            part.looked = now
            back = part.beyond
            kept: deque[tuple[P, Frame]] = deque()
            for before, frame in _unsettled(part, judge):
                if judge(frame) is Fate.LOST:
                    back = before
                    break
                kept.append((before, frame))
            part.waiting = kept
            if back is not None:
                part.go_back(back)
                part.patience = min(2 * part.patience, LAST_PATIENCE_S)
                self.moves += 1
                late.append(number)
        return late

    def seek(self, positions: Mapping[int, P]) -> None:
        """Go on from other positions, for the shards named."""
        self.moves += 1
        for number, position in positions.items():
            part = self._shards[number]
            part.waiting.clear()
            part.go_back(position)


def _unsettled(part: _Shard[P], judge: Judge) -> Iterator[tuple[P, Frame]]:
    return (one for one in part.waiting if judge(one[1]) is not Fate.SETTLED)
