"""All shared services of one replica: bus, event log, checkpoints; whichever are configured."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from crdt.structure import unpack
from mesh.committer import Committer
from mesh.core import Core, source_of
from mesh.durability import BUS_LEVEL, CHECKPOINT_LEVEL, LOG_LEVEL, Durability
from mesh.exchange import Exchange
from mesh.health import BUS, CHECKPOINTS, JOURNAL, LOG, OFF
from mesh.ingest import Ingest
from mesh.joining import Joining
from mesh.services.bus import BusFeed
from mesh.services.checkpoints import CheckpointFeed
from mesh.services.log import LogFeed
from persistence.base import WAITING, FrameRecord, ServiceUnavailable, StorageError

SALVAGED_S = 5.0
"""How often own frames out of a damaged journal are offered again."""
SAVE_S = 2.0
"""How often cursors are kept in the journal. What came since is done again after a crash."""


class Services:
    """See the module. Implements `committer.Keeper`."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._saved: dict[str, bytes] = {}
        self._waiting: dict[str, bytes] = {}
        self._ingest: Ingest
        self.bus: BusFeed | None = None
        self.log: LogFeed | None = None
        self.checkpoints: CheckpointFeed | None = None

    def __repr__(self) -> str:
        parts = [part for part in (self.bus, self.log, self.checkpoints) if part is not None]
        return f"<Services {parts}>"

    def bind(
        self, exchange: Exchange, committer: Committer, ingest: Ingest, joining: Joining
    ) -> None:
        """The other parts, which need this one to be made."""
        core = self._core
        environment, health = core.environment, core.health
        self._ingest = ingest
        if environment.bus is not None:
            self.bus = BusFeed(
                core, ingest, environment.bus, exchange.room, exchange.broadcast.by_bus
            )
        if environment.log is not None:
            self.log = LogFeed(core, ingest, environment.log, exchange.room)
        if environment.checkpoints is not None:
            self.checkpoints = CheckpointFeed(
                core, environment.checkpoints, joining, committer, self.log
            )
        for part, feed, setting in (
            (BUS, self.bus, "redis.url"),
            (LOG, self.log, "kafka.servers"),
            (CHECKPOINTS, self.checkpoints, "postgres.dsn"),
        ):
            if feed is None:
                health.set(part, OFF, f"no {setting} is configured")
            else:
                health.set(part, OFF, "not asked yet")

    # ------------------------------------------------------------------ life

    async def load(self, position: int, *, empty: bool) -> None:
        """Go on from where an earlier session stopped; `position` is the journal's last. Raises
        StorageError. `empty`: `restore` will be called.
        """
        if empty and self.log is not None:
            self.log.hold()
        meta = self._saved = await self._core.environment.journal.meta()
        self._waiting = {
            name: value for name, value in meta.items() if name.startswith(WAITING) and value
        }
        for feed in (self.bus, self.log):
            if feed is not None:
                feed.load(meta, position)
                await feed.delivery.find_owed()

    def start(self, group: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
        """Every loop as a task of the group; cancel them to stop."""
        tasks: list[asyncio.Task[None]] = []
        if self.bus is not None:
            tasks.append(group.create_task(self.bus.run(), name="bus: read"))
            tasks.append(group.create_task(self.bus.delivery.run(), name="bus: deliver"))
        if self.log is not None:
            tasks.append(group.create_task(self.log.run(), name="log: read"))
            tasks.append(group.create_task(self.log.delivery.run(), name="log: deliver"))
            tasks.append(group.create_task(self.log.fill_holes(), name="log: fill holes"))
        if self.checkpoints is not None:
            tasks.append(group.create_task(self.checkpoints.run(), name="checkpoints"))
        if self.bus is not None or self.log is not None:
            tasks.append(group.create_task(self._save_regularly(), name="cursors"))
        if self._waiting:
            tasks.append(group.create_task(self._offer_salvaged(), name="salvaged frames"))
        return tasks

    async def close(self) -> None:
        """After the loops have ended: keep the cursors. The disk may refuse: then work is done
        twice.
        """
        if self.checkpoints is not None:
            await self.checkpoints.close()
        await self._save()

    async def restore(self) -> None:
        """An empty replica takes the newest checkpoints and what the log has beyond them.

        Returns when both are on disk here. What does not answer is left out: peers and, later, the
        log bring the rest. Raises TimeoutError where the caller sets one.
        """
        log = self.log
        try:
            if self.checkpoints is not None:
                await self.checkpoints.restore()
        finally:
            if log is not None:
                log.go()
        if log is None:
            return
        try:
            ends = await log.ends()
        except ServiceUnavailable:
            return  # The reading loop meets the same, and tells.
        await self._core.waiters.until(lambda: log.restored(ends) or log.condition.down)

    # ------------------------------------------------------------------ a rebuilt journal

    async def _offer_salvaged(self) -> None:
        """Take in own frames out of a damaged journal, again and again until others have brought
        what was lost before them and they are on disk in their places.
        """
        while self._waiting:
            done = {name: b"" for name, value in self._waiting.items() if self._is_in(value)}
            try:
                if done:
                    await self._core.environment.journal.set_meta(done)
                self._waiting = {
                    name: value for name, value in self._waiting.items() if name not in done
                }
            except StorageError as error:
                self._core.probe.event("journal.failed", reason=str(error))
            await asyncio.sleep(SALVAGED_S)

    def _is_in(self, value: bytes) -> bool:
        """Offer one; whether it is on disk in its place."""
        core = self._core
        certificate, raw = unpack(value)
        if certificate:
            core.trust.learn(certificate)
        header = self._ingest.frame(raw, source_of(JOURNAL)).header
        return header is not None and core.settled(header.shard, header.session, header.last)

    # ------------------------------------------------------------------ committer.Keeper

    def durable(self, position: int, records: Sequence[FrameRecord]) -> None:
        """See `committer.Keeper`."""
        for feed in (self.bus, self.log):
            if feed is not None:
                feed.delivery.offer(position, records)

    def keep(self, shard: int, upto: Mapping[int, int], *, pressed: bool) -> dict[int, int]:
        """See `committer.Keeper`."""
        kept = dict(upto)
        if self.bus is not None:
            kept = self.bus.delivery.keep(shard, kept)
        if self.log is not None:
            log = self.log
            kept = log.delivery.keep(shard, kept) if pressed else log.keep(shard, kept)
        return {session: seq for session, seq in kept.items() if seq}

    # ------------------------------------------------------------------ durability

    def missing(self, level: Durability) -> str:
        """The setting without which this level can't be reached; empty if there is none."""
        settings = {
            BUS_LEVEL: "" if self.bus else "redis.url",
            LOG_LEVEL: "" if self.log else "kafka.servers",
            CHECKPOINT_LEVEL: "" if self.checkpoints else "postgres.dsn",
        }
        return settings.get(level.name, "")

    def reached(self, level: Durability, written: Mapping[int, int]) -> bool:
        """Whether the service behind the level has this much {shard: seq} of this session."""
        if level.name == BUS_LEVEL and self.bus is not None:
            return self.bus.delivery.has(written)
        if level.name == LOG_LEVEL and self.log is not None:
            return self.log.delivery.has(written)
        if level.name == CHECKPOINT_LEVEL and self.checkpoints is not None:
            return self.checkpoints.has(written)
        return True

    def reason(self, level: Durability) -> str:
        """Why the service behind the level is not doing well; empty if it is, or there is none."""
        part = {BUS_LEVEL: BUS, LOG_LEVEL: LOG, CHECKPOINT_LEVEL: CHECKPOINTS}.get(level.name)
        health = self._core.health.report()[part] if part else None
        return f"{part}: {health.reason}" if health is not None and health.reason else ""

    def urge(self, level: Durability) -> None:
        """Somebody waits for this level."""
        if level.name == CHECKPOINT_LEVEL and self.checkpoints is not None:
            self.checkpoints.urge()

    @property
    def all_served(self) -> bool:
        """Whether bus and log have all that is on disk here."""
        return all(feed is None or feed.delivery.done for feed in (self.bus, self.log))

    def delivered(self) -> bool:
        """Whether bus and log have all that is on disk here, as far as they are not down."""
        return all(
            feed is None or feed.delivery.done or feed.condition.down
            for feed in (self.bus, self.log)
        )

    # ------------------------------------------------------------------ cursors

    async def _save_regularly(self) -> None:
        while True:
            await asyncio.sleep(SAVE_S)
            await self._save()

    async def _save(self) -> None:
        """Keep in the journal how far the services were read and served. All at once: a cursor
        means nothing without the data of the bus that it counts.
        """
        state: dict[str, bytes] = {}
        for feed in (self.bus, self.log):
            if feed is not None:
                state |= feed.state()
        changed = {name: value for name, value in state.items() if self._saved.get(name) != value}
        if not changed:
            return
        try:
            await self._core.environment.journal.set_meta(changed)
        except StorageError as error:
            self._core.probe.event("journal.failed", reason=str(error))
        else:
            self._saved |= changed
