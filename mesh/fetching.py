"""Whole shards, asked of peers: the parts that come, also over several links, until they are whole.

What `repair` decides to get as a snapshot is asked of one peer at a time (`repair.Requests`). Where
the link breaks midway, what came is kept; whoever links again to the same session of that peer asks
for the rest. See `transfers`.
"""

from __future__ import annotations

from crdt.errors import CodecError
from mesh.core import Core
from mesh.joining import Joining
from mesh.links import PeerLink
from mesh.repair import Requests
from mesh.transfers import KEPT_BYTES, KEPT_S, RESUMES_SINCE, Assembly, Shelf
from mesh.wire import SnapshotPart, WantRest, WantSnapshot

PAUSE_FIRST_S = 0.5
PAUSE_MOST_S = 16.0
"""Who gave a whole shard is not asked for it again so soon. What it gave did not help if there is
still need to: each time in a row the pause doubles, or a snapshot that claims what nobody has would
go round for ever, as fast as the network is."""


class Fetching:
    """See the module. Synchronous; `requests` is what all peers were asked for."""

    def __init__(self, core: Core, requests: Requests, joining: Joining) -> None:
        self._core = core
        self._requests = requests
        self._joining = joining
        # By session of the giver and shard: what its links left unfinished.
        self._broken: Shelf[tuple[int, int], Assembly] = Shelf(KEPT_BYTES, KEPT_S)
        # By peer and shard: until when it is not asked again, and how long that pause is.
        self._pauses: dict[tuple[str, int], tuple[float, float]] = {}

    def __repr__(self) -> str:
        return f"<Fetching, broken transfers: {self._broken!r}>"

    def want(self, link: PeerLink, shard: int) -> None:
        """Ask this peer for the shard, unless that is useless or somebody was asked already."""
        if link.member is not None and not link.member.gives_snapshots:
            return  # What it gave would be refused; another peer is met in another round.
        if self._joining.waits(shard):
            return
        begun = self._broken.get((link.session, shard))
        if begun is None and self._core.now() < self._pauses.get((link.name, shard), (0.0, 0.0))[0]:
            return
        if not self._requests.snapshot(shard, link.name, self._core.now()):
            return
        link.snapshots_asked.add(shard)
        if begun is not None and begun.rest is not None and link.wire >= RESUMES_SINCE:
            _, transfer, index = begun.rest
            # Given up before the rest of it comes, that would be garbage.
            self._broken.touch((link.session, shard), self._core.now())
            link.send(WantRest(shard, transfer, index))
        else:
            index = 0
            link.send(WantSnapshot(shard))
        self._core.probe.event("repair.snapshot", peer=link.name, shard=shard, parts=index)

    def part(self, link: PeerLink, part: SnapshotPart) -> None:
        """A part came; the last one has the snapshot verified and joined."""
        core = self._core
        if not self._requests.expects(part.shard, link.name):
            # Nobody may fill our memory with what we never asked for. What comes late, after
            # another peer was asked or has sent the shard, is no garbage.
            link.assembly.clear()
            if part.shard not in link.snapshots_asked:
                core.refuse("snapshot.refused", "Unasked", peer=link.name, detail="not asked for")
                link.refused()
            return
        self._requests.progress(link.name, core.now())
        key = link.session, part.shard
        begun = self._broken.get(key)
        if begun is not None and begun.continued_by(part):
            self._broken.take(key)
            link.assembly = begun
        try:
            data = link.assembly.add(part)
        except CodecError as error:
            core.refuse("snapshot.refused", "CodecError", peer=link.name, detail=str(error))
            link.refused()
            return
        if data is None:
            return

        def refused() -> None:
            self._requests.joined(part.shard)
            link.refused()

        self._joining.offer(part.shard, data, link.name, refused)

    def left(self, link: PeerLink) -> None:
        """The link ended, or another took its place: keep what came over it."""
        if (rest := link.assembly.rest) is not None:
            begun, link.assembly = link.assembly, Assembly()
            self._broken.put((link.session, rest[0]), begun, begun.bytes, self._core.now())
            self.trim()

    def joined(self, shard: int) -> None:
        """The shard came from somebody: what others began to send of it is no longer wanted."""
        if giver := self._requests.joined(shard):
            self._pause(giver, shard)
        for key in self._broken:
            if key[1] == shard:
                self._broken.take(key)

    def _pause(self, peer: str, shard: int) -> None:
        _, pause = self._pauses.get((peer, shard), (0.0, PAUSE_FIRST_S / 2))
        pause = min(2 * pause, PAUSE_MOST_S)
        self._pauses[peer, shard] = self._core.now() + pause, pause

    def trim(self) -> None:
        """Give up what nobody came back to finish. To be called now and then."""
        now = self._core.now()
        self._pauses = {
            key: (until, pause)
            for key, (until, pause) in self._pauses.items()
            if now < until + pause  # Calm for as long again: it helped.
        }
        for (_, shard), size in self._broken.trim(now):
            self._core.probe.event("snapshot.dropped", shard=shard, bytes=size)
