"""Frames on their way to everybody: own ones and those that were pushed to us are pushed on.

The decisions are `plumtree`'s; here they meet links, the bus and the disk. Rules of this file:
synchronous; nothing is pushed that is not on disk here, so a frame that reaches anybody is on as
many disks as it made hops.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from crdt.ids import week_of
from mesh.core import Core, source_of
from mesh.health import BUS, DOWN
from mesh.ingest import Received, Reception
from mesh.links import PeerLink
from mesh.plumtree import AUTHOR, RELAY, Trees
from mesh.plumtree import BUS as BUS_RANK
from mesh.wire import Graft, Prune, Range
from mesh.wire.gossip import MAX_TREES
from persistence.base import FrameRecord
from persistence.frame import Header

TREES_SINCE = 2
"""The wire version from which on peers take part. Older ones get what we write, and find the rest
by anti-entropy.
"""
BUS_WAY = source_of(BUS)
_NEW = (Reception.TAKEN, Reception.GAPPED, Reception.DROPPED)

Want = Callable[[PeerLink, int, tuple[Range, ...]], None]


class Broadcast:
    """See the module. `links`: the one link to each peer; `want` asks one for frames."""

    def __init__(self, core: Core, links: Mapping[str, PeerLink], want: Want) -> None:
        self._core = core
        self._links = links
        self._want = want
        self._trees = Trees(core.session, MAX_TREES)
        self._prunes: dict[str, dict[int, None]] = {}
        self._grafts: dict[str, dict[int, None]] = {}
        self._bus_is_down = False

    def __repr__(self) -> str:
        return f"<Broadcast {self._trees!r}>"

    # ------------------------------------------------------------------ links

    def up(self, link: PeerLink) -> None:
        """A link that takes the place of an older one, or of none."""
        self._trees.up(link.name)

    def down(self, link: PeerLink) -> None:
        """The one link to a peer ended."""
        self._graft_all(self._trees.down(link.name))

    def hear_prune(self, link: PeerLink, message: Prune) -> None:
        """A peer gets these by another way."""
        self._trees.prune(link.name, message.sessions)

    def hear_graft(self, link: PeerLink, message: Graft) -> None:
        """A peer wants these from us."""
        self._trees.graft(link.name, message.sessions)

    # ------------------------------------------------------------------ outwards

    def durable(self, records: Sequence[FrameRecord]) -> int:
        """These are on disk: push them. How many are not pushed on, since they came by repair."""
        kept = 0
        for record in records:
            way = ""
            if not record.own:
                taken = self._trees.take((record.shard, record.session, record.first))
                if taken is None:
                    kept += 1
                    continue
                way = taken
            for link in self._links.values():
                if self._goes(record, link, way):
                    link.push(record.data)
        return kept

    def _goes(self, record: FrameRecord, link: PeerLink, way: str) -> bool:
        core = self._core
        if not core.holds(link.name, (record.shard,)):
            return False
        eager = self._trees.eager(link.name, record.session)
        if record.own:
            # While the bus does not take it, nobody who relies on the bus would get it.
            return eager or self._bus_is_down
        if not eager or link.wire < TREES_SINCE or link.name == way:
            return False
        if link.session == record.session:
            return False
        peer = core.book.get(link.name)
        known = peer.known.get(record.shard) if peer is not None else None
        return known is None or known.get(record.session, 0) < record.last

    # ------------------------------------------------------------------ inwards

    def pushed(self, link: PeerLink, received: Received) -> None:
        """A frame came over a link that we had not asked it for."""
        header = received.header
        if header is not None:
            rank = AUTHOR if header.session == link.session else RELAY
            self._came(header, received.reception, link.name, rank)

    def repaired(self, link: PeerLink, received: Received) -> None:
        """A frame came over a link that had been asked for it."""
        header = received.header
        if header is not None and received.reception in _NEW:
            rank = AUTHOR if header.session == link.session else RELAY
            if self._trees.repaired(header.session, link.name, rank):
                self._grafts.setdefault(link.name, {})[header.session] = None

    def by_bus(self, received: Received) -> None:
        """A frame came by the bus."""
        header = received.header
        if header is not None and header.session != self._core.session:
            self._came(header, received.reception, BUS_WAY, BUS_RANK)
            self.say()

    def _came(self, header: Header, reception: Reception, way: str, rank: int) -> None:
        if reception in _NEW:
            self._trees.fresh((header.shard, header.session, header.first), way, rank)
        elif reception is Reception.DUPLICATE:
            needless = self._trees.again(header.session, way, rank)
            if needless is not None:
                self._prunes.setdefault(needless, {})[header.session] = None

    def say(self) -> None:
        """Send what was decided while frames came in."""
        if not self._prunes and not self._grafts:
            return
        prunes, self._prunes = self._prunes, {}
        grafts, self._grafts = self._grafts, {}
        for word, found in ((Prune, prunes), (Graft, grafts)):
            for name, sessions in found.items():
                link = self._links.get(name)
                if link is not None and link.wire >= TREES_SINCE:
                    link.send(word(tuple(sessions)[:MAX_TREES]))

    # ------------------------------------------------------------------ announcements

    def announced(self, link: PeerLink, shards: Mapping[int, Mapping[int, int]]) -> None:
        """A peer said what it has on disk."""
        core = self._core
        if link.wire < TREES_SINCE:
            return
        now = core.now()
        for shard, frontier in shards.items():
            if shard >= len(core.hosts) or not core.subscription.holds(shard):
                continue
            for session, seq in frontier.items():
                if session != core.session and not self._is_here(shard, session, seq):
                    self._trees.announced(shard, session, seq, link.name, now)

    def look(self) -> None:
        """Ask for what was announced and did not come; notice that the bus is gone."""
        core = self._core
        down = core.health.of(BUS).state == DOWN
        if down and not self._bus_is_down:
            self._graft_all(self._trees.bus_down(BUS_WAY))
        self._bus_is_down = down
        for lack in self._trees.overdue(self._is_here, core.now()):
            link = self._links.get(lack.link)
            if link is None:
                continue
            after = core.hosts[lack.shard].lattice.frontier.get(lack.session, 0)
            self._trees.regraft(link.name, lack.session)
            self._grafts.setdefault(link.name, {})[lack.session] = None
            self._want(link, lack.shard, (Range(lack.session, after, lack.seq),))
        self.say()

    def _is_here(self, shard: int, session: int, seq: int) -> bool:
        """Whether it came, or is nothing to wait for. What waits in the inbox asks by itself."""
        host = self._core.hosts[shard]
        return (
            host.lattice.seen(session, seq)
            or host.inbox.awaits(session)
            or week_of(session) < host.lattice.floor
        )

    def _graft_all(self, sessions: Sequence[int]) -> None:
        if not sessions:
            return
        for link in self._links.values():
            if link.wire >= TREES_SINCE:
                for session in sessions:
                    self._trees.regraft(link.name, session)
                link.send(Graft(tuple(sessions)[:MAX_TREES]))
