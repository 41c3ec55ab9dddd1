"""The conversation between replicas: who is told what, who is asked for what. See `messages` and
`repair`.

Rules of this file: handlers are synchronous, in memory, and answer by queueing; what waits for the
disk or for a slow peer is in `serving`. Everything told to a peer comes from `ShardHost.published`
or `.journaled`, so nothing that is not on disk leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from crdt.ids import Dot
from mesh.broadcast import Broadcast
from mesh.committer import Committer
from mesh.core import Core
from mesh.dissemination import keeps_new, pick
from mesh.environment import PeerRefused
from mesh.fetching import Fetching
from mesh.health import DEGRADED, OFF, OK, PEERS
from mesh.ingest import STUCK_S, Ingest, Reception
from mesh.joining import Joining
from mesh.links import PeerLink
from mesh.manners import Manners
from mesh.repair import ASK_AGAIN_S, MAX_RANGES, Comparison, Requests, compare, plan
from mesh.serving import Serving
from mesh.shards import ShardHost
from mesh.wire import (
    MAX_CERTIFICATES,
    Certificates,
    Frames,
    Frontier,
    Graft,
    Holds,
    Journaled,
    Message,
    Prune,
    Range,
    Request,
    Served,
    SnapshotPart,
    Summary,
    SummaryRow,
    Want,
    WantCertificates,
    WantRest,
    WantSnapshot,
)
from persistence.base import FrameRecord

W = TypeVar("W")

PATIENCE_S = 0.1
"""How long a frame waits for its causes, which are usually on their way, before they are asked for.
"""
BIG_CHANGE = 512
"""This many frames that came by repair in one batch, or a joined snapshot, are announced to all
peers at once.
"""
_NEEDLESS = (Reception.DUPLICATE, Reception.UNCERTIFIED, Reception.DROPPED)


class Exchange:
    """All links of a replica and what is said over them. Implements `links.Conversation`,
    `Outlet`.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self._rng = core.environment.entropy.stream("mesh.exchange")
        self._requests = Requests(ASK_AGAIN_S)
        self._joined_at: dict[int, float] = {}
        self._links: dict[str, PeerLink] = {}
        self.broadcast = Broadcast(core, self._links, self._want)
        self.manners = Manners(core, self._links)
        self._hearers: dict[type[Any], Callable[[PeerLink, Any], None]] = {
            Frames: self._frames,
            Journaled: self._journaled,
            Summary: self._summary,
            Frontier: self._frontier,
            Want: self._asked,
            WantSnapshot: self._asked,
            WantRest: self._asked,
            Served: self._served,
            Certificates: self._certificates,
            WantCertificates: self._want_certificates,
            Holds: self._holds,
            Prune: self.broadcast.hear_prune,
            Graft: self.broadcast.hear_graft,
        }
        self._on_up: list[Callable[[PeerLink], None]] = []
        self._on_down: list[Callable[[PeerLink], None]] = []
        self._committer: Committer
        self._ingest: Ingest
        self._fetching: Fetching
        self._serving: Serving

    def __repr__(self) -> str:
        return f"<Exchange with {sorted(self._links)}>"

    def bind(self, committer: Committer, ingest: Ingest, joining: Joining) -> None:
        """The other parts, which need this one to be made."""
        self._committer, self._ingest = committer, ingest
        self._serving = Serving(self._core, committer)
        self._fetching = Fetching(self._core, self._requests, joining)
        self.hear(SnapshotPart, self._fetching.part)

    def hear(self, cls: type[W], handler: Callable[[PeerLink, W], None]) -> None:
        """Let `handler(link, message)` deal with messages of this class; it must not block."""
        self._hearers[cls] = handler

    def on_up(self, callback: Callable[[PeerLink], None]) -> None:
        """Call back with every link that has been greeted and is wanted."""
        self._on_up.append(callback)

    def on_down(self, callback: Callable[[PeerLink], None]) -> None:
        """Call back with every link that was up and has ended, or was replaced."""
        self._on_down.append(callback)

    @property
    def links(self) -> Mapping[str, PeerLink]:
        """The one link to each peer, by name."""
        return self._links

    async def until_unlinked(self, name: str) -> None:
        """Wait until there is no link to this peer."""
        await self._core.waiters.until(lambda: name not in self._links)

    # ------------------------------------------------------------------ links.Conversation

    def up(self, link: PeerLink) -> None:
        """See `links.Conversation`. One link per pair of replicas stays."""
        core = self._core
        self.manners.admit(link)
        old = self._links.get(link.name)
        if old is not None:
            same = old.session == link.session
            if same and not keeps_new(core.name, link.name, old.initiated, link.initiated):
                raise PeerRefused(f"{link.name} is linked already at {old.address}")
            old.end(f"replaced by a link at {link.address}")
            self._requests.gone(link.name)
            self._fetching.left(old)
        elif len(self._links) >= core.settings.peers.connections_max:
            raise PeerRefused(f"{len(self._links)} peers are the most held here")
        self._links[link.name] = link
        self.broadcast.up(link)
        now = core.environment.clock.wall_ms()
        core.book.met(link.name, link.session, link.address, now)
        core.acknowledgements.session(link.name, link.session)
        core.clones.linked(link.name, link.session)
        core.probe.event("link.up", peer=link.name, address=link.address, session=link.session)
        self.judge_health()
        theirs = {
            host.index: {link.session: seq}
            for host in core.hosts
            if (seq := host.journaled.get(link.session, 0))
        }
        link.send(Journaled(theirs))
        if link.wire >= 2 and core.subscription.shards is not None:
            link.send(Holds(tuple(sorted(core.subscription.shards))))
        link.owes_summary = True
        self._committer.want_capture()
        for callback in self._on_up:
            callback(link)

    def down(self, link: PeerLink, reason: str) -> None:
        """See `links.Conversation`."""
        core = self._core
        core.probe.event("link.down", peer=link.name, address=link.address, reason=reason)
        self._fetching.left(link)
        self.manners.ended(link)
        if self._links.get(link.name) is link:
            del self._links[link.name]
            core.book.left(link.name, core.environment.clock.wall_ms(), core.now())
            core.held_by.pop(link.name, None)
            self._requests.gone(link.name)
            self.broadcast.down(link)
            self.judge_health()
            core.waiters.progress()
        for callback in self._on_down:
            callback(link)

    def message(self, link: PeerLink, message: Message) -> None:
        """See `links.Conversation`."""
        if self._links.get(link.name) is not link:
            return  # Replaced by now: what an earlier session of the peer said counts no more.
        # Nobody hears a Ping: that it came was all.
        if hearer := self._hearers.get(type(message)):
            hearer(link, message)

    async def room(self) -> None:
        """See `links.Conversation`."""
        bound = self._core.settings.replica.owed_bytes_max
        await self._core.waiters.until(lambda: self._committer.owed <= bound)

    async def serve(self, link: PeerLink, request: Request) -> None:
        """See `links.Conversation`."""
        await self._serving.serve(link, request)

    def drained(self, link: PeerLink) -> None:
        """See `links.Conversation`."""
        self._core.probe.sometimes("a slow peer is repaired")
        self.announce(link)

    def limited(self, link: PeerLink) -> None:
        """See `links.Conversation`."""
        self.manners.limited(link)

    # ------------------------------------------------------------------ committer.Outlet

    def durable(self, records: Sequence[FrameRecord]) -> None:
        """See `committer.Outlet`."""
        if not self._links:
            return
        repaired = self.broadcast.durable(records)
        fresh: dict[int, dict[int, int]] = {}
        for record in records:
            fresh.setdefault(record.shard, {})[record.session] = record.last
        for link in self._links.values():
            self._tell(link, fresh)
            if repaired >= BIG_CHANGE:
                self.announce(link)

    def joined(self, shard: int, frontier: Mapping[int, int]) -> None:
        """See `committer.Outlet`."""
        self._fetching.joined(shard)
        self._joined_at[shard] = self._core.now()
        for link in self._links.values():
            self._tell(link, {shard: dict(frontier)})
            self.announce(link)

    def parted(self, peer: str, shard: int, dots: Sequence[Dot]) -> None:
        """See `committer.Outlet`. What it shows comes in as any frame, and proves it or not."""
        ranges = tuple(Range(session, seq - 1, seq) for session, seq in dots[:MAX_RANGES])
        if (link := self._links.get(peer)) is not None:
            self._want(link, shard, ranges)

    def published(self) -> None:
        """See `committer.Outlet`. Summaries that are owed or came are dealt with against fresh
        captures.
        """
        rows = tuple(host.published.row() for host in self._core.held)
        for link in self._links.values():
            if link.owes_summary:
                link.owes_summary = False
                link.send(Summary(rows))
            link.awaits_capture = False
            self._compare_all(link)
            owed, link.owes_frontier = link.owes_frontier, set()
            for shard in sorted(owed):
                link.send(self._core.hosts[shard].published.message(reply=False), asked=True)

    def pump(self, host: ShardHost) -> None:
        """See `committer.Outlet`."""
        self._ingest.pump(host)

    # ------------------------------------------------------------------ announcing

    def announce(self, link: PeerLink) -> None:
        """Send this peer a summary once one is on disk."""
        link.owes_summary = True
        self._committer.want_capture()

    def tick(self) -> None:
        """Regular anti-entropy: everybody's owed acknowledgements, and a summary to a random
        peer. What was kept for peers to come back to is given up after a while.
        """
        self._serving.trim()
        self._fetching.trim()
        for link in self._links.values():
            self._tell_all(link)
        name = pick(list(self._links), self._rng)
        if name is not None:
            self.announce(self._links[name])

    def look_for_gaps(self) -> None:
        """Ask for what frames in the inboxes have been waiting for too long.

        What waits for much longer is left to anti-entropy, which asks for what somebody says to
        have: a frame may name what nobody ever wrote.
        """
        core = self._core
        now = core.now()
        self.broadcast.look()
        for host in core.hosts:
            if not host.inbox.frames:
                continue
            missing = host.inbox.missing(host.lattice.frontier, now - PATIENCE_S, now - STUCK_S)
            by_peer: dict[str, list[Range]] = {}
            for session, (after, upto, source) in missing.items():
                name = source if source in self._links else pick(list(self._links), self._rng)
                if name is not None:
                    by_peer.setdefault(name, []).append(Range(session, after, upto))
            for name, ranges in sorted(by_peer.items()):
                self._want(self._links[name], host.index, tuple(ranges))

    # ------------------------------------------------------------------ what peers say

    def _frames(self, link: PeerLink, message: Frames) -> None:
        uncertified: set[int] = set()
        now = self._core.now()
        if not message.frames:
            link.account.again(0, now)
        for raw in message.frames:
            received = reception, header = self._ingest.frame(raw, link.name)
            asked = header is not None and self._requests.covers(header, link.name)
            (self.broadcast.repaired if asked else self.broadcast.pushed)(link, received)
            if reception in _NEEDLESS:
                link.account.again(len(raw), now)
            if reception is Reception.REFUSED:
                link.refused()
            elif reception is Reception.UNCERTIFIED and header is not None:
                uncertified.add(header.session)
        self.broadcast.say()
        if uncertified:
            link.dropped_uncertified = True
            link.send(WantCertificates(tuple(sorted(uncertified))[:MAX_CERTIFICATES]))

    def _journaled(self, link: PeerLink, message: Journaled) -> None:
        for shard, frontier in message.shards.items():
            if shard < len(self._core.hosts):
                self._knows(link, shard, frontier)
        self.broadcast.announced(link, message.shards)
        self._core.waiters.progress()

    def _summary(self, link: PeerLink, message: Summary) -> None:
        link.comparisons.hear(message.rows)
        link.awaits_capture = True
        self._committer.want_capture()

    def _asked(self, link: PeerLink, request: Request) -> None:
        if request.shard < len(self._core.hosts):
            link.ask(request)

    def _want_certificates(self, link: PeerLink, message: WantCertificates) -> None:
        found = self._core.trust.certificates(message.sessions[:MAX_CERTIFICATES])
        link.send(Certificates(tuple(found)), asked=True)

    def _holds(self, link: PeerLink, message: Holds) -> None:
        self._core.held_by[link.name] = frozenset(message.shards)
        if (peer := self._core.book.get(link.name)) is not None:
            peer.holds = frozenset(message.shards)
        self._core.waiters.progress()

    def _compare_all(self, link: PeerLink) -> None:
        """As many as may be asked about; each answer makes room for another."""
        now = self._core.now()
        while (row := link.comparisons.next(now)) is not None:
            self._compare(link, row)

    def _compare(self, link: PeerLink, row: SummaryRow) -> None:
        core = self._core
        if row.shard >= len(core.hosts) or not core.subscription.holds(row.shard):
            return
        mine = core.hosts[row.shard].published
        match compare(mine, row):
            case Comparison.EQUAL:
                self._knows(link, row.shard, mine.frontier)
                core.waiters.progress()
            case Comparison.DIFFERENT:
                link.comparisons.asked(row.shard, core.now())
                link.send(mine.message(reply=True), asked=True)
            case Comparison.CORRUPT:
                core.probe.event(
                    "digest.mismatch", peer=link.name, shard=row.shard,
                    ours=mine.digest.hex(), theirs=row.digest.hex(),
                )  # fmt: skip
                # Should joining not help, this must not become a storm of snapshots.
                if core.now() - self._joined_at.get(row.shard, -ASK_AGAIN_S) >= ASK_AGAIN_S:
                    self._fetching.want(link, row.shard)

    def _knows(self, link: PeerLink, shard: int, frontier: Mapping[int, int]) -> None:
        """What this peer has on disk at least."""
        core = self._core
        peer = core.book.get(link.name)
        if peer is not None:
            peer.has(shard, frontier)
        if seq := frontier.get(core.session, 0):
            core.acknowledgements.journaled(link.name, shard, seq)

    def _frontier(self, link: PeerLink, message: Frontier) -> None:
        core = self._core
        if message.shard >= len(core.hosts) or not core.subscription.holds(message.shard):
            return
        self._knows(link, message.shard, message.frontier)
        core.waiters.progress()
        if message.reply:
            link.owes_frontier.add(message.shard)
            link.awaits_capture = True
            self._committer.want_capture()
        else:
            link.comparisons.answered(message.shard)
            self._compare_all(link)
        host = core.hosts[message.shard]
        # What waits for too long is asked for again: perhaps it is not what others have.
        here = host.inbox.reached(host.lattice.frontier, core.now() - STUCK_S)
        wanted = plan(here, host.lattice.floor, message)
        if wanted.snapshot:
            self._fetching.want(link, message.shard)
        elif wanted.ranges:
            self._want(link, message.shard, wanted.ranges)

    def _served(self, link: PeerLink, message: Served) -> None:
        core = self._core
        self._requests.answered(message.shard, link.name)
        self._requests.progress(link.name, core.now())
        peer = core.book.get(link.name)
        if message.shard >= len(core.hosts) or peer is None or not message.pruned:
            return
        host = core.hosts[message.shard]
        theirs = peer.known.get(message.shard, {})
        link.account.volume.spend(len(theirs) // 64, core.now())  # All of it may be looked at.
        if any(not host.lattice.seen(session, seq) for session, seq in theirs.items()):
            self._fetching.want(link, message.shard)

    def _certificates(self, link: PeerLink, message: Certificates) -> None:
        for data in message.certificates:
            session = self._ingest.certificate(data, link.name)
            if session is None:
                link.refused()
                continue
            link.certify((session,))
        if link.dropped_uncertified:
            # Find the frames again. What is asked for from now on comes after all certificates.
            link.dropped_uncertified = False
            self.announce(link)

    # ------------------------------------------------------------------ asking and telling

    def _want(self, link: PeerLink, shard: int, ranges: tuple[Range, ...]) -> None:
        core = self._core
        fresh = self._requests.ranges(shard, ranges, link.name, core.now())
        if fresh:
            core.probe.event("repair.asked", peer=link.name, shard=shard, ranges=len(fresh))
            link.send(Want(shard, fresh))

    def _tell(self, link: PeerLink, fresh: Mapping[int, Mapping[int, int]]) -> None:
        """Acknowledge the peer's own frames at once; the rest waits for the next tick."""
        prompt: dict[int, dict[int, int]] = {}
        for shard, frontier in fresh.items():
            for session, seq in frontier.items():
                if session == link.session:
                    prompt.setdefault(shard, {})[session] = seq
                else:
                    link.untold.setdefault(shard, {})[session] = seq
        if prompt:
            link.send(Journaled(prompt))
            for shard, frontier in prompt.items():
                # Its own frames were on its disk before they came here.
                self._knows(link, shard, frontier)

    def _tell_all(self, link: PeerLink) -> None:
        if link.untold:
            untold, link.untold = link.untold, {}
            link.send(Journaled(untold))

    def judge_health(self) -> None:
        """Say how the peers are."""
        core = self._core
        if self._links:
            core.health.set(PEERS, OK)
        elif core.environment.discovery.addresses():
            core.health.set(
                PEERS, DEGRADED, "no peer is linked",
                "start the others or check peers.seeds; edits go on and are delivered later",
            )  # fmt: skip
        else:
            core.health.set(PEERS, OFF, "no peers are configured or linked")
