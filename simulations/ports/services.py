"""Simulated shared services: bus, event log and checkpoint store, each with faults of its own.

    services = Services(network, rng, clock, shards, ("bus", "log"))
    bus = services.bus("replica-1")      # None where the world has none

What they hold and do is the memory implementations' own; here is what lies between a host and them:
a way, which takes its time, can be cut, and can lose an answer after the work was done. A call over
a way that is cut fails at once or after a wait, as real clients do.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol, TypeVar

from mesh.environment import Bus, BusBatch
from mesh.services import registry
from mesh.transports.memory_bus import MemoryBusServer
from persistence.base import (
    CheckpointInfo,
    CheckpointStore,
    Clock,
    EventLog,
    Lease,
    LogFrame,
    LogRecord,
    Probe,
    ServiceUnavailable,
)
from persistence.memory_checkpoints import MemoryCheckpointServer
from persistence.memory_log import MemoryLogServer
from simulations.ports.coordination import SimCoordinator, TemporalServer
from simulations.ports.network import Network

__all__ = (
    "BUS",
    "CHECKPOINTS",
    "LOG",
    "SERVICES",
    "TEMPORAL",
    "Services",
    "SimBus",
    "SimCheckpoints",
    "SimLog",
    "Way",
    "short_streams",
)

T = TypeVar("T")
BUS, LOG, CHECKPOINTS, TEMPORAL = SERVICES = ("bus", "log", "checkpoints", "temporal")
"""All services there may be; also what their hosts are called in the network."""
STREAM_ENTRIES = 200
"""Entries that a stream of the bus keeps: so few that slow readers meet the bound."""
KEPT, TRIM_S = 8, 2.0
"""What `mesh.services.registry` calls so, for as long as a world runs."""
TIMEOUT_S = 5.0
"""How long a client waits for an answer that never comes."""


@contextmanager
def short_streams() -> Iterator[None]:
    """Streams of half a minute are trimmed as those of days are."""
    real = registry.KEPT, registry.TRIM_S
    registry.KEPT, registry.TRIM_S = KEPT, TRIM_S
    try:
        yield
    finally:
        registry.KEPT, registry.TRIM_S = real


class Way:
    """From one host to one service, and back."""

    def __init__(self, network: Network, rng: random.Random, host: str, service: str) -> None:
        self._network = network
        self._rng = rng
        self._host = host
        self._service = service

    async def call(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask the service. Raises ServiceUnavailable; where it was the answer that got lost, what
        was asked for is done.
        """
        await self._travel(self._host, self._service)
        answer = await ask()
        await self._travel(self._service, self._host)
        return answer

    async def _travel(self, source: str, target: str) -> None:
        await self._network.travel(1)
        if self._network.is_cut(source, target):
            # Some networks say so, others say nothing.
            await asyncio.sleep(0 if self._rng.random() < 0.3 else TIMEOUT_S)
            raise ServiceUnavailable(f"no way from {source} to {target}", "mend the network")


class _BusServer(MemoryBusServer):
    """Tells of every entry that it takes, and of those that a replica has it drop."""

    def __init__(self, services: Services) -> None:
        super().__init__(STREAM_ENTRIES)
        self._services = services

    def append(self, frames: Sequence[tuple[int, bytes]]) -> str:
        """See `MemoryBusServer.append`."""
        generation = super().append(frames)
        for shard, data in frames:
            for told in self._services.on_publish:
                told(generation, shard, data)
        return generation

    def cut(self, below: Mapping[int, Sequence[str]], generation: str) -> None:
        """See `MemoryBusServer.cut`."""
        before = self.batch(dict.fromkeys(below, ""), STREAM_ENTRIES).entries
        super().cut(below, generation)
        kept = {
            (e.shard, e.position)
            for e in self.batch(dict.fromkeys(below, ""), STREAM_ENTRIES).entries
        }
        for entry in before:
            if (entry.shard, entry.position) not in kept:
                for told in self._services.on_trim:
                    told(entry.shard, entry.data)


class _LogServer(MemoryLogServer):
    """Tells before it removes or loses records."""

    def __init__(self, services: Services, shards: int) -> None:
        super().__init__(shards)
        self._services = services

    def retain(self, shard: int, first_offset: int) -> None:
        """See `MemoryLogServer.retain`."""
        self._tell(shard, self._next[shard])
        super().retain(shard, first_offset)

    def truncate(self, shard: int, end: int) -> None:
        """See `MemoryLogServer.truncate`."""
        self._tell(shard, end)
        super().truncate(shard, end)

    def _tell(self, shard: int, end: int) -> None:
        for told in self._services.on_log_cut:
            told(shard, end)


class SimBus:
    """`mesh.environment.Bus` as one run of a replica sees it."""

    def __init__(self, services: Services, bus: Bus, way: Way) -> None:
        self._services = services
        self._bus = bus
        self._way = way

    def __repr__(self) -> str:
        return f"SimBus({self._bus!r})"

    async def publish(self, frames: Sequence[tuple[int, bytes]]) -> str:
        """See `Bus.publish`."""

        async def ask() -> str:
            self._check_room()
            return await self._bus.publish(frames)

        return await self._way.call(ask)

    async def read(self, after: Mapping[int, str], *, limit: int, wait_s: float) -> BusBatch:
        """See `Bus.read`."""
        return await self._way.call(lambda: self._bus.read(after, limit=limit, wait_s=wait_s))

    async def trim(self, below: Mapping[int, Sequence[str]], *, generation: str) -> None:
        """See `Bus.trim`."""
        await self._way.call(lambda: self._bus.trim(below, generation=generation))

    async def announce(self, name: str, row: bytes, *, ttl_s: float) -> None:
        """See `Bus.announce`."""

        async def ask() -> None:
            self._check_room()
            await self._bus.announce(name, row, ttl_s=ttl_s)

        await self._way.call(ask)

    async def announced(self, prefix: str) -> dict[str, bytes]:
        """See `Bus.announced`."""
        return await self._way.call(lambda: self._bus.announced(prefix))

    async def version(self) -> str:
        """See `Bus.version`."""
        return await self._way.call(self._bus.version)

    async def close(self) -> None:
        """See `Bus.close`."""
        await self._bus.close()

    def _check_room(self) -> None:
        if self._services.bus_full:
            raise ServiceUnavailable("the bus is out of memory", "allow more, or trim")


class SimLog:
    """`persistence.base.EventLog` as one run of a replica sees it."""

    def __init__(self, log: EventLog, way: Way) -> None:
        self._log = log
        self._way = way

    def __repr__(self) -> str:
        return f"SimLog({self._log!r})"

    async def append(self, frames: Sequence[LogFrame]) -> None:
        """See `EventLog.append`."""
        await self._way.call(lambda: self._log.append(frames))

    async def read(
        self, offsets: Mapping[int, int], *, limit: int, wait_s: float
    ) -> list[LogRecord]:
        """See `EventLog.read`."""
        return await self._way.call(lambda: self._log.read(offsets, limit=limit, wait_s=wait_s))

    async def bounds(self) -> dict[int, tuple[int, int]]:
        """See `EventLog.bounds`."""
        return await self._way.call(self._log.bounds)

    async def version(self) -> str:
        """See `EventLog.version`."""
        return await self._way.call(self._log.version)

    async def close(self) -> None:
        """See `EventLog.close`."""
        await self._log.close()


class SimCheckpoints:
    """`persistence.base.CheckpointStore` as one run of a replica sees it."""

    def __init__(self, store: CheckpointStore, way: Way) -> None:
        self._store = store
        self._way = way

    def __repr__(self) -> str:
        return f"SimCheckpoints({self._store!r})"

    async def acquire(self, shard: int, holder: str, ttl_s: float) -> Lease | None:
        """See `CheckpointStore.acquire`."""
        return await self._way.call(lambda: self._store.acquire(shard, holder, ttl_s))

    async def release(self, lease: Lease) -> None:
        """See `CheckpointStore.release`."""
        await self._way.call(lambda: self._store.release(lease))

    async def write(
        self,
        lease: Lease,
        *,
        frontier: Mapping[int, int],
        log_offset: int,
        digest: bytes,
        data: bytes,
    ) -> int:
        """See `CheckpointStore.write`."""
        return await self._way.call(
            lambda: self._store.write(
                lease, frontier=frontier, log_offset=log_offset, digest=digest, data=data
            )
        )

    async def load(self, id: int) -> bytes | None:
        """See `CheckpointStore.load`."""
        return await self._way.call(lambda: self._store.load(id))

    async def verified(self, lease: Lease, id: int) -> int:
        """See `CheckpointStore.verified`."""
        return await self._way.call(lambda: self._store.verified(lease, id))

    async def discard(self, lease: Lease, id: int) -> None:
        """See `CheckpointStore.discard`."""
        await self._way.call(lambda: self._store.discard(lease, id))

    async def newest(self) -> dict[int, CheckpointInfo]:
        """See `CheckpointStore.newest`."""
        return await self._way.call(self._store.newest)

    async def version(self) -> str:
        """See `CheckpointStore.version`."""
        return await self._way.call(self._store.version)

    async def close(self) -> None:
        """See `CheckpointStore.close`."""
        await self._store.close()


class _Stops(Protocol):
    """A server that a fault can take away."""

    def stop(self) -> None: ...
    def start(self) -> None: ...


class Services:
    """The servers of a world, those of the `names` it has; what goes wrong with them is done to
    these servers themselves.
    """

    def __init__(
        self,
        network: Network,
        rng: random.Random,
        clock: Clock,
        shards: int,
        names: Sequence[str] = SERVICES,
    ) -> None:
        self.network = network
        self._rng = rng
        self.names = tuple(names)
        self.shards = shards
        self.on_publish: list[Callable[[str, int, bytes], None]] = []
        """Told (generation, shard, frame) of what the bus took."""
        self.on_trim: list[Callable[[int, bytes], None]] = []
        """Told (shard, frame) of what a replica had the bus drop."""
        self.on_log_cut: list[Callable[[int, int], None]] = []
        """Told (shard, offset) just before the log removes old records, and loses those from this
        offset on."""
        self.bus_server = _BusServer(self)
        self.log_server: MemoryLogServer = _LogServer(self, shards)
        self.checkpoint_server = MemoryCheckpointServer(clock)
        self.temporal_server = TemporalServer(rng)
        self.bus_full = False
        """Whether the bus takes nothing more."""

    def __repr__(self) -> str:
        return f"<Services {', '.join(self.names) or 'none'}>"

    def bus(self, host: str) -> SimBus | None:
        """A client for one run of the replica of this host."""
        if BUS not in self.names:
            return None
        return SimBus(self, self.bus_server.bus(), self._way(host, BUS))

    def log(self, host: str) -> SimLog | None:
        """See `bus`."""
        return SimLog(self.log_server.log(), self._way(host, LOG)) if LOG in self.names else None

    def checkpoints(self, host: str) -> SimCheckpoints | None:
        """See `bus`."""
        if CHECKPOINTS not in self.names:
            return None
        return SimCheckpoints(self.checkpoint_server.store(), self._way(host, CHECKPOINTS))

    def coordinator(
        self, host: str, clock: Clock, probe: Probe, timeout_s: float
    ) -> SimCoordinator | None:
        """See `bus`. It waits so many seconds for an answer."""
        if TEMPORAL not in self.names:
            return None
        way = self._way(host, TEMPORAL)
        return SimCoordinator(self.temporal_server, way, clock, probe, timeout_s)

    def server(self, name: str) -> _Stops:
        """The server of this service."""
        servers: Mapping[str, _Stops] = {
            BUS: self.bus_server,
            LOG: self.log_server,
            CHECKPOINTS: self.checkpoint_server,
            TEMPORAL: self.temporal_server,
        }
        return servers[name]

    def checkpoint(self, shard: int) -> tuple[CheckpointInfo, bytes] | None:
        """A shard's newest checkpoint that counts, whether the store answers or not."""
        server = self.checkpoint_server
        counting = [info for info in server.checkpoints(shard) if info.verified]
        if not counting:
            return None
        newest = max(counting, key=lambda info: (info.fence, info.id))
        data = server._load(newest.id)
        assert data is not None
        return newest, data

    def heal(self) -> None:
        """All are up, and well."""
        self.bus_full = False
        for name in SERVICES:
            self.server(name).start()
        for server in (self.log_server, self.checkpoint_server, self.temporal_server):
            server.slow(0.0)
        self.temporal_server.repeats = 0.0
        self.log_server.duplicate(1)

    def _way(self, host: str, service: str) -> Way:
        return Way(self.network, self._rng, host, service)
