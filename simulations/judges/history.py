"""What clients did, and what they were told: the history that checkers judge.

As Jepsen's histories: what is invoked ends `OK`, `FAIL` (it has not happened) or `INFO` (nobody
knows). An edit is done at once in memory, so it is `INFO` until a flush says that it is durable. A
read is `OK` if all that it saw was on the disk of its replica. Records are numbered in the order
of invocation.

Nothing here knows how the history came about: in a simulated world, in processes, or by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from crdt.ids import Dot

__all__ = ("History", "Outcome", "Read", "Write", "sees")


class Outcome(Enum):
    """How what was invoked ended."""

    OK = "ok"
    INFO = "info"
    FAIL = "fail"


@dataclass(slots=True)
class Write:
    """One thing done to one document, at `place` (a field, then keys), in a transaction of its own.

    `client` is a session in the sense of session guarantees; `run` the process it was in. Actions
    and values are those of `specification.Event`; in lists "type" (index, elements) and "rub"
    (index, elements). `seen` is the shard's frontier before. Clocks count Unix milliseconds:
    `wall_ms` is the writer's, `furthest_ms` that of whoever was ever furthest ahead.
    """

    client: str
    document: str
    place: tuple[Any, ...]
    action: str
    value: Any = None
    outcome: Outcome = Outcome.INFO
    index: int = 0
    at: float = 0.0
    run: str = ""
    replica: str = ""
    shard: int = 0
    dot: Dot = (0, 0)
    stamp: int = 0
    field_stamp: int = 0
    seen: Mapping[int, int] = field(default_factory=dict)
    wall_ms: int = 0
    furthest_ms: int = 0
    done: int = 0
    """When its end was known: an index."""
    done_at: float = 0.0
    reason: str = ""
    alone: bool = False
    """It is durable on one disk only."""


@dataclass(slots=True)
class Read:
    """A whole document as plain data, {field: value}; `seen` is the frontier of its shard.

    `final`: it was made when all had been written and everybody had everything.
    """

    client: str
    document: str
    values: Mapping[str, Any]
    outcome: Outcome = Outcome.OK
    index: int = 0
    at: float = 0.0
    run: str = ""
    replica: str = ""
    shard: int = 0
    seen: Mapping[int, int] = field(default_factory=dict)
    final: bool = False
    reason: str = ""


def sees(frontier: Mapping[int, int], dot: Dot) -> bool:
    """Whether who has this frontier has applied that operation."""
    return dot[1] <= frontier.get(dot[0], 0)


class History:
    """Records in the order in which they were made."""

    def __init__(self) -> None:
        self.writes: list[Write] = []
        self.reads: list[Read] = []
        self._index = 0
        self._words = 0
        self._open: dict[int, list[Write]] = {}

    def __repr__(self) -> str:
        return f"<History of {len(self.writes)} writes and {len(self.reads)} reads>"

    def word(self) -> int:
        """A number that nobody else was given."""
        self._words += 1
        return self._words

    def write(self, one: Write) -> Write:
        """Record a write, with the outcome it has now."""
        one.index = self._next()
        self.writes.append(one)
        if one.outcome is Outcome.OK:
            one.done, one.done_at = self._next(), one.at
        elif one.outcome is Outcome.INFO:
            self._open.setdefault(one.dot[0], []).append(one)
        return one

    def read(self, one: Read) -> Read:
        """Record a read. It takes no time: it is answered where it is invoked."""
        one.index = self._next()
        self.reads.append(one)
        return one

    def acknowledge(
        self, session: int, written: Mapping[int, int], at: float = 0.0, *, alone: bool = False
    ) -> None:
        """What this session wrote to these shards, up to these seqs, is durable; `alone`: on one
        disk.
        """
        left = []
        for one in self._open.pop(session, ()):
            if one.dot[1] <= written.get(one.shard, 0):
                if one.outcome is not Outcome.OK:
                    one.outcome, one.done, one.done_at = Outcome.OK, self._next(), at
                one.alone = alone
            if one.outcome is not Outcome.OK or one.alone:
                left.append(one)
        self._open[session] = left

    def disk_lost(self, replica: str) -> None:
        """What was durable on this disk alone may be lost with it; so may all that was read
        there.
        """
        for write in self.writes:
            if write.replica == replica and write.alone:
                write.outcome, write.alone = Outcome.INFO, False
        for read in self.reads:
            if read.replica == replica and read.outcome is Outcome.OK:
                read.outcome = Outcome.INFO

    def records(self) -> Iterator[Write | Read]:
        """Everything, in the order of invocation."""
        both: list[Write | Read] = [*self.writes, *self.reads]
        return iter(sorted(both, key=lambda each: each.index))

    def without(self, passed_over: Callable[[str], bool]) -> History:
        """The records of all documents but those that are passed over, as they are."""
        left = History()
        left.writes = [one for one in self.writes if not passed_over(one.document)]
        left.reads = [one for one in self.reads if not passed_over(one.document)]
        return left

    def documents(self) -> list[str]:
        """Every document that was written or read."""
        written = {each.document for each in self.writes}
        return sorted(written.union(each.document for each in self.reads))

    def _next(self) -> int:
        self._index += 1
        return self._index
