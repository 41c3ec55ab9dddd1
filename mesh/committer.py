"""The committer: one loop that brings what was applied to disk, and only then lets others know.

Theory of operation. Own transactions and received frames are in the lattice as soon as they are
applied. A *cut* happens at one instant, without awaiting: own transactions become sealed frames
behind the received ones, in apply order; what was asked for (digests, snapshots) is captured. Then
the work goes to the journal: frames, then snapshots, which are encoded and sealed in a thread, for
that takes long. Only when all of it is on disk is anything of it pushed, acknowledged, summarised
or handed out. A disk that refuses is asked again for ever; nothing leaves meanwhile.

Pace: what is written while nothing is on its way to disk is cut at once; what is written meanwhile
waits for the next cut, all of it together. So batches grow with the load, and no faster. A
`flush_interval_ms` above 0 spaces the cuts further, until `flush_bytes` are pending or somebody
waits in `flush`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from crdt.errors import CallerError, CodecError
from crdt.ids import Dot
from crdt.lattice import Shard
from crdt.snapshot import ShardSnapshot
from mesh.core import CLOSED_META, Core
from mesh.dissemination import Backoff
from mesh.health import DOWN, JOURNAL, OK
from mesh.heap import LOOK_EVERY, Heap
from mesh.outbox import Cut
from mesh.repair import Capture
from mesh.shards import ShardHost, TakenSnapshot
from persistence.base import FrameRecord, SnapshotRecord, StorageError
from persistence.limits import MAX_COMMIT_BYTES
from persistence.sealing import Draft, OpenedSnapshot

T = TypeVar("T")

HASHED_AT_ONCE = 128
"""Changed documents whose part of a digest is computed before others have the event loop."""


class Outlet(Protocol):
    """Who is told what is on disk. Calls neither block nor fail."""

    def durable(self, records: Sequence[FrameRecord]) -> None:
        """These frames are on disk, in this order; own ones may be pushed now."""

    def joined(self, shard: int, frontier: Mapping[int, int]) -> None:
        """What a peer's snapshot brought is on disk."""

    def parted(self, peer: str, shard: int, dots: Sequence[Dot]) -> None:
        """Where this peer has other last frames than we: it may show them."""

    def published(self) -> None:
        """`ShardHost.published` of all shards is as of the latest cut."""

    def pump(self, host: ShardHost) -> None:
        """Frames that waited may be applicable since this cut."""


class Keeper(Protocol):
    """Who is owed what is on disk, until a service has it. Calls neither block nor fail."""

    def durable(self, position: int, records: Sequence[FrameRecord]) -> None:
        """These frames are on disk, the last of them at `position` of the journal."""

    def keep(self, shard: int, upto: Mapping[int, int], *, pressed: bool) -> dict[int, int]:
        """The part of `upto` {session: seq} whose frames the journal may forget.

        `pressed`: the journal is over its bound; only what nobody else may have is kept.
        """


@dataclass(frozen=True, slots=True)
class _Join:
    """A peer's snapshot, opened and decoded, to be joined at the next cut."""

    host: ShardHost
    snapshot: ShardSnapshot
    opened: OpenedSnapshot
    peer: str
    fresh: Shard | None


@dataclass(frozen=True, slots=True)
class _Save:
    """A snapshot of ours that contains everything cut before it."""

    host: ShardHost
    taken: TakenSnapshot
    joined: bool


@dataclass(slots=True)
class _Work:
    """What one cut brings to disk, in this order."""

    records: list[FrameRecord]
    saves: list[_Save] = field(default_factory=list)
    captures: list[Capture] = field(default_factory=list)


class Committer:
    """See the module. One per replica; `run` is one task."""

    def __init__(self, core: Core, outlet: Outlet, keeper: Keeper, position: int) -> None:
        self._core = core
        self._outlet = outlet
        self._keeper = keeper
        self._journal = core.environment.journal
        self._position = position
        self._queue: list[FrameRecord] = []
        self._joins: list[_Join] = []
        self._snapshots: dict[int, list[asyncio.Future[bytes]]] = {}
        self._capture = False
        self._queued_bytes = 0
        self._in_flight = 0
        self._wake = asyncio.Event()
        self._urgent = asyncio.Event()
        self._closing = asyncio.Event()
        self._started = -1e9
        self._hard_prune = False
        self._closed = core.closed_meta()
        self._backoff = Backoff(0.05, 2.0, core.environment.entropy.stream("journal.backoff"))
        self._heap = Heap(
            lambda: sum(host.lattice.entry_count for host in core.hosts if host.loaded),
            freeze=core.settings.replica.gc_freeze,
        )
        self.outbox_bytes = 0

    def __repr__(self) -> str:
        return f"<Committer at {self._position}, {self.owed} bytes owed>"

    @property
    def owed(self) -> int:
        """Bytes that are applied and not on disk."""
        return self.outbox_bytes + self._queued_bytes + self._in_flight

    def wake(self, *, urgent: bool = False) -> None:
        """There is something to cut; `urgent`: somebody waits for it."""
        self._wake.set()
        if (
            urgent
            or self.outbox_bytes + self._queued_bytes >= self._core.settings.replica.flush_bytes
        ):
            self._urgent.set()

    def received(self, record: FrameRecord) -> None:
        """A received frame was applied."""
        self._queue.append(record)
        self._queued_bytes += len(record.data)
        self.wake()

    def want_capture(self) -> None:
        """Publish fresh frontiers and digests soon, once all shards are loaded."""
        self._capture = True
        self.wake()

    def join(
        self,
        host: ShardHost,
        snapshot: ShardSnapshot,
        opened: OpenedSnapshot,
        peer: str,
        fresh: Shard | None = None,
    ) -> None:
        """Join a peer's snapshot at one of the next cuts. `fresh`: see `ShardHost.join`."""
        self._joins.append(_Join(host, snapshot, opened, peer, fresh))
        self.wake(urgent=True)

    async def snapshot(self, host: ShardHost) -> bytes:
        """The sealed snapshot of a shard, once what it contains is on disk. Raises CallerError."""
        await self._core.waiters.until(lambda: host.loaded)
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._snapshots.setdefault(host.index, []).append(future)
        self.wake(urgent=True)
        return await future

    def compact(self) -> None:
        """Take snapshots of all shards that changed, and forget every frame they contain."""
        self._hard_prune = True
        for host in self._core.hosts:
            if host.frames_since_snapshot or host.kept_for_peers:
                self._snapshots.setdefault(host.index, [])
        self.wake()

    def sign_off(self) -> None:
        """Nothing more will be written: each shard written to gets a last frame that says so."""
        for host in self._core.hosts:
            if size := host.sign_off(self._core.name, self._core.clock):
                self.outbox_bytes += size
                self._core.closed.setdefault(host.session, {})[host.index] = host.closing
        self.wake(urgent=True)

    def finish(self) -> None:
        """Cut once more, with snapshots; `run` then returns, or raises StorageError if the disk
        refuses.
        """
        for host in self._core.hosts:
            if host.frames_since_snapshot:
                self._snapshots.setdefault(host.index, [])
        self._closing.set()
        self.wake(urgent=True)

    async def run(self) -> None:
        """Bring to disk what is applied, for as long as the replica lives."""
        self._absorb()  # what the journal brought
        while True:
            await self._wake.wait()
            await self._pace()
            if self._capture or self._joins:
                await self._hash()
            # Looked at without an await before the cut: what is closed here is in it.
            closing = self._closing.is_set()
            self._wake.clear()
            self._urgent.clear()
            self._started = self._core.now()
            work = self._cut()
            await self._commit(work)
            joined = any(save.joined for save in work.saves)
            self._heap.took(LOOK_EVERY if joined else len(work.records))
            if closing and not self._wake.is_set():
                return
            # A journal need not ever suspend, and there may be more to do by now.
            await asyncio.sleep(0)

    async def _pace(self) -> None:
        wait = (
            self._started + self._core.settings.replica.flush_interval_ms / 1000 - self._core.now()
        )
        if wait > 0 and not self._urgent.is_set():
            try:
                async with asyncio.timeout(wait):
                    await self._urgent.wait()
            except TimeoutError:
                return

    async def _hash(self) -> None:
        """Compute digests piece by piece: the cut, which can't let others run, has little left."""
        for host in self._core.hosts:
            if host.changed and host.loaded:
                left = host.lattice.hash_some(HASHED_AT_ONCE)
                # As often as it takes for what there is now, not for what comes meanwhile.
                for _ in range(-(-left // HASHED_AT_ONCE)):
                    await asyncio.sleep(0)
                    host.lattice.hash_some(HASHED_AT_ONCE)
                await asyncio.sleep(0)

    # ------------------------------------------------------------------ the cut: no await

    def _cut(self) -> _Work:
        self._cut_own()
        core = self._core
        work = _Work(self._queue)
        self._queue = []
        self._in_flight, self._queued_bytes = self._queued_bytes, 0
        # One a cut: others may have the event loop in between.
        joins, self._joins = self._joins[:1], self._joins[1:]
        joined = {join.host.index: join.host for join in joins if self._join(join)}
        if self._joins:
            self.wake(urgent=True)
        for index in {record.shard for record in work.records}:
            if core.hosts[index].snapshot_due(core.settings.replica.snapshot_every_frames):
                self._snapshots.setdefault(index, [])
        for index in sorted({*self._snapshots, *joined}):
            host = core.hosts[index]
            certificates = core.trust.certificates(sorted(host.lattice.frontier))
            taken = host.snapshot(certificates, core.clock.now())
            work.saves.append(_Save(host, taken, index in joined))
        self._capture = self._capture or bool(joined)
        if self._capture and all(host.loaded for host in core.hosts):
            self._capture = False
            work.captures = [host.capture() for host in core.hosts]
        # From here on, what is applied belongs to the next cut.
        for host in joined.values():
            host.inbox.rescan()
        self._absorb()
        for host in core.hosts:
            if host.inbox.frames:
                self._outlet.pump(host)
        return work

    def _absorb(self) -> None:
        """Where heads grow too many, an own frame without content is to name them all."""
        core = self._core
        for host in core.hosts:
            heads = len(host.lattice.heads)
            if size := host.absorb(core.name, core.clock):
                self.outbox_bytes += size
                self.wake()
                core.probe.event("heads.absorbed", shard=host.index, heads=heads)

    def _cut_own(self) -> None:
        core = self._core
        pending: dict[int, list[Cut]] = {
            host.index: host.outbox.cut() for host in core.hosts if len(host.outbox)
        }
        self.outbox_bytes = 0
        while pending:
            # One frame per shard and signature: a further one of the same shard names its hash.
            drafts: list[Draft] = [
                core.hosts[index].draft(cuts.pop(0)) for index, cuts in pending.items()
            ]
            for draft, data in zip(drafts, core.sealer.seal(drafts), strict=True):
                host = core.hosts[draft.shard]
                record = host.sealed(draft, data)
                core.forks.wrote((host.index, core.session, draft.first), host.chain[core.session])
                self._queue.append(record)
                self._queued_bytes += len(data)
            pending = {index: cuts for index, cuts in pending.items() if cuts}

    def _join(self, join: _Join) -> bool:
        core = self._core
        host = join.host
        before = sum(host.lattice.frontier.values())
        parted = host.parted(join.snapshot, join.opened.chain)
        try:
            changed = host.join(join.snapshot, join.opened.chain, join.fresh)
            core.trust.keep_all(join.opened.certificates, host.lattice.frontier)
        except CodecError as error:
            core.refuse("snapshot.refused", str(error), peer=join.peer, shard=host.index)
            return False
        core.brought(join.peer, sum(host.lattice.frontier.values()) - before)
        opened = join.opened
        if not core.clock.observe(opened.stamp):
            core.probe.event(
                "clock.drift", stamp=opened.stamp, shard=host.index, session=opened.session
            )
        core.probe.event(
            "snapshot.joined", peer=join.peer, shard=host.index, documents=len(changed)
        )
        for document, _, dot in host.new_conflicts():
            core.probe.event("lattice.conflict", document=document, session=dot[0], seq=dot[1])
        core.watchers.snapshot(changed)
        if parted:
            self._outlet.parted(join.peer, host.index, parted)
        return True

    # ------------------------------------------------------------------ to disk

    async def _commit(self, work: _Work) -> None:
        core = self._core
        for batch in _batches(work.records):
            self._position = await self._store(_appending(self._journal.append, batch))
            self._written(batch)
        for save in work.saves:
            if (data := await self._sealed(save)) is not None:
                await self._save_to_disk(save, data)
        if work.captures:
            for capture in work.captures:
                core.hosts[capture.shard].published = capture
            self._outlet.published()
        core.waiters.progress()

    def _written(self, batch: Sequence[FrameRecord]) -> None:
        hosts = self._core.hosts
        for record in batch:
            self._in_flight -= len(record.data)
            journaled = hosts[record.shard].journaled
            if record.last > journaled.get(record.session, 0):
                journaled[record.session] = record.last
        self._outlet.durable(batch)
        self._keeper.durable(self._position, batch)
        self._core.waiters.progress()

    async def _sealed(self, save: _Save) -> bytes | None:
        """None: it is too large. After a join that ends the replica: the journal would lack it."""
        core, host = self._core, save.host
        try:
            data = await asyncio.to_thread(save.taken.seal, core.sealer)
        except CallerError as error:
            core.probe.event("snapshot.failed", shard=host.index, reason=str(error))
            for future in self._snapshots.pop(host.index, []):
                if not future.done():
                    future.set_exception(error)
            if save.joined:
                raise
            return None
        host.snapshot_bytes = len(data)
        return data

    async def _save_to_disk(self, save: _Save, data: bytes) -> None:
        core, host, frontier = self._core, save.host, save.taken.state.frontier
        record = SnapshotRecord(host.index, self._position, data)
        await self._store(lambda: self._journal.save_snapshot(record))
        core.probe.event("snapshot.saved", shard=host.index, bytes=len(data))
        for session, seq in frontier.items():
            if seq > host.journaled.get(session, 0):
                host.journaled[session] = seq
        for future in self._snapshots.pop(host.index, []):
            if not future.done():
                future.set_result(data)
        if save.joined:
            self._outlet.joined(host.index, frontier)
        upto = dict(frontier)
        if not self._hard_prune:
            upto = core.book.everywhere(host.index, upto, core.now())
        upto = self._keeper.keep(host.index, upto, pressed=self._hard_prune)
        host.kept_for_peers = upto != frontier
        if (closed := core.closed_meta()) != self._closed:
            # The frames that said so may go now.
            await self._store(lambda: self._journal.set_meta({CLOSED_META: closed}))
            self._closed = closed
        removed = await self._store(lambda: self._journal.prune(host.index, upto))
        if removed:
            core.probe.event("journal.pruned", shard=host.index, frames=removed)
        self._hard_prune = self._hard_prune and bool(self._snapshots)

    async def _store(self, step: Callable[[], Awaitable[T]]) -> T:
        """Do one step on the journal, however often it takes; while closing, once."""
        core = self._core
        while True:
            try:
                result = await step()
            except StorageError as error:
                core.probe.event("journal.failed", reason=str(error))
                core.health.set(
                    JOURNAL, DOWN, str(error),
                    "free or repair the disk; what is in memory is kept and tried again",
                )  # fmt: skip
                core.waiters.progress()
                if self._closing.is_set():
                    raise
                await self._pause(self._backoff.wait())
            else:
                if core.health.of(JOURNAL).state == DOWN:
                    core.probe.event("journal.recovered")
                core.health.set(JOURNAL, OK)
                self._backoff.reset()
                return result

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._closing.wait()
        except TimeoutError:
            return


def _appending(
    append: Callable[[Sequence[FrameRecord]], Awaitable[int]], batch: Sequence[FrameRecord]
) -> Callable[[], Awaitable[int]]:
    return lambda: append(batch)


def _batches(records: list[FrameRecord]) -> list[list[FrameRecord]]:
    """In order, none over what the journal commits at once."""
    batches: list[list[FrameRecord]] = []
    size = MAX_COMMIT_BYTES
    for record in records:
        if size + len(record.data) > MAX_COMMIT_BYTES:
            batches.append([])
            size = 0
        batches[-1].append(record)
        size += len(record.data)
    return batches
