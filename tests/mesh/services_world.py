"""Services that note what they were asked for, and what tests look at beside replicas."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence

from mesh import Replica
from mesh.environment import BusBatch
from mesh.transports.memory_bus import MemoryBus, MemoryBusServer
from persistence.base import FrameRecord, LogFrame, LogRecord
from persistence.memory import MemoryJournal
from persistence.memory_log import MemoryLog, MemoryLogServer
from tests.mesh.world import World, crash, running, write


class CountingBus(MemoryBus):
    """Notes what was asked for and how much came."""

    def __init__(self, server: MemoryBusServer) -> None:
        super().__init__(server)
        self.asked: list[dict[int, str]] = []
        self.read_entries = 0

    async def read(self, after: Mapping[int, str], *, limit: int, wait_s: float) -> BusBatch:
        self.asked.append(dict(after))
        batch = await super().read(after, limit=limit, wait_s=wait_s)
        self.read_entries += len(batch.entries)
        return batch


class CountingLog(MemoryLog):
    """Notes what was appended, what was asked for and how much came."""

    def __init__(self, server: MemoryLogServer) -> None:
        super().__init__(server)
        self.appended: list[LogFrame] = []
        self.asked: list[dict[int, int]] = []
        self.came: list[LogRecord] = []

    async def append(self, frames: Sequence[LogFrame]) -> None:
        await super().append(frames)
        self.appended += frames

    async def read(
        self, offsets: Mapping[int, int], *, limit: int, wait_s: float
    ) -> list[LogRecord]:
        self.asked.append(dict(offsets))
        records = await super().read(offsets, limit=limit, wait_s=wait_s)
        self.came += records
        return records


class StuckJournal(MemoryJournal):
    """Takes frames only while `open`."""

    def __init__(self) -> None:
        super().__init__()
        self.open = asyncio.Event()

    async def append(self, frames: Sequence[FrameRecord]) -> int:
        await self.open.wait()
        return await super().append(frames)


def shard_of(replica: Replica, document: str = "Note/1") -> int:
    return replica._check().editor.host(document).index


async def frames_of(world: World, name: str) -> list[FrameRecord]:
    return [record for _, record in await world.journal(name).replay(0, 1_000)]


def stored(server: MemoryLogServer) -> Counter[bytes]:
    """How often each frame is in the log."""
    return Counter(record.data for shard in range(4) for record in server.records(shard))


async def poison(world: World) -> list[tuple[int, bytes]]:
    """What a stream may hold that no honest writer puts there."""
    other = World(seed=7)
    stranger, member = other.replica("stranger"), world.replica("m")
    async with running(stranger):
        await write(stranger, *range(3))
    foreign = [record.data for record in await frames_of(other, "stranger")]
    await member.start()
    await write(member, *range(4))
    await crash(member)
    await other.close()
    # Without the first, which has the certificate.
    mine = [record.data for record in await frames_of(world, "m")][1:]
    bent = [data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :] for data in mine for at in (9, -9)]
    cut = [data[: len(data) // 2] for data in mine]
    garbage = [b"", b"\x00", b"\xc1" * 50, b"\x95" + b"\xc4\x01x" * 5, bytes(range(256)) * 40]
    # No predecessor and no certificate will ever come for these.
    return [(0, data) for data in [*foreign, *bent, *cut, *garbage, *mine]]
