"""The Replica: a live local copy of the mesh's state that one program reads and writes at memory
speed.

    async with Replica.open("agent-a") as replica:
        with replica.edit(Task, "42") as task:
            task.title = "Audit json.decoder"
        await replica.flush(Durability.PEERS(1), timeout=5)

Synchronous methods touch memory only; what is awaited waits for the disk or for others. Right after
a start, who first asks for what a shard holds waits for that shard to be loaded, out of memory too.
A replica belongs to one event loop and its thread. It owns one task group, in which everything it
does in the background lives.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import os
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, cast

from crdt.document import Document, create_document, delete_document, document_id, schema_of
from mesh.durability import Durability, FlushResult, FlushTimeout
from mesh.editing import Edit, ReplicaClosed, TransactionEdit, check_label
from mesh.environment import Environment, PartHealth
from mesh.flushing import DurableHandle
from mesh.forks import Fork
from mesh.health import COORDINATOR, JOURNAL, OFF, OK
from mesh.heartbeats import Presence
from mesh.lifecycle import Lifecycle, ended
from mesh.links import LinkTimes
from mesh.peers import PeerInfo, PeerLag
from mesh.recovery import open_core
from mesh.settings import Settings
from mesh.subscription import Subscribe
from mesh.sync import SyncReplica
from mesh.watch import Watcher
from persistence.identity import Identity

D = TypeVar("D", bound=Document)
NOT_STARTED = "the replica is not started: use `async with`, or await replica.start()"
FORKED = "this process is a fork: open a replica of its own, in another folder"


class Replica:
    """See the module. Everything it needs from outside comes in `environment`, which outlives
    it.
    """

    def __init__(
        self,
        settings: Settings,
        environment: Environment,
        identity: Identity,
        *,
        times: LinkTimes | None = None,
        subscribe: Subscribe = (),
    ) -> None:
        self._settings = settings
        self._environment = environment
        self._identity = identity
        self._times = times or LinkTimes()
        self._life: Lifecycle | None = None
        self._subscribe = tuple(subscribe)
        self._runner: asyncio.Task[None] | None = None
        self._sync: SyncReplica | None = None
        _running.add(self)

    @staticmethod
    def open(
        path: str | Path, *, settings: Settings | None = None, **overrides: Any
    ) -> AbstractAsyncContextManager[Replica]:
        """Run a replica in a folder with production ports: `async with Replica.open("agent-a") as
        replica`.

        See `mesh.compose.open_replica`, which this stands for.
        """
        # By name: only the composition root may know production adapters; this is below it.
        compose = importlib.import_module("mesh.compose")
        return cast(
            "AbstractAsyncContextManager[Replica]",
            compose.open_replica(path, settings, **overrides),
        )

    def __repr__(self) -> str:
        life = self._life
        if life is None:
            return f"<Replica {self._identity.replica!r}, not started>"
        state = life.editor.unusable or f"{len(life.exchange.links)} links"
        return f"<Replica {self.name!r} session {self.session}, {self.shards} shards, {state}>"

    # ------------------------------------------------------------------ life

    async def start(self) -> None:
        """Prove and open the journal, begin a new session, listen and dial. Shards are loaded when
        they are asked for, the rest in the background. Raises StorageError, CallerError.
        """
        if self._runner is not None:
            raise ReplicaClosed("the replica was started before; make a new one for a new session")
        core, position = await open_core(
            self._settings, self._environment, self._identity, self._subscribe
        )
        life = Lifecycle(core, position, self._times)
        empty = not any(host.lattice.frontier for host in core.hosts)
        await life.services.load(position, empty=empty)
        started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._runner = asyncio.create_task(life.run(started), name=f"replica {core.name}")
        try:
            await started
        except BaseException:
            self._runner.cancel()
            await ended(self._runner)
            raise
        self._life = life
        self._sync = SyncReplica(self, asyncio.get_running_loop())
        core.health.set(JOURNAL, OK)
        life.exchange.judge_health()
        core.probe.event(
            "replica.started", replica=core.name, session=core.session, address=self.address
        )
        if empty:
            await self._restore(life)

    async def _restore(self, life: Lifecycle) -> None:
        """A replica that starts with nothing takes what checkpoints and log have, for a while."""
        try:
            async with asyncio.timeout(self._settings.replica.restore_timeout_s):
                await life.services.restore()
        except TimeoutError:
            life.core.probe.event("replica.restoring", sources=dict(life.core.sources))
        except BaseException:
            await self.close()
            raise

    async def close(self, level: Durability | None = None, *, timeout: float | None = None) -> None:
        """Flush to `level` if one is given, sign the session's end, hand over what peers lack (for
        a while), bring everything to disk, end all tasks. Idempotent.

        The signed end is a last frame in every shard written to, so others know that no more will
        come. Raises, after everything is released, StorageError if something written could not be
        journaled, and FlushTimeout if `level` was not reached within `timeout` seconds: what is
        owed then goes on after the next start. Cancelled, it still brings everything to disk and
        ends all tasks, without waiting for peers, before it raises.
        """
        life = self._life
        if life is None or self._runner is None:
            return
        late: FlushTimeout | None = None
        if level is not None and not life.editor.unusable:
            try:
                await life.flusher.flush(level, timeout)
            except FlushTimeout as error:
                late = error
            except ReplicaClosed:  # closed by somebody else meanwhile, or failed: said below
                life.core.probe.sometimes("closed while it was flushed for closing")
        first = not life.stop.is_set()
        life.stop.set()
        await ended(self._runner, life.hurry)
        if first and life.error is not None:
            raise life.error
        if late is not None:
            raise late

    async def __aenter__(self) -> Replica:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    # ------------------------------------------------------------------ identity

    @property
    def name(self) -> str:
        """The replica's name in the mesh."""
        return self._identity.replica

    @property
    def session(self) -> int:
        """This run's session: the author in every dot it writes."""
        return self._started().core.session

    @property
    def shards(self) -> int:
        """How many shards the mesh has."""
        return self._identity.mesh.shards

    @property
    def address(self) -> str:
        """Where others can dial this replica; empty where it does not listen."""
        return self._started().dialler.address

    @property
    def environment(self) -> Environment:
        """The ports this replica uses."""
        return self._environment

    @property
    def sync(self) -> SyncReplica:
        """The same replica for code on other threads: blocking calls. See `mesh.sync`."""
        if self._sync is None:
            raise ReplicaClosed(NOT_STARTED)
        return self._sync

    # ------------------------------------------------------------------ writing

    def edit(
        self,
        cls: type[D],
        name: str,
        *,
        type: str = "",
        actor: str = "",
        caused_by: str = "",
    ) -> Edit[D]:
        """One atomic transaction on one document: `with replica.edit(Task, "42") as task: …`.

        `type` names the event (default "task.edited"), `actor` who did it (default: this replica's
        name), `caused_by` the event it answers. The body must not await; if it raises, nothing
        happened. Entering or leaving raises EditMisuse, Backpressure, ReplicaClosed,
        TransactionTooLarge, and what the class's `validate` raises; nothing happened then.
        """
        labels = (
            check_label("type", type) if type else _event(cls, "edited"),
            check_label("actor", actor) if actor else self._identity.replica,
            check_label("caused_by", caused_by) if caused_by else "",
        )
        return Edit(self._check().editor, cls, document_id(cls, name), labels)

    def transaction(
        self,
        *,
        type: str,
        actor: str = "",
        caused_by: str = "",
    ) -> TransactionEdit:
        """Several documents of one shard in one transaction: `with … as tx: tx.edit(Task,
        "{job}/1")`.

        A document of another shard raises CrossShardTransaction. Otherwise as `edit`.
        """
        return TransactionEdit(
            self._check().editor,
            (
                check_label("type", type),
                check_label("actor", actor) if actor else self._identity.replica,
                check_label("caused_by", caused_by),
            ),
        )

    def create(self, cls: type[Document], name: str, *, actor: str = "") -> bool:
        """Make the document exist, empty; False if it exists already. Otherwise as `edit`."""
        with self.edit(cls, name, type=_event(cls, "created"), actor=actor) as document:
            return create_document(document._access, cls, document.id)

    def delete(self, cls: type[Document], name: str, *, actor: str = "") -> bool:
        """Delete what this replica sees of the document; False if there is nothing. Otherwise as
        `edit`.

        What others write at the same time, without having seen the deletion, survives it, unless
        the class is `on_delete="gone"` (see `Document`).
        """
        with self.edit(cls, name, type=_event(cls, "deleted"), actor=actor) as document:
            return delete_document(document._access, cls, document.id)

    async def ready(self) -> None:
        """Wait until there is room after a `Backpressure`."""
        life = self._check()
        bound = self._settings.replica.owed_bytes_max // 2
        core = life.core
        await core.waiters.until(lambda: life.committer.owed <= bound and not core.blocked)

    async def flush(
        self, level: Durability = Durability.JOURNAL, *, timeout: float | None = None
    ) -> FlushResult:
        """Wait until everything this session wrote so far is as durable as `level` says.

        `timeout` in seconds, None: however long it takes. Raises FlushTimeout, which means "not
        yet", and CallerError for a level whose service is not configured.
        """
        return await self._check().flusher.flush(level, timeout)

    def on_durable(
        self, level: Durability, callback: Callable[[FlushResult], None]
    ) -> DurableHandle:
        """Call back once, on the loop, when everything this session wrote until now is as durable
        as `level` says. Doesn't wait; `cancel()` of what it returns takes it back.

        Not called if the replica ends before (event `durability.abandoned`). An exception of the
        callback is the event `durability.failed`. Raises Backpressure while 10,000 wait, and as
        `flush`.
        """
        return self._check().flusher.on_durable(level, callback)

    # ------------------------------------------------------------------ reading

    def get(self, cls: type[D], name: str) -> D | None:
        """A live, read-only view of a document; None if it does not exist. Memory speed.

        Raises JournalDamaged if its shard is loaded for this and is not what was written; the
        replica ends then.
        """
        document = document_id(cls, name)
        host = self._check().editor.host(document)
        return cls.bind(host.view, document) if host.lattice.exists(document) else None

    def exists(self, cls: type[Document], name: str) -> bool:
        """Whether the document exists."""
        document = document_id(cls, name)
        return self._check().editor.host(document).lattice.exists(document)

    def documents(self, cls: type[D], where: Callable[[D], bool] | None = None) -> Iterator[D]:
        """Views of all documents of a type (for which `where(view)` holds), in no promised
        order.
        """
        core = self._check().core
        core.subscription.check_type(schema_of(cls).type_name)
        for host in core.held:
            for document in host.lattice.documents(schema_of(cls).type_name):
                view = cls.bind(host.view, document)
                if where is None or where(view):
                    yield view

    @property
    def presence(self) -> Presence:
        """What replicas say of themselves while they are there. See `mesh.heartbeats.Presence`."""
        return Presence(lambda: self._started().heartbeats)

    def watch(self, cls: type[Document] | None = None) -> Watcher:
        """An async iterator of `Change`, from now on, of documents of one type or of all.

        A reader that lags gets fewer, merged changes and never slows the replica. See `mesh.watch`.
        """
        core = self._check().core
        if cls is None:
            return core.watchers.add("")
        core.subscription.check_type(schema_of(cls).type_name)
        return core.watchers.add(f"{schema_of(cls).type_name}/")

    # ------------------------------------------------------------------ looking at it

    def health(self) -> dict[str, PartHealth]:
        """{part: PartHealth} for journal, peers, bus, log, checkpoints and coordinator. Losing any
        of them stops no edit.
        """
        report = self._started().core.health.report()
        coordinator = self._environment.coordinator
        report[COORDINATOR] = (
            coordinator.health()
            if coordinator is not None
            else PartHealth(OFF, report[COORDINATOR].since, "no coordinator is configured")
        )
        return report

    def frontier(self) -> dict[int, dict[int, int]]:
        """{shard: {session: seq}}: which operations are applied here now, in memory."""
        return {host.index: dict(host.lattice.frontier) for host in self._started().core.hosts}

    def digest(self) -> dict[int, str]:
        """{shard: 32 hex digits} at the same instant as `frontier()`; equal on replicas that have
        the same.
        """
        return {host.index: host.lattice.digest().hex() for host in self._started().core.hosts}

    def journaled(self) -> dict[int, dict[int, int]]:
        """{shard: {session: seq}}: which operations are on this replica's disk; what others are
        told of.
        """
        return {host.index: dict(host.journaled) for host in self._started().core.hosts}

    def sources(self) -> dict[str, int]:
        """How many operations this run got from where: peers, bus, log, checkpoints.

        What the journal held at the start is not in it.
        """
        return dict(self._started().core.sources)

    def lag(self) -> dict[str, PeerLag]:
        """Per replica met: how many of our operations it is not known to have, and how many of its
        we lack.
        """
        core = self._started().core
        live = {host.index: host.lattice.frontier for host in core.hosts}
        return core.book.lag(core.journaled(), live)

    def peers(self) -> list[PeerInfo]:
        """Every other replica met in this run, linked or not, by name."""
        core = self._started().core
        return core.book.infos(core.journaled())

    def forks(self) -> list[Fork]:
        """Whose session signed two different frames under one name, as far as was noticed in this
        run, with both frames as proof: the first of each replica, of 16 replicas and 16 MiB at
        most. `proven` is False while one of the two is only known by what others say of it.
        """
        return list(self._started().core.forks.found.values())

    def status(self) -> dict[str, Any]:
        """What an operator wants on one screen, as plain data.

        `documents` and `entries` are those in memory; `loading` says how many shards are not yet.
        """
        life = self._started()
        core = life.core
        loaded = [host.lattice for host in core.hosts if host.loaded]
        return {
            "replica": self.name,
            "session": self.session,
            "mesh": self._identity.mesh.id.hex(),
            "address": self.address,
            "state": life.editor.unusable or "running",
            "shards": self.shards,
            "loading": self.shards - len(loaded),
            "documents": sum(1 for lattice in loaded for _ in lattice.documents()),
            "entries": sum(lattice.entry_count for lattice in loaded),
            "owed_bytes": life.committer.owed,
            "waiting_frames": sum(host.inbox.frames for host in core.hosts),
            "refused": dict(core.refused),
            "sources": dict(core.sources),
            "watchers": len(core.watchers),
            "peers": [
                {"name": peer.name, "connected": peer.connected, "behind": peer.behind}
                for peer in self.peers()
            ],
            "health": {
                part: {"state": health.state, "reason": health.reason, "cure": health.cure}
                for part, health in self.health().items()
            },
        }

    # ------------------------------------------------------------------ inside

    def _check(self) -> Lifecycle:
        if self._life is None:
            raise ReplicaClosed(NOT_STARTED)
        if self._life.editor.unusable:
            raise ReplicaClosed(self._life.editor.unusable)
        return self._life

    def _started(self) -> Lifecycle:
        if self._life is None:
            raise ReplicaClosed(NOT_STARTED)
        return self._life


def _event(cls: type[Document], what: str) -> str:
    return _event_name(schema_of(cls).type_name, what)


@functools.lru_cache(maxsize=1_024)
def _event_name(type_name: str, what: str) -> str:
    return f"{type_name.lower()}.{what}"


_running: weakref.WeakSet[Replica] = weakref.WeakSet()


def _orphan() -> None:
    """A forked child shares the session and its signing key: it must never write with them."""
    for replica in list(_running):
        if replica._life is not None:
            replica._life.editor.unusable = FORKED


os.register_at_fork(after_in_child=_orphan)
