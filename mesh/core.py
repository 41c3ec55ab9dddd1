"""What all parts of a running replica share: identity, session, shards, trust, and who wants to
know.

Rules of this file: no protocol and no tasks; it is the table the others sit around.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from crdt.clock import HybridClock
from crdt.errors import CodecError
from crdt.frontier import flat, from_flat
from crdt.ids import week_of
from crdt.structure import pack, unpack
from mesh.clones import Clones
from mesh.durability import Acknowledgements, Waiters
from mesh.environment import Environment
from mesh.forks import Forks
from mesh.health import JOURNAL, PEERS, Health
from mesh.peers import PeerBook
from mesh.roll import Roll
from mesh.settings import Settings
from mesh.shards import ShardHost
from mesh.subscription import Subscription
from mesh.watch import Watchers
from persistence.certificates import SessionKey
from persistence.frame import CLOSE_EXTENSION, Header
from persistence.identity import Identity
from persistence.journal import Names, known_names
from persistence.limits import MAX_FRAME_BYTES
from persistence.sealing import Opener, Sealer

CLOSED_META = "sessions.closed"


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
        subscription: Subscription | None = None,
        names: Names | None = None,
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
        self.roll = Roll(identity, environment.clock.wall_ms)
        self.clock = HybridClock(environment.clock.wall_ms, settings.replica.clock_drift_ms)
        self.hosts = hosts
        self.book = PeerBook()
        self.acknowledgements = Acknowledgements()
        self.waiters = Waiters()
        self.subscription = subscription or Subscription((), len(hosts))
        self.held_by: dict[str, frozenset[int]] = {}
        """{replica: the shards it holds}, of linked ones that don't hold all."""
        self.closed: dict[int, dict[int, int]] = {}
        """{session: {shard: last seq}} of sessions that ended in order and said so."""
        self.watchers = Watchers(settings.replica.watch_events_max, self.subscription.wants)
        self.now = environment.clock.monotonic
        """Seconds, for intervals."""
        self.health = Health(environment.clock, environment.probe)
        self.clones = Clones(self.name, self.health, self.probe)
        names = known_names() if names is None else names
        self.forks = Forks(names, self.trust, self.roll, self.health, self.probe)
        self._blocks: dict[str, str] = {}
        self.blocked = ""
        """Why edits are refused for a while; empty: they are not."""
        self.refused: dict[str, int] = {}
        self.sources: dict[str, int] = {}

    def refuse(self, kind: str, reason: str, **fields: object) -> None:
        """Something from a peer was refused; nothing changed. Counted by reason."""
        key = f"{kind}:{reason}"
        if key in self.refused or len(self.refused) < 256:
            self.refused[key] = self.refused.get(key, 0) + 1
        self.probe.event(kind, reason=reason, **fields)

    def turn_away(self, who: str, why: str) -> None:
        """A link was refused, or ended because it may not be; counted by peer and reason."""
        count = self.roll.refusals.add(who, why)
        self.refuse("link.refused", why, peer=who, count=count)

    def brought(self, source: str, operations: int) -> None:
        """So many operations came from a service (`source_of`), or from a peer of this name."""
        kind = source.removeprefix("@") if source.startswith("@") else PEERS
        self.sources[kind] = self.sources.get(kind, 0) + operations

    def block(self, part: str, reason: str = "", cure: str = "") -> None:
        """Refuse edits for what this part can't take; without a reason, no more for this part."""
        self._blocks.pop(part, None)
        if reason:
            self._blocks[part] = f"{reason}; {cure}"
        self.blocked = "; ".join(self._blocks.values())
        self.health.remark(JOURNAL, f"owed to {part}", reason, cure)
        self.waiters.progress()

    @property
    def held(self) -> list[ShardHost]:
        """The shards that are replicated here."""
        return [host for host in self.hosts if self.subscription.holds(host.index)]

    def holds(self, replica: str, shards: Iterable[int]) -> bool:
        """Whether another replica holds all of these shards, as far as it said."""
        held = self.held_by.get(replica)
        return held is None or held.issuperset(shards)

    def note_close(self, header: Header) -> None:
        """A verified frame: it may be the last of its session."""
        if CLOSE_EXTENSION in header.extensions:
            shards = self.closed.setdefault(header.session, {})
            if header.shard not in shards:
                shards[header.shard] = header.last
                self.probe.event(
                    "session.closed", session=header.session, shard=header.shard, seq=header.last
                )

    def closed_meta(self) -> bytes:
        """`closed`, for the journal: the frames that said so may be forgotten."""
        return pack([[session, flat(shards)] for session, shards in sorted(self.closed.items())])

    def settled(self, shard: int, session: int, last: int) -> bool:
        """Whether these operations are on disk here, so old that nobody keeps them, or of a shard
        that is not held.
        """
        host = self.hosts[shard]
        if not self.subscription.holds(shard):
            return True
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


def read_closed(data: bytes) -> dict[int, dict[int, int]]:
    """What `Core.closed_meta` made; nothing where it is unreadable: it is only good for knowing."""
    try:
        return {int(session): from_flat(shards) for session, shards in unpack(data)}
    except (CodecError, TypeError, ValueError):
        return {}


def inbox_bounds(settings: Settings, shards: int) -> tuple[int, int]:
    """Frames and bytes that may wait in one shard's inbox: its part of the replica's bounds."""
    replica = settings.replica
    frames = max(64, replica.inbox_frames_max // shards)
    return frames, max(MAX_FRAME_BYTES, replica.inbox_bytes_max // shards)


def source_of(part: str) -> str:
    """What a service is called as the source of frames: like no replica may be named."""
    return f"@{part}"
