"""Who the other replicas are, when they were here, and what each is known to have on disk.

What a peer has on disk is learnt from what it says: `Journaled`, `Frontier`, equal summaries.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from crdt.frontier import count_missing
from persistence.limits import MAX_SNAPSHOT_SESSIONS

MAX_PEERS = 4_096
LIVE_FOR_S = 600.0
"""A replica that was here within this many seconds keeps frames it lacks from being pruned."""


@dataclass(frozen=True, slots=True)
class PeerInfo:
    """One other replica, for people and programs. `since`: Unix ms of the last change of
    `connected`.

    `behind`: operations on this replica's disk that it is not known to have.
    """

    name: str
    session: int
    connected: bool
    since: int
    address: str
    behind: int


@dataclass(frozen=True, slots=True)
class PeerLag:
    """`lacks`: operations of ours it is not known to have; `ahead`: operations of its we don't
    have.
    """

    lacks: int
    ahead: int


@dataclass(slots=True)
class Peer:
    """What is known of one other replica. `holds`: the only shards it holds; None: all."""

    name: str
    session: int
    address: str = ""
    connected: bool = False
    since: int = 0
    seen_at: float = 0.0
    known: dict[int, dict[int, int]] = field(default_factory=dict)
    holds: frozenset[int] | None = None

    def has(self, shard: int, frontier: Mapping[int, int]) -> None:
        """It has at least this on disk. Of more sessions than a shard can have, some are left out:
        they count as lacking.
        """
        known = self.known.setdefault(shard, {})
        for session, seq in frontier.items():
            before = known.get(session, 0)
            if seq > before and (before or len(known) < MAX_SNAPSHOT_SESSIONS):
                known[session] = seq


class PeerBook:
    """All replicas ever met in this run, bounded; those gone longest are forgotten first."""

    def __init__(self) -> None:
        self._peers: dict[str, Peer] = {}

    def __repr__(self) -> str:
        return f"<PeerBook {sorted(self._peers)}>"

    def get(self, name: str) -> Peer | None:
        """What is known of a replica."""
        return self._peers.get(name)

    @property
    def linked(self) -> int:
        """How many of them are linked now."""
        return sum(peer.connected for peer in self._peers.values())

    def met(self, name: str, session: int, address: str, now_ms: int) -> Peer:
        """A link to this replica is up. A new session may have lost its disk: it is known to have
        nothing.
        """
        peer = self._peers.get(name)
        if peer is None or peer.session != session:
            peer = self._peers[name] = Peer(name, session)
            self._forget()
        if not peer.connected:
            peer.since = now_ms
        peer.connected = True
        peer.address = address
        return peer

    def left(self, name: str, now_ms: int, now: float) -> None:
        """The last link to it ended."""
        peer = self._peers.get(name)
        if peer is not None:
            peer.connected = False
            peer.since = now_ms
            peer.seen_at = now

    def drop(self, name: str) -> None:
        """Forget a replica that is no peer any more, or never was one: nothing is kept for it."""
        self._peers.pop(name, None)

    def infos(self, journaled: Mapping[int, Mapping[int, int]]) -> list[PeerInfo]:
        """All replicas met, by name."""
        return [
            PeerInfo(
                peer.name, peer.session, peer.connected, peer.since, peer.address,
                _lacking(peer, journaled),
            )
            for _, peer in sorted(self._peers.items())
        ]  # fmt: skip

    def lag(
        self, journaled: Mapping[int, Mapping[int, int]], live: Mapping[int, Mapping[int, int]]
    ) -> dict[str, PeerLag]:
        """Per replica, what it lacks of our disk and what we lack of its."""
        return {
            name: PeerLag(
                _lacking(peer, journaled),
                sum(
                    count_missing(live.get(shard, {}), known) for shard, known in peer.known.items()
                ),
            )
            for name, peer in sorted(self._peers.items())
        }

    def everywhere(self, shard: int, frontier: Mapping[int, int], now: float) -> dict[int, int]:
        """The part of `frontier` that every live replica is known to have: no need to keep its
        frames.
        """
        upto = dict(frontier)
        for peer in self._peers.values():
            if peer.holds is not None and shard not in peer.holds:
                continue  # it will never want them
            if peer.connected or now - peer.seen_at < LIVE_FOR_S:
                known = peer.known.get(shard, {})
                upto = {one: min(seq, known.get(one, 0)) for one, seq in upto.items()}
        return {one: seq for one, seq in upto.items() if seq}

    def _forget(self) -> None:
        while len(self._peers) > MAX_PEERS:
            gone = [peer for peer in self._peers.values() if not peer.connected]
            if not gone:
                return
            del self._peers[min(gone, key=lambda peer: (peer.seen_at, peer.name)).name]


def _lacking(peer: Peer, journaled: Mapping[int, Mapping[int, int]]) -> int:
    return sum(
        count_missing(peer.known.get(shard, {}), frontier)
        for shard, frontier in journaled.items()
        if peer.holds is None or shard in peer.holds
    )
