"""The bus and a replica: own frames go out as soon as they are on disk, everybody's come in.

The bus may forget anything at any time. It says so by another *generation*; then all that the
journal still holds of ours is offered again, and everything is read from its beginning.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Mapping, Sequence

from crdt.errors import CodecError
from crdt.structure import pack, unpack
from mesh.core import Core, source_of
from mesh.environment import Bus, BusBatch
from mesh.health import BUS
from mesh.ingest import Ingest, Received
from mesh.services.condition import Condition
from mesh.services.delivery import Delivery
from mesh.services.intake import awaited, judge
from mesh.services.tail import Tail
from persistence.base import FrameRecord

WAIT_S = 1.0
"""Longest time one read blocks."""
SHORT_WAIT_S = 0.01
"""The same, while shards are left out that will soon be read on."""
OWN_S = 0.002
"""Least pause after a read that brought nothing but frames of ours."""
SLICE = 32
"""Frames taken in before other tasks get a turn."""
STATE = "bus.state"
READ = "read"
SOURCE = source_of(BUS)


class BusFeed:
    """See the module. `room` waits while too much that was received is not on disk yet; `came`
    is told of every frame."""

    def __init__(
        self,
        core: Core,
        ingest: Ingest,
        bus: Bus,
        room: Callable[[], Awaitable[None]],
        came: Callable[[Received], None],
    ) -> None:
        self._core = core
        self._ingest = ingest
        self._bus = bus
        self._room = room
        self._came = came
        self._judge = functools.partial(judge, core)
        self._generation = ""
        self.counts = {host.index: 0 for host in core.held}
        """Entries of each shard that were read, again and again ones too."""
        self._trimmed: dict[int, str] = {}
        self._oldest = {host.index: "" for host in core.held}
        self.tail: Tail[str] = Tail(self._oldest)
        self.condition = Condition(core, BUS)
        self.delivery = Delivery(core, self.condition, self._publish)

    def __repr__(self) -> str:
        return f"<BusFeed {self.delivery!r}, {self.tail!r}>"

    @property
    def bus(self) -> Bus:
        """The port."""
        return self._bus

    @property
    def generation(self) -> str:
        """Which data of the bus was read last; empty before any was."""
        return self._generation

    def load(self, meta: Mapping[str, bytes], position: int) -> None:
        """Go on where an earlier session stopped; at the beginning, if that is unreadable."""
        self.delivery.load(meta, position)
        try:
            generation, *pairs = unpack(meta.get(STATE, b""))
            positions = {int(shard): str(place) for shard, place in pairs}
        except (CodecError, TypeError, ValueError):
            # Which data the cursor counts is not known either.
            self.delivery.load({}, position)
            return
        self._generation = str(generation)
        self.tail.seek({shard: positions.get(shard, "") for shard in self._oldest})

    def state(self) -> dict[str, bytes]:
        """What `load` needs in another session: how far the bus was read, and how far served."""
        self.tail.settle(self._judge)
        safe = self.tail.safe()
        places = pack([self._generation, *([shard, safe[shard]] for shard in sorted(safe))])
        return {**self.delivery.state(), STATE: places}

    async def run(self) -> None:
        """Read, for as long as the replica lives. Only cancelling ends it."""
        while True:
            self.tail.settle(self._judge)
            for shard in self.tail.review(self._core.now(), self._judge):
                self._core.probe.event("bus.reread", shard=shard)
            positions = self.tail.reading(self._judge)
            if not positions:
                await self._core.waiters.until(lambda: bool(self.tail.reading(self._judge)))
                continue
            moves = self.tail.moves
            batch = await self.condition.insist(READ, functools.partial(self._read, positions))
            # Else these positions meant another history, or were given up meanwhile.
            if self.tail.moves == moves and not self._changed(batch.generation):
                others = await self._take(batch, positions)
                await self._pace(len(batch.entries), others)

    async def _read(self, positions: Mapping[int, str]) -> BusBatch:
        limit = self._core.settings.redis.read_entries
        wait = WAIT_S if len(positions) == len(self._oldest) else SHORT_WAIT_S
        try:
            return await self._bus.read(positions, limit=limit, wait_s=wait)
        except ValueError as error:
            if not any(positions.values()):
                raise
            # Whatever was kept as a position is none: as good as unknown.
            self._core.probe.event("bus.position", reason=str(error))
            self.tail.seek(self._oldest)
            return BusBatch(self._generation, ())

    async def _take(self, batch: BusBatch, positions: Mapping[int, str]) -> int:
        """How many entries are of others."""
        for entry in batch.entries:
            self.counts[entry.shard] += 1
        for shard in batch.trimmed:
            # Where nothing is left, the position stays, and is trimmed at every read.
            if self._trimmed.get(shard) != positions[shard]:
                self._trimmed[shard] = positions[shard]
                self._core.probe.event("bus.trimmed", shard=shard)
        moves, others = self.tail.moves, 0
        for at, entry in enumerate(batch.entries, 1):
            received = self._ingest.frame(entry.data, SOURCE)
            others += received.header is None or received.header.session != self._core.session
            self._came(received)
            frame = awaited(self._core, received, entry.shard)
            if frame is None:
                self.tail.passed(entry.shard, entry.position)
            else:
                self.tail.took(entry.position, frame, self._core.now())
            if at % SLICE == 0:
                await self._room()
                await asyncio.sleep(0)
                if self.tail.moves != moves:
                    break
        return others

    async def _pace(self, entries: int, others: int) -> None:
        """Others write in flushes spaced like ours: what comes of one is read at once, and not in
        as many reads as it has frames. Nor are frames of ours that come back worth a read each.
        Where there is more to catch up with, nothing waits.
        """
        if 0 < entries < self._core.settings.redis.read_entries:
            least = 0.0 if others else OWN_S
            await asyncio.sleep(max(least, self._core.settings.replica.flush_interval_ms / 1000))

    async def _publish(self, records: Sequence[FrameRecord]) -> None:
        known = self._generation
        generation = await self._bus.publish([(record.shard, record.data) for record in records])
        if self._generation == known:
            self._changed(generation)
        elif self._generation != generation:
            # Reading knows other data meanwhile; which of the two is older, nobody can tell.
            self.delivery.again()

    def _changed(self, generation: str) -> bool:
        """Whether the bus is not the one we knew; then everything begins anew.

        An empty generation: what was written is not all in one.
        """
        if generation and generation == self._generation:
            return False
        known, self._generation = self._generation, generation
        if not known and generation:
            return False
        self._core.probe.event("bus.reset", generation=generation)
        self._trimmed.clear()
        self.tail.seek(self._oldest)
        self.delivery.again()
        return True
