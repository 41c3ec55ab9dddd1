"""The background life of a replica: one task group, how it comes up, and the order in which it
ends.

The end, in this order: edits are refused; the session signs its `close`, a last frame in each shard
it wrote to; linked peers get a while to take what they lack; links and dialling end; one last cut
goes to disk with snapshots, and how far services were read and served; the transport closes. A task
that fails ends all of it, and edits say why.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import nullcontext, suppress
from typing import Any

from crdt.errors import MeshError
from mesh.committer import Committer
from mesh.core import Core
from mesh.dialler import Dialler
from mesh.dissemination import jittered
from mesh.editing import Editor, ReplicaClosed
from mesh.exchange import Exchange
from mesh.flushing import Flusher
from mesh.health import DOWN, JOURNAL
from mesh.heartbeats import Heartbeats
from mesh.ingest import Ingest
from mesh.joining import Joining
from mesh.links import LinkTimes
from mesh.roster import RosterSpread
from mesh.services.registry import Registry
from mesh.services.shared import Services
from persistence.base import JournalDamaged, StorageError
from persistence.journal import freeze_large, uncollected
from persistence.lazy import LazyShard, Unread

GAP_S = 0.1
"""How often it is looked for frames that wait too long, and for peers that are to be named."""
SIZE_S = 10.0
"""How often the journal is measured."""
CLOSED = "the replica is closed"


class Lifecycle:
    """Builds the parts around a core and runs them. `run` is the replica's one owner task."""

    def __init__(self, core: Core, position: int, times: LinkTimes) -> None:
        self.core = core
        self.exchange = Exchange(core)
        self.services = Services(core)
        self.committer = Committer(core, self.exchange, self.services, position)
        ingest = self.ingest = Ingest(core, self.committer)
        self.joining = Joining(core, ingest, self.committer)
        self.exchange.bind(self.committer, ingest, self.joining)
        self.roster = RosterSpread(core, self.exchange, ingest)
        self.services.bind(self.exchange, self.committer, ingest, self.joining)
        self.dialler = Dialler(core, self.exchange, times)
        self.editor = Editor(core, self.committer)
        self.heartbeats = Heartbeats(core, self.exchange, lambda: self.dialler.address)
        self.registry = self._registry()
        self.flusher = Flusher(core, self.committer, self.services, self.heartbeats)
        self.stop = asyncio.Event()
        self.hurried = False
        self.error: Exception | None = None

    def __repr__(self) -> str:
        return f"<Lifecycle of {self.core.name}: {self.editor.unusable or 'running'}>"

    def hurry(self) -> None:
        """Don't wait for peers any more while closing: the caller was cancelled."""
        self.hurried = True
        self.core.waiters.progress()

    async def run(self, started: asyncio.Future[None]) -> None:
        """Run until `stop` is set or something fails; `started` is told when others can dial."""
        core, editor = self.core, self.editor
        try:
            async with asyncio.TaskGroup() as group:
                await self._live(group, started)
        except* Exception as bug:  # noqa: BLE001 - whatever broke: edits are refused and say so
            self.error = bug.exceptions[0] if len(bug.exceptions) == 1 else bug
            core.probe.event("replica.failed", reason=repr(self.error))
        finally:
            editor.unusable = f"the replica failed: {self.error!r}" if self.error else CLOSED
            if not started.done():
                started.set_exception(self.error or ReplicaClosed(CLOSED))
            await core.environment.transport.close()
            core.watchers.close()
            core.waiters.fail(ReplicaClosed(editor.unusable))
            core.probe.event("replica.closed", replica=core.name, journaled=not self.error)

    async def _live(self, group: asyncio.TaskGroup, started: asyncio.Future[None]) -> None:
        committing = group.create_task(self._commit(), name="commit")
        try:
            await self.dialler.listen(group)
        except MeshError as error:
            committing.cancel()
            if not started.done():
                started.set_exception(error)
            return
        background = [
            group.create_task(self._load(), name="load"),
            group.create_task(self.dialler.run(), name="discover"),
            group.create_task(self.joining.run(), name="snapshots: join"),
            group.create_task(self._announce(), name="anti-entropy"),
            group.create_task(self._look_for_gaps(), name="gaps"),
            group.create_task(self._bound_journal(), name="journal size"),
            group.create_task(self.heartbeats.run(), name="presence"),
            group.create_task(self.heartbeats.answer(), name="presence: answer"),
            group.create_task(self.roster.run(), name="roster"),
            *self.services.start(group),
        ]
        if self.registry is not None:
            background.append(group.create_task(self.registry.run(), name="registry"))
        if not started.done():  # else who started it has been cancelled, and cancels this
            started.set_result(None)
        await self.stop.wait()
        self.editor.unusable = CLOSED
        self.committer.sign_off()
        await self._hand_over()
        await self.heartbeats.leave()
        for task in background:
            task.cancel()
        await self.dialler.close()
        await asyncio.wait(background)
        if self.registry is not None:
            await self.registry.leave()
        self.committer.finish()
        await committing
        await self.services.close()

    def _registry(self) -> Registry | None:
        feed, log = self.services.bus, self.services.log
        if feed is None:
            return None
        logged = None if log is None else log.frontier.__getitem__
        return Registry(self.core, feed, self.heartbeats, logged)

    async def _load(self) -> None:
        """Load what nobody has asked for yet, one shard after the other, in a thread. Raises
        JournalDamaged, which ends the replica.
        """
        core = self.core
        freeze, count = core.settings.replica.gc_freeze, 0
        with uncollected() if freeze else nullcontext():
            for host in core.hosts:
                if isinstance(host.lattice, LazyShard):
                    await self._read(host.lattice.unread)
                    host.load()
                    count += 1
                    core.waiters.progress()
                    self.committer.wake()  # frames that came meanwhile can be applied
        if freeze:
            freeze_large(host.lattice for host in core.hosts)
        core.probe.event("replica.loaded", shards=count)

    async def _read(self, unread: Unread) -> None:
        reading = asyncio.create_task(asyncio.to_thread(unread.shard))
        await ended(reading)
        try:
            reading.result()
        except JournalDamaged as damage:
            cure = "close the replica and run `mesh repair` on its folder"
            self.core.health.remark(JOURNAL, "damaged", str(damage), cure)
            raise

    async def _commit(self) -> None:
        try:
            await self.committer.run()
        except StorageError as error:  # only while closing: before, it tries for ever
            self.error = error

    async def _hand_over(self) -> None:
        """Give linked peers the time to take what they lack, if the disk works."""
        core = self.core
        written = core.written()
        if not written:
            return

        def done() -> bool:
            holders = core.acknowledgements.holders(written)
            handed = all(
                name in holders or not core.holds(name, written) for name in self.exchange.links
            )
            return (self.hurried or core.health.report()[JOURNAL].state == DOWN) or (
                handed and core.on_disk(written) and self.services.delivered()
            )

        try:
            async with asyncio.timeout(core.settings.replica.close_timeout_s):
                await core.waiters.until(done)
        except TimeoutError:
            core.probe.sometimes("closed before all peers had everything")

    async def _announce(self) -> None:
        interval = self.core.settings.replica.anti_entropy_interval_s
        rng = self.core.environment.entropy.stream("mesh.anti-entropy")
        while True:
            await asyncio.sleep(jittered(interval, rng))
            self.exchange.tick()

    async def _look_for_gaps(self) -> None:
        while True:
            await asyncio.sleep(GAP_S)
            self.exchange.look_for_gaps()
            self.ingest.judge_waiting()
            self.exchange.manners.judge()
            # The committer meets the same disk, and tells.
            with suppress(StorageError):
                await self.core.forks.prove(self.core.environment.journal, self.core.hosts)

    async def _bound_journal(self) -> None:
        """Keep the journal bounded, whatever peers lack."""
        core = self.core
        tried = 0
        while True:
            await asyncio.sleep(SIZE_S)
            # Snapshots of all shards are no reason to load them at once, on the event loop.
            await core.waiters.until(lambda: all(host.loaded for host in core.hosts))
            try:
                size = await core.environment.journal.size()
            except StorageError:
                continue  # the committer meets the same disk, and tells
            if size <= core.settings.replica.journal_bytes_max:
                tried = 0
            elif self.services.all_served or size > tried + tried // 8:
                # What services are owed stays, so that trying again at once would bring nothing.
                tried = size
                self.committer.compact()


async def ended(runner: asyncio.Task[Any], hurry: Callable[[], None] | None = None) -> None:
    """Wait until the task has ended, through every cancellation; raises CancelledError after it if
    there was one. `hurry` is called at the first.

    Who lets go of a replica's folder must be sure that nothing writes to it any more; and a thread
    can't be stopped.
    """
    cancelled: asyncio.CancelledError | None = None
    while not runner.done():
        try:
            await asyncio.wait([runner])
        except asyncio.CancelledError as error:
            if cancelled is None and hurry is not None:
                hurry()
            cancelled = error
    if cancelled is not None:
        raise cancelled
