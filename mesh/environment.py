"""Everything a replica may ask of the outside world, bundled. See `persistence.base` for the first
ports.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from crdt.errors import CallerError, PeerError, ServiceError
from persistence.base import CheckpointStore, Clock, Entropy, EventLog, Journal, Probe


class LinkClosed(ServiceError):
    """The link to a peer ended. What was sent may or may not have arrived."""


class PeerRefused(PeerError):
    """A peer could not prove that it belongs to this mesh, or speaks no common wire version."""


class CoordinatorUnavailable(ServiceError):
    """The coordinator is out of reach or not configured; commutative writes go on without it.

    The transition may or may not have happened: fire it again with the same request id to learn
    which.
    """


class UnknownMachine(CallerError):
    """No such machine definition, or no machine of this id has been started."""


class InvalidTransition(CallerError):
    """The machine's table has no such transition from its present state, or a guard refused it."""


class Link(Protocol):
    """An authenticated, ordered, reliable message pipe to one peer, until it breaks.

    Guarantees: both ends proved membership of the mesh before the link was handed out; messages
    arrive whole, in order, unmodified, at most once. Not guaranteed: that a sent message arrived.
    """

    @property
    def peer(self) -> str:
        """The replica name the peer's certificate proves."""

    @property
    def initiated(self) -> bool:
        """True where this side dialled."""

    @property
    def address(self) -> str:
        """`host:port` of the other end, for people."""

    @property
    def certificate(self) -> bytes:
        """The replica's certificate (DER) that the peer has shown; b"" where none is shown."""

    @property
    def received_bytes(self) -> int:
        """How much `receive` has read so far, an unfinished message included; it never shrinks.

        It grows while a large message is on its way, as far as the transport sees it come.
        """

    async def send(self, message: bytes) -> None:
        """Hand over one message; waits while the peer is slow. Raises LinkClosed."""

    async def receive(self) -> bytes:
        """The next message. Raises LinkClosed when there will be none."""

    async def close(self) -> None:
        """End the link. Idempotent, never raises."""


class Transport(Protocol):
    """Makes links. Holds no protocol logic: who dials whom, and when again, is decided above."""

    async def listen(self, accept: Callable[[Link], Awaitable[None]]) -> str:
        """Start accepting; returns the address others can dial. CallerError: it is in use."""

    async def dial(self, address: str) -> Link:
        """Raises ServiceError (nobody there) or PeerRefused (not of our mesh)."""

    async def close(self) -> None:
        """Stop listening and close every link. Idempotent."""


class Discovery(Protocol):
    """Where peers might be. A hint only: the handshake decides who they are."""

    def addresses(self) -> list[str]:
        """Addresses worth dialling now, in a fixed order."""


@runtime_checkable
class LearningDiscovery(Discovery, Protocol):
    """A discovery that can be told what others found."""

    def learn(self, addresses: Sequence[str], for_s: float) -> None:
        """These are worth a try for so many seconds; what was learnt before no longer is."""


@dataclass(frozen=True, slots=True)
class BusEntry:
    """Something read from a shard's stream. `position` is opaque: read on after it."""

    shard: int
    position: str
    data: bytes


@dataclass(frozen=True, slots=True)
class BusBatch:
    """What one `Bus.read` brought.

    `generation` names the data the server holds. Another one than before: it was flushed, restored,
    failed over or restarted, and nothing that was published before need be there any more.
    `trimmed`: shards some of whose entries after the position asked for were removed unread.
    """

    generation: str
    entries: Sequence[BusEntry]
    trimmed: Sequence[int] = ()


ANNOUNCED_MAX = 10_000
"""Names that the registry of a bus keeps."""


class Bus(Protocol):
    """Fast fan-out of frames: a bounded stream for every shard, all replicas read all of them.

    Guarantees: entries of a shard are read in one order by everybody, bit for bit. Never the only
    home of data: entries may vanish, all at once (another `generation`) or the oldest (`trimmed`);
    either is told, none is passed over silently. Every call may raise
    `persistence.base.ServiceUnavailable`.
    """

    async def publish(self, frames: Sequence[tuple[int, bytes]]) -> str:
        """Append (shard, frame) to the streams, in order; the generation they are in.

        Returns once the server has all of them. Raises ServiceUnavailable: any part may be there;
        offer all of them again.
        """

    async def read(self, after: Mapping[int, str], *, limit: int, wait_s: float) -> BusBatch:
        """Up to about `limit` entries a shard after the given positions ("": from the oldest kept).

        One call over all shards named; waits at most `wait_s` seconds for the first entry.
        """

    async def trim(self, below: Mapping[int, Sequence[str]], *, generation: str) -> None:
        """Remove entries of each shard that lie before all positions given, as far as that is
        cheap. Only memory is at stake: nothing happens in another generation.
        """

    async def announce(self, name: str, row: bytes, *, ttl_s: float) -> None:
        """Leave a row under this name, instead of the one before, for so many seconds; an empty
        one takes it away. At most `ANNOUNCED_MAX` names are kept: what would expire first goes.
        """

    async def announced(self, prefix: str) -> dict[str, bytes]:
        """{name: row} of those that have not expired and whose names start so, by name. Whoever can
        reach the server can write any.
        """

    async def version(self) -> str:
        """What server this is, for people. Asks it: ServiceUnavailable if it does not answer."""

    async def close(self) -> None:
        """Release connections. Idempotent, never raises."""


@dataclass(frozen=True, slots=True)
class Transition:
    """What a machine decided. `epoch` grows by one with every decision of that machine."""

    machine: str
    id: str
    event: str
    source: str
    target: str
    epoch: int
    owner: str
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PartHealth:
    """Health of one part: `state` is ok, degraded, down or off; `since` is Unix milliseconds."""

    state: str
    since: int
    reason: str = ""
    cure: str = ""


class Coordinator(Protocol):
    """Decides what does not commute. Every call may raise CoordinatorUnavailable.

    Guarantees: transitions of one machine are totally ordered; each has its own epoch; the same
    `request` id is decided or refused once and answered alike, whenever copies of it come, unless
    many others came between. To try again what was refused, fire it under a new id. Raises
    UnknownMachine, InvalidTransition.
    """

    async def fire(
        self,
        machine: str,
        id: str,
        event: str,
        *,
        actor: str,
        request: str,
        data: Mapping[str, Any] | None = None,
    ) -> Transition:
        """Fire an event at machine `id` of definition `machine`, starting it if it does not exist
        yet.
        """

    async def state(self, machine: str, id: str) -> Transition:
        """The last decision of a machine. Raises UnknownMachine if it was never started."""

    def health(self) -> PartHealth:
        """Whether the coordinator answered when last asked."""

    async def close(self) -> None:
        """Idempotent."""


@dataclass(frozen=True, slots=True)
class Environment:
    """One door to the world: everything below `mesh.compose` gets its ports from here."""

    clock: Clock
    entropy: Entropy
    probe: Probe
    journal: Journal
    transport: Transport
    discovery: Discovery
    coordinator: Coordinator | None = None
    bus: Bus | None = None
    log: EventLog | None = None
    checkpoints: CheckpointStore | None = None
