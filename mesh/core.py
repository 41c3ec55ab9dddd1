"""What all parts of a running replica share: identity, session, shards, trust, and who wants to
know.

Rules of this file: no protocol and no tasks; it is the table the others sit around.
"""

from __future__ import annotations

from collections.abc import Mapping

from crdt.clock import HybridClock
from crdt.ids import week_of
from mesh.durability import Acknowledgements, Waiters
from mesh.environment import Environment
from mesh.health import PEERS, Health
from mesh.peers import PeerBook
from mesh.settings import Settings
from mesh.shards import ShardHost
from mesh.watch import Watchers
from persistence.certificates import SessionKey
from persistence.identity import Identity
from persistence.limits import MAX_FRAME_BYTES
from persistence.sealing import Opener, Sealer


class Core:
    """The state of one session of one replica. Built by `mesh.recovery`, owned by the Replica."""

    def __init__(
        self,
        settings: Settings,
        environment: Environment,
        identity: Identity,
        key: SessionKey,
        opener: Opener,
        hosts: list[ShardHost],
    ) -> None:
        self.settings = settings
        self.environment = environment
        self.identity = identity
        self.name = identity.replica
        self.session = key.session
        self.certificate = key.certificate
        self.probe = environment.probe
        self.opener = opener
        self.trust = opener.trust
        self.sealer = Sealer(identity, key)
        self.clock = HybridClock(environment.clock.wall_ms, settings.replica.clock_drift_ms)
        self.hosts = hosts
        self.book = PeerBook()
        self.acknowledgements = Acknowledgements()
        self.waiters = Waiters()
        self.watchers = Watchers(settings.replica.watch_events_max)
        self.health = Health(environment.clock, environment.probe)
        self.refused: dict[str, int] = {}
        self.sources: dict[str, int] = {}

    def now(self) -> float:
        """Seconds, for intervals."""
        return self.environment.clock.monotonic()

    def refuse(self, kind: str, reason: str, **fields: object) -> None:
        """Something from a peer was refused; nothing changed. Counted by reason."""
        key = f"{kind}:{reason}"
        if key in self.refused or len(self.refused) < 256:
            self.refused[key] = self.refused.get(key, 0) + 1
        self.probe.event(kind, reason=reason, **fields)

    def brought(self, source: str, operations: int) -> None:
        """So many operations came from a service (`source_of`), or from a peer of this name."""
        kind = source.removeprefix("@") if source.startswith("@") else PEERS
        self.sources[kind] = self.sources.get(kind, 0) + operations

    def settled(self, shard: int, session: int, last: int) -> bool:
        """Whether these operations are on disk here, or so old that nobody keeps them."""
        host = self.hosts[shard]
        known = host.journaled.get(session, 0) >= last
        return known or week_of(session) < host.lattice.floor

    def written(self) -> dict[int, int]:
        """{shard: last seq} of everything this session wrote so far."""
        return {host.index: host.outbox.written for host in self.hosts if host.outbox.written}

    def on_disk(self, written: Mapping[int, int]) -> bool:
        """Whether that much of this session is on disk here."""
        return all(
            self.hosts[shard].journaled.get(self.session, 0) >= seq
            for shard, seq in written.items()
        )

    def journaled(self) -> Mapping[int, Mapping[int, int]]:
        """Per shard, what is on disk here."""
        return {host.index: host.journaled for host in self.hosts}


def inbox_bounds(settings: Settings, shards: int) -> tuple[int, int]:
    """Frames and bytes that may wait in one shard's inbox: its part of the replica's bounds."""
    replica = settings.replica
    frames = max(64, replica.inbox_frames_max // shards)
    return frames, max(MAX_FRAME_BYTES, replica.inbox_bytes_max // shards)


def source_of(part: str) -> str:
    """What a service is called as the source of frames: like no replica may be named."""
    return f"@{part}"
