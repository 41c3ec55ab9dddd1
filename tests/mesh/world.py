"""A small mesh in one process, for tests: the real Replica over a network in memory that can be
cut.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from crdt import Counter, Document, Feed, Flag, Map, Register, Set, Text
from mesh import Replica, Settings
from mesh.environment import Bus, Coordinator, Environment
from mesh.instrumentation import EVENTS, CountingProbe
from mesh.links import LinkTimes
from mesh.transports.memory import MemoryNetwork, MemoryTransport
from persistence.base import CheckpointStore, EventLog, Journal
from persistence.identity import Identity, found_mesh
from persistence.memory import MemoryJournal
from persistence.sqlite import open_journal

PATIENCE_S = 20.0


class Task(Document):
    """The document type of these tests."""

    title: Register[str]
    done: Flag
    effort: Counter
    labels: Set[str]
    findings: Map[str, Register[dict[str, Any]]]
    log: Feed[str]
    notes: Text


class Note(Document):
    """Another type."""

    text: Register[str]


class HostClock:
    """This host's clocks."""

    def monotonic(self) -> float:
        return time.monotonic()

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000


class SeededEntropy:
    """All of a test's randomness from one seed."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._tokens = random.Random(seed)

    def token(self, size: int) -> bytes:
        return self._tokens.randbytes(size)

    def stream(self, name: str) -> random.Random:
        return random.Random(f"{self._seed} {name}")


class StrictProbe(CountingProbe):
    """Counts, and refuses kinds that `EVENTS` does not explain."""

    def event(self, kind: str, **fields: object) -> None:
        assert kind in EVENTS, f"event {kind!r} is not in EVENTS"
        super().event(kind, **fields)


class Addresses:
    """A discovery whose list a test changes."""

    def __init__(self, *addresses: str) -> None:
        self.list = list(addresses)

    def addresses(self) -> list[str]:
        return list(self.list)


async def eventually(
    condition: Callable[[], bool], what: str = "", within: float = PATIENCE_S
) -> None:
    """Return once the condition holds; fail the test if it does not in time."""
    for _ in range(int(within / 0.005)):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError(f"not within {within} s: {what or condition}")


class World:
    """A mesh with a network, and replicas that can be started, cut off, and lose their folders."""

    def __init__(self, folder: Path | None = None, seed: int = 1, shards: int = 4) -> None:
        self.folder = folder
        self.network = MemoryNetwork()
        self.entropy = SeededEntropy(seed)
        self.clock = HostClock()
        self.authority = found_mesh("test", shards, self.clock, self.entropy)
        self.identities: dict[str, Identity] = {}
        self.journals: dict[str, Journal] = {}
        self.probes: dict[str, StrictProbe] = {}
        self.discoveries: dict[str, Addresses] = {}
        self.transports: dict[str, MemoryTransport] = {}

    def identity(self, name: str) -> Identity:
        """Who a replica is; issued the first time."""
        if name not in self.identities:
            self.identities[name] = self.authority.issue(name, self.clock, self.entropy)
        return self.identities[name]

    def journal(self, name: str) -> Journal:
        """The replica's journal: in memory, or SQLite if the world has a folder."""
        if name not in self.journals:
            if self.folder is None:
                self.journals[name] = MemoryJournal()
            else:
                self.journals[name] = open_journal(self.folder / name, self.authority.mesh)
        return self.journals[name]

    def replica(
        self,
        name: str,
        *seeds: str,
        coordinator: Coordinator | None = None,
        bus: Bus | None = None,
        log: EventLog | None = None,
        checkpoints: CheckpointStore | None = None,
        times: LinkTimes | None = None,
        **overrides: Any,
    ) -> Replica:
        """A replica, not started. It dials `seeds`, and uses the services given."""
        values = {
            "replica__anti_entropy_interval_s": 0.05,
            "replica__flush_interval_ms": 1,
            "replica__close_timeout_s": 0.5,
            "peers__redial_min_s": 0.01,
            "peers__redial_max_s": 0.05,
            "kafka__poll_s": 0.05,
            "postgres__checkpoint_interval_s": 0.05,
        } | overrides
        self.probes[name] = StrictProbe()
        self.discoveries[name] = Addresses(*seeds)
        self.transports[name] = self.network.transport(name)
        environment = Environment(
            self.clock, self.entropy, self.probes[name], self.journal(name),
            self.transports[name], self.discoveries[name], coordinator, bus, log, checkpoints,
        )  # fmt: skip
        return Replica(Settings().override(**values), environment, self.identity(name), times=times)

    def isolate(self, name: str) -> None:
        """Cut a replica off from all others."""
        for other in self.identities:
            if other != name:
                self.network.cut(name, other)

    async def forget(self, name: str) -> None:
        """The replica's folder is lost."""
        await self.journals.pop(name).close()
        if self.folder is not None:
            for file in sorted((self.folder / name).iterdir()):
                file.unlink()

    async def reopen(self, name: str) -> None:
        """The journal is closed and opened again, as by another process."""
        if self.folder is not None:
            await self.journals.pop(name).close()

    async def close(self) -> None:
        """Close all journals."""
        for journal in self.journals.values():
            await journal.close()


@asynccontextmanager
async def running(*replicas: Replica) -> AsyncIterator[None]:
    """Start the replicas, close them all at the end."""
    started: list[Replica] = []
    try:
        for replica in replicas:
            await replica.start()
            started.append(replica)
        yield
    finally:
        await asyncio.gather(*(replica.close() for replica in started))


async def crash(replica: Replica) -> None:
    """End a replica as a killed process ends: nothing is handed over, nothing more is written."""
    assert replica._runner is not None
    replica._runner.cancel()
    await asyncio.wait([replica._runner])


async def write(replica: Replica, *texts: object, document: str = "1") -> None:
    """One frame for each text, on disk."""
    for text in texts:
        with replica.edit(Note, document) as note:
            note.text = str(text)
        await replica.flush()


def same(*replicas: Replica) -> bool:
    """Whether all have applied the same operations."""
    first = replicas[0]
    return all(replica.frontier() == first.frontier() for replica in replicas[1:])


async def converged(*replicas: Replica) -> None:
    """Wait until all have the same operations; then their states must be equal too."""
    await eventually(lambda: same(*replicas), "frontiers are equal")
    digests = [replica.digest() for replica in replicas]
    assert all(digest == digests[0] for digest in digests), digests
