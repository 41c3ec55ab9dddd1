"""The causal inbox of one shard: a frame comes out when everything its author had seen is applied.

Rules of this file: pure; time is a number the caller passes; the inbox never touches the lattice,
it asks `seen(session, seq)` and is told by `advanced` what was applied.

Theory: causal delivery by waiting (Birman, Schiper, Stephenson 1991), with the happened-before
relation carried as heads: a frame waits for its own predecessor and for the frames named in `deps`;
what those needed came before them. A waiting frame hangs on *one* unmet dependency at a time, so an
arrival costs O(log waiting) however many wait.

Deps are what an author says. One that leaves some out could have its removals come before what they
remove, here and not there, and replicas would differ. So a frame waits for its `claims` as well:
what its removals say their author had seen. They come last: an honest author's are met by then.

Bounds: at most `max_frames` and `max_bytes` wait. What waits is held as it came, compressed: opened
it may be a thousand times as much. When full, the newest frame of the session that
holds most gives way: one session that can never be completed (its author's predecessor is lost)
can't starve the others. What gave way is fetched again by repair. Frames that are ready and not
taken count like those that wait.

Not here: verification (before), decoding and applying (after), fetching what is missing (`repair`).
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum

from crdt.ids import Dot
from persistence.frame import Header

MAX_WAITING_FRAMES = 8192
MAX_WAITING_BYTES = 32 << 20
DOT_BYTES = 128
"""What a dep or claim counts for: a tuple and its two numbers."""
CLAIMS_ASKED = 64
"""As many of a frame's claims are asked for at once."""


@dataclass(slots=True)
class Arrival:
    """A verified frame: its header and hash, its author's own bytes, and which peer brought it.
    `claims`: see `persistence.journal.claims`; `met`: the inbox knows that so many of them are.
    """

    header: Header
    hash: bytes
    raw: bytes
    source: str
    since: float
    claims: tuple[Dot, ...] = ()
    met: int = 0

    @property
    def weight(self) -> int:
        """The bytes it counts for."""
        return len(self.raw) + DOT_BYTES * (len(self.header.deps) + len(self.claims))

    @property
    def session(self) -> int:
        """Whose it is."""
        return self.header.session

    @property
    def first(self) -> int:
        """Its first seq."""
        return self.header.first

    @property
    def last(self) -> int:
        """Its last seq."""
        return self.header.last


class Verdict(Enum):
    """What became of an offered frame."""

    READY = "ready"
    WAITING = "waiting"
    DUPLICATE = "duplicate"
    DROPPED = "dropped"


class Inbox:
    """Holds verified frames of one shard until they can be applied in causal order."""

    def __init__(
        self,
        seen: Callable[[int, int], bool],
        *,
        max_frames: int = MAX_WAITING_FRAMES,
        max_bytes: int = MAX_WAITING_BYTES,
    ) -> None:
        self._seen = seen
        self._max_frames = max_frames
        self._max_bytes = max_bytes
        self._waiting: dict[int, dict[int, Arrival]] = {}
        self._hanging: dict[int, list[tuple[int, int, int]]] = {}
        self._hooks = 0
        self._ready: deque[Arrival] = deque()
        self.frames = 0
        self.bytes = 0

    def __repr__(self) -> str:
        return f"<Inbox {self.frames} waiting, {self.bytes} bytes>"

    def offer(self, arrival: Arrival) -> Verdict:
        """Take a verified frame in. `DROPPED` means there was no room: it has to be fetched
        again.
        """
        if self._seen(arrival.session, arrival.last):
            return Verdict.DUPLICATE
        if self.waits(arrival.session, arrival.first):
            return Verdict.DUPLICATE
        unmet = self._unmet(arrival)
        if unmet is None:
            # With nothing before it, it is taken at once: it needs no room.
            if self._ready and not self._fits(arrival):
                return Verdict.DROPPED
            self._make_ready(arrival)
            return Verdict.READY
        if not self._make_room(arrival):
            return Verdict.DROPPED
        self._waiting.setdefault(arrival.session, {})[arrival.first] = arrival
        self._count(arrival, 1)
        self._hang(arrival, unmet)
        return Verdict.WAITING

    def waits(self, session: int, first: int) -> bool:
        """Whether the frame that begins there waits here for what comes before it."""
        return first in self._waiting.get(session, ())

    def awaits(self, session: int) -> bool:
        """Whether any frame of the session waits here."""
        return session in self._waiting

    def holds(self, session: int, first: int) -> bool:
        """Whether the frame that begins there waits here, or is ready."""
        return self.waits(session, first) or any(
            (one.session, one.first) == (session, first) for one in self._ready
        )

    def take(self) -> Arrival | None:
        """The next frame that can be applied now; `advanced` must be called once it is."""
        while self._ready:
            arrival = self._ready.popleft()
            self._count(arrival, -1)
            if not self._seen(arrival.session, arrival.last):
                return arrival
        return None

    def advanced(self, session: int, upto: int) -> None:
        """The shard now holds `session` up to `upto`: frames that hung on it move on."""
        hanging = self._hanging.get(session)
        if hanging is None:
            return
        while hanging and hanging[0][0] <= upto:
            _, author, first = heapq.heappop(hanging)
            self._hooks -= 1
            self._recheck(author, first)
        if not hanging:
            del self._hanging[session]

    def rescan(self) -> None:
        """After a join anything may have been seen: look at every waiting frame again."""
        self._hanging.clear()
        self._hooks = 0
        for session in sorted(self._waiting):
            for first in sorted(self._waiting.get(session, ())):
                self._recheck(session, first)

    def reached(self, frontier: Mapping[int, int], after: float) -> dict[int, int]:
        """The frontier, and what joins on to it and has waited here since `after` at most: to ask
        others for that would bring it twice.
        """
        reached = dict(frontier)
        for session, frames in self._waiting.items():
            upto = reached.get(session, 0)
            while (arrival := frames.get(upto + 1)) is not None and arrival.since > after:
                upto = reached[session] = arrival.last
        return reached

    def missing(
        self, frontier: Mapping[int, int], before: float, after: float = -math.inf
    ) -> dict[int, tuple[int, int, str]]:
        """What frames that have waited since `before`, and not since `after`, lack: {session:
        (after, upto, a peer that knows)}.
        """
        needs: dict[int, tuple[int, str]] = {}
        for frames in self._waiting.values():
            for arrival in frames.values():
                if not after < arrival.since <= before:
                    continue
                for session, seq in self._wants(arrival):
                    if seq > needs.get(session, (0, ""))[0]:
                        needs[session] = (seq, arrival.source)
        missing: dict[int, tuple[int, int, str]] = {}
        for session in sorted(needs):
            upto, source = needs[session]
            reached = frontier.get(session, 0)
            if held := self._waiting.get(session):
                upto = min(upto, min(held) - 1)
            if upto > reached:
                missing[session] = (reached, upto, source)
        return missing

    def stuck(self, before: float) -> tuple[int, Arrival, Dot] | None:
        """How many frames have waited since `before`, the first of them and what that lacks."""
        frames = [
            arrival
            for waiting in self._waiting.values()
            for arrival in waiting.values()
            if arrival.since <= before
        ]
        if not frames:
            return None
        oldest = min(frames, key=lambda one: (one.since, one.session, one.first))
        unmet = self._unmet(oldest)
        return None if unmet is None else (len(frames), oldest, unmet)

    def _wants(self, arrival: Arrival) -> list[Dot]:
        needed = [dep for dep in arrival.header.deps if not self._seen(*dep)]
        if arrival.first > 1 and not self._seen(arrival.session, arrival.first - 1):
            needed.append((arrival.session, arrival.first - 1))
        some = arrival.claims[arrival.met : arrival.met + CLAIMS_ASKED]
        needed += (claim for claim in some if not self._seen(*claim))
        return needed

    def _unmet(self, arrival: Arrival) -> Dot | None:
        if arrival.first > 1 and not self._seen(arrival.session, arrival.first - 1):
            return arrival.session, arrival.first - 1
        for dep in arrival.header.deps:
            if not self._seen(*dep):
                return dep
        while arrival.met < len(arrival.claims):
            claim = arrival.claims[arrival.met]
            if not self._seen(*claim):
                return claim
            arrival.met += 1  # for good: each is looked at once, however many there are
        return None

    def _hang(self, arrival: Arrival, unmet: Dot) -> None:
        session, seq = unmet
        heapq.heappush(self._hanging.setdefault(session, []), (seq, arrival.session, arrival.first))
        self._hooks += 1
        if self._hooks > 2 * self._max_frames + 16:
            self._rehang()

    def _rehang(self) -> None:
        """Hooks of frames that gave way stay behind; when half of them are such, start over."""
        self._hanging.clear()
        self._hooks = 0
        for frames in self._waiting.values():
            for arrival in frames.values():
                unmet = self._unmet(arrival) or (arrival.session, arrival.first - 1)
                self._hanging.setdefault(unmet[0], []).append(
                    (unmet[1], arrival.session, arrival.first)
                )
                self._hooks += 1
        for hooks in self._hanging.values():
            heapq.heapify(hooks)

    def _recheck(self, session: int, first: int) -> None:
        arrival = self._waiting.get(session, {}).get(first)
        if arrival is None:
            return
        if self._seen(session, arrival.last):
            self._forget(arrival)
        elif (unmet := self._unmet(arrival)) is not None:
            self._hang(arrival, unmet)
        else:
            self._forget(arrival)
            self._make_ready(arrival)

    def _make_ready(self, arrival: Arrival) -> None:
        self._ready.append(arrival)
        self._count(arrival, 1)

    def _count(self, arrival: Arrival, by: int) -> None:
        self.frames += by
        self.bytes += by * arrival.weight

    def _forget(self, arrival: Arrival) -> None:
        frames = self._waiting[arrival.session]
        del frames[arrival.first]
        if not frames:
            del self._waiting[arrival.session]
        self._count(arrival, -1)
        # Its hook in `_hanging` stays behind; `_recheck` skips it, `_rehang` bounds how many are.

    def _make_room(self, arrival: Arrival) -> bool:
        """Make room for one more; False if the arrival itself is what should give way."""
        if arrival.weight > self._max_bytes:
            return False
        while not self._fits(arrival):
            if not self._waiting:
                return False
            mine = self._waiting.get(arrival.session, {})
            heaviest = max(sorted(self._waiting), key=lambda one: len(self._waiting[one]))
            frames = self._waiting[heaviest]
            if len(frames) <= len(mine) + 1:
                frames = mine
                if not mine or max(mine) < arrival.first:
                    return False
            self._forget(frames[max(frames)])
        return True

    def _fits(self, arrival: Arrival) -> bool:
        return self.frames < self._max_frames and self.bytes + arrival.weight <= self._max_bytes
