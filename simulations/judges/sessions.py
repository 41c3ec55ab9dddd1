"""Session guarantees, of clients that stay with a replica and of those that carry a frontier.

After Terry, Demers, Petersen, Spreitzer, Theimer, Welch: "Session Guarantees for Weakly Consistent
Replicated Data" (1994). They are judged from values alone, by elements that are added once and
never removed; what a replica says of its frontier plays no part. They hold within a shard.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from simulations.judges.base import Judge
from simulations.judges.history import History, Outcome, Read, Write

__all__ = ("SessionGuarantees",)

Elements = int
"""A set of elements: a bit for each."""


class _Added(NamedTuple):
    """An element: what it is, who added it, and all that he knew of that shard before."""

    value: Any
    client: str
    before: Elements


class SessionGuarantees(Judge):
    """Read your writes, monotonic reads, monotonic writes, writes follow reads: of what was added
    to these `fields`, which nobody removes anything from. What a crash took with it before it was
    durable, no client of a later run is owed.
    """

    def __init__(self, fields: Sequence[str]) -> None:
        super().__init__()
        self._fields = fields
        self._added: list[_Added] = []
        self._bits: dict[tuple[str, str, Any], Elements] = {}
        self._in: dict[str, Elements] = defaultdict(int)
        """Those of each document."""
        self._proven: set[tuple[str, Elements]] = set()

    def _wrong(self, history: History) -> Iterator[str]:
        knows: dict[tuple[str, int], _Knowledge] = defaultdict(_Knowledge)
        for one in history.records():
            if one.outcome is Outcome.FAIL:
                continue
            known = knows[one.client, one.shard]
            known.enter(one.run)
            if isinstance(one, Write):
                if one.place[0] in self._fields:
                    known.learn(self._add(one, known.all), durable=one.outcome is Outcome.OK)
            else:
                found = self._elements(one)
                yield from self._own(one, known.all, found)
                yield from self._others(one, found)
                known.learn(found, durable=one.outcome is Outcome.OK)

    def _add(self, write: Write, before: Elements) -> Elements:
        bit = 1 << len(self._added)
        self._added.append(_Added(write.value, write.client, before))
        self._bits[write.document, write.place[0], write.value] = bit
        self._in[write.document] |= bit
        return bit

    def _elements(self, read: Read) -> Elements:
        """What is in a read, of what was added at all."""
        found = 0
        for field in self._fields:
            for value in read.values.get(field) or ():
                found |= self._bits.get((read.document, field, value), 0)
        return found

    def _own(self, read: Read, known: Elements, found: Elements) -> Iterator[str]:
        """All that the client wrote, or read before."""
        self.checked += 1
        for missed in self._each(known & self._in[read.document] & ~found):
            own = missed.client == read.client
            what = "read your writes" if own else "monotonic reads"
            yield f"{what}: {_shown(read)} misses {missed.value!r}"

    def _others(self, read: Read, found: Elements) -> Iterator[str]:
        """All that the writers of what it sees knew when they wrote that."""
        if (read.document, found) in self._proven:
            return
        self._proven.add((read.document, found))
        due = self._in[read.document] & ~found
        for one in self._each(found):
            self.checked += 1
            for missed in self._each(one.before & due):
                same = missed.client == one.client
                yield (
                    f"{'monotonic writes' if same else 'writes follow reads'}: {_shown(read)} sees "
                    f"{one.value!r} of {one.client} and misses {missed.value!r}, which that client "
                    f"{'wrote' if same else 'had read'} before"
                )

    def _each(self, elements: Elements) -> Iterator[_Added]:
        while elements:
            lowest = elements & -elements
            elements ^= lowest
            yield self._added[lowest.bit_length() - 1]


class _Knowledge:
    """What a client knows of a shard."""

    def __init__(self) -> None:
        self._run = ""
        self._durable: Elements = 0
        self.all: Elements = 0

    def enter(self, run: str) -> None:
        """In another run only what was durable is left."""
        if run != self._run:
            self._run = run
            self.all = self._durable

    def learn(self, elements: Elements, *, durable: bool) -> None:
        """It wrote or read these."""
        self.all |= elements
        if durable:
            self._durable |= elements


def _shown(read: Read) -> str:
    return f"{read.client} reading {read.document} at {read.at:.3f} s"
