"""Deciding what is missing, and whom to ask for what.

Rules of this file: pure; decisions are functions of two frontiers. What is compared or given out is
always a `Capture`: a state that is on this replica's disk. What is *asked for* is reckoned from the
live frontier and from what waits in the inbox: asking for what already arrived would only cost.

Order of repair (the first that can work): the frames of a range from the peer that has them; the
whole shard as a snapshot, if the peer no longer has the frames, if there are more operations
missing than a snapshot has entries, or if the peer's floor is higher.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from mesh.wire import Frontier, Range, SummaryRow, Want
from mesh.wire.codec import MAX_SESSIONS
from persistence.frame import Header

ASK_AGAIN_S = 5.0
"""A request without an answer for this long is made again, maybe of somebody else."""
FEW_OPERATIONS = 2_000
"""Below this many missing operations frames are cheaper than a snapshot of even the smallest shard.
"""
MAX_ASKED_ABOUT = 64
"""Shards of which a peer is asked for its frontier at once."""
MAX_RANGES = 4_096
"""Ranges asked for at once; the rest is found by the next comparison."""


@dataclass(frozen=True, slots=True)
class Capture:
    """A shard at the instant of a cut that is on disk: the only state others are told of."""

    shard: int
    floor: int
    frontier: Mapping[int, int]
    frontier_hash: bytes
    digest: bytes
    entries: int
    cuts: int = 0

    def row(self) -> SummaryRow:
        """For the summary of all shards."""
        return SummaryRow(self.shard, self.floor, self.frontier_hash, self.digest, self.cuts)

    def message(self, *, reply: bool) -> Frontier:
        """In full; `reply` asks for the other's."""
        return Frontier(
            self.shard, self.floor, self.cuts, self.entries, reply, self.digest, dict(self.frontier)
        )


class Comparison(Enum):
    """How a peer's shard compares with ours."""

    EQUAL = "equal"
    DIFFERENT = "different"
    CORRUPT = "corrupt"


def compare(mine: Capture, theirs: SummaryRow) -> Comparison:
    """EQUAL, DIFFERENT (somebody lacks something), or CORRUPT: the same operations, yet another
    state.

    CORRUPT is a bug or an attack: alarm, then join the peer's whole shard.
    """
    same = (mine.floor, mine.cuts, mine.frontier_hash) == (
        theirs.floor, theirs.cuts, theirs.frontier_hash
    )  # fmt: skip
    if not same:
        return Comparison.DIFFERENT
    return Comparison.EQUAL if mine.digest == theirs.digest else Comparison.CORRUPT


class Comparisons:
    """What a peer said of its shards and nobody has compared yet: all in turn, but only so many
    that differ are asked about at once, so that a mesh of thousands of shards fits into the queue
    of a link.

    A question lapses when it is answered, or after `patience` seconds: who holds a shard no more
    never answers.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._rows: dict[int, SummaryRow] = {}
        self._asked: dict[int, float] = {}

    def __repr__(self) -> str:
        return f"<Comparisons, {len(self._rows)} wait, {len(self._asked)} asked about>"

    def hear(self, rows: Iterable[SummaryRow]) -> None:
        """The latest of what the peer says; what it said of other shards still counts."""
        self._rows.update((row.shard, row) for row in rows)

    def next(self, now: float) -> SummaryRow | None:
        """The shard to be compared next; None while there is none, or enough was asked.

        The peer's answer, if one is awaited, is newer than what it said before: such are left out.
        """
        while self._rows:
            if len(self._asked) >= MAX_ASKED_ABOUT:
                self._asked = {one: until for one, until in self._asked.items() if until > now}
                if len(self._asked) >= MAX_ASKED_ABOUT:
                    return None
            row = self._rows.pop(next(iter(self._rows)))
            if self._asked.get(row.shard, now) <= now:
                return row
        return None

    def asked(self, shard: int, now: float) -> None:
        """The peer was asked for its frontier of this shard."""
        self._asked[shard] = now + self._patience

    def answered(self, shard: int) -> None:
        """The peer sent its frontier of this shard."""
        self._asked.pop(shard, None)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to ask a peer for: ranges of frames, or the whole shard. `missing` counts operations."""

    ranges: tuple[Range, ...]
    snapshot: bool
    missing: int


def plan(live: Mapping[int, int], floor: int, theirs: Frontier) -> Plan:
    """What we lack of what the peer has. `live` is our frontier now, with what is maybe not on disk
    yet, or waits to be applied.
    """
    missing = 0
    ranges: list[Range] = []
    for session in sorted(theirs.frontier):
        upto = theirs.frontier[session]
        after = live.get(session, 0)
        if upto > after:
            missing += upto - after
            ranges.append(Range(session, after, upto))
    snapshot = theirs.floor > floor or missing > max(theirs.entries, FEW_OPERATIONS)
    return Plan(() if snapshot else tuple(ranges[:MAX_RANGES]), snapshot, missing)


def merged(waiting: Want, further: Want) -> Want | None:
    """Both requests for a shard in one: for each session one range, from the first asked for to the
    last. None if that is more sessions than there can be.
    """
    ranges = {wanted.session: wanted for wanted in waiting.ranges}
    for wanted in further.ranges:
        known = ranges.get(wanted.session, wanted)
        ranges[wanted.session] = Range(
            wanted.session, min(known.after, wanted.after), max(known.upto, wanted.upto)
        )
    if len(ranges) > MAX_SESSIONS:
        return None
    return Want(waiting.shard, tuple(ranges.values()))


class Requests:
    """What this replica has asked for and not got yet, so that two peers don't send the same twice.

    A request lapses when it is answered, when its link ends, or after `patience` seconds without
    progress.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._ranges: dict[int, dict[int, tuple[int, str, float]]] = {}
        self._snapshots: dict[int, tuple[str, float]] = {}

    def __repr__(self) -> str:
        count = sum(map(len, self._ranges.values()))
        return f"<Requests {count} ranges, {len(self._snapshots)} snapshots>"

    def ranges(
        self, shard: int, ranges: tuple[Range, ...], peer: str, now: float
    ) -> tuple[Range, ...]:
        """Those parts of `ranges` that nobody was asked for yet; they count as asked from now
        on.
        """
        asked = self._ranges.setdefault(shard, {})
        fresh: list[Range] = []
        for wanted in ranges:
            upto, _, until = asked.get(wanted.session, (0, "", 0.0))
            after = wanted.after
            if until > now:
                # The older part lapses when it would have; more on top of it never puts that off.
                after = max(after, upto)
            else:
                until = now + self._patience
            if after < wanted.upto and len(asked) < MAX_SESSIONS:
                asked[wanted.session] = (wanted.upto, peer, until)
                fresh.append(Range(wanted.session, after, wanted.upto))
        return tuple(fresh)

    def covers(self, header: Header, peer: str) -> bool:
        """Whether this peer was asked for the frame, and has not answered in full yet."""
        upto, name, _ = self._ranges.get(header.shard, {}).get(header.session, (0, "", 0.0))
        return name == peer and header.first <= upto

    def snapshot(self, shard: int, peer: str, now: float) -> bool:
        """Whether to ask this peer for the shard now; if so it counts as asked."""
        _, until = self._snapshots.get(shard, ("", 0.0))
        if until > now:
            return False
        self._snapshots[shard] = (peer, now + self._patience)
        return True

    def expects(self, shard: int, peer: str) -> bool:
        """Whether this peer was asked for the shard, and nobody else since."""
        return self._snapshots.get(shard, ("", 0.0))[0] == peer

    def progress(self, peer: str, now: float) -> None:
        """This peer answers, one request after the other: what it was asked for stays asked for."""
        for shard, (name, _) in self._snapshots.items():
            if name == peer:
                self._snapshots[shard] = (peer, now + self._patience)

    def answered(self, shard: int, peer: str) -> None:
        """The peer has sent all it will of what it was asked for of this shard."""
        asked = self._ranges.get(shard, {})
        for session in [one for one, (_, name, _) in asked.items() if name == peer]:
            del asked[session]

    def joined(self, shard: int) -> str:
        """A snapshot of the shard was joined or refused; who was asked for it, if anybody was."""
        return self._snapshots.pop(shard, ("", 0.0))[0]

    def gone(self, peer: str) -> None:
        """The link to this peer ended: ask others."""
        for shard in list(self._ranges):
            self.answered(shard, peer)
        for shard in [one for one, (name, _) in self._snapshots.items() if name == peer]:
            del self._snapshots[shard]
