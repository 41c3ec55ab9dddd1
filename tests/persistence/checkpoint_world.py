"""Replicas as the checkpointer sees them, over one checkpoint server in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from crdt.snapshot import decode_snapshot
from persistence.checkpointer import Capture, Checkpointer
from persistence.memory_checkpoints import MemoryCheckpointServer
from tests.persistence.world import NOW, Writer, make_mesh, make_writer

LEASE_S = 30.0


class HandClock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.seconds = 1_000.0

    def monotonic(self) -> float:
        return self.seconds

    def wall_ms(self) -> int:
        return NOW + int(self.seconds * 1000)


class Events:
    """What was told, in order."""

    def __init__(self) -> None:
        self.told: list[tuple[str, dict[str, object]]] = []
        self.paths: list[str] = []

    def event(self, kind: str, **fields: object) -> None:
        self.told.append((kind, fields))

    def sometimes(self, name: str) -> None:
        self.paths.append(name)

    def of(self, kind: str) -> list[dict[str, object]]:
        return [fields for each, fields in self.told if each == kind]


class Node:
    """A replica as the checkpointer sees it: a writer's state, all of it on disk."""

    def __init__(self, world: World, name: str, seed: int) -> None:
        self.name = name
        self.writer: Writer = make_writer(world.authority, name, seed)
        self.store = world.server.store()
        self.events = Events()
        self.log_offset = 0
        self.captured: list[int] = []
        self.capture: Callable[[int], Awaitable[Capture]] = self._capture
        self.floors: dict[int, int] = {}
        self.checkpointer = self.restart(world)

    def restart(self, world: World) -> Checkpointer:
        """A new checkpointer, as after a crash: it remembers nothing."""
        self.checkpointer = Checkpointer(
            self.store,
            world.authority.mesh,
            self.name,
            lease_s=LEASE_S,
            probe=self.events,
            capture=lambda shard: self.capture(shard),  # noqa: PLW0108 - tests replace it
            frontier=lambda shard: self.writer.shards[shard].frontier,
            floor=lambda shard: self.floors.get(shard, 0),
        )
        return self.checkpointer

    def write(self, shard: int, value: object) -> None:
        self.writer.write((shard, f"Task/{shard}", value))

    def sealed(self, shard: int) -> bytes:
        return self.writer.snapshot(shard, 0).data

    async def round(self) -> Mapping[int, object]:
        return await self.checkpointer.round()

    async def _capture(self, shard: int) -> Capture:
        await asyncio.sleep(0)
        self.captured.append(shard)
        return Capture(self.sealed(shard), self.log_offset)


class World:
    """One mesh, one checkpoint server, and replicas that share both."""

    def __init__(self) -> None:
        self.authority = make_mesh()
        self.clock = HandClock()
        self.server = MemoryCheckpointServer(self.clock)

    def node(self, name: str = "a", seed: int = 2) -> Node:
        return Node(self, name, seed)

    def ids(self, shard: int = 0) -> list[tuple[int, bool]]:
        return [(info.id, info.verified) for info in self.server.checkpoints(shard)]


def share(source: Node, target: Node, shard: int, value: object) -> None:
    """One writes something, and the other has it too."""
    for record in source.writer.write((shard, f"Task/{shard}", value)):
        target.writer.receive(record)


def catch_up(target: Node, source: Node, shard: int) -> None:
    """One joins the other's snapshot."""
    opened = target.writer.opener.open_snapshot(source.sealed(shard))
    target.writer.shards[shard].join(decode_snapshot(opened.body))
