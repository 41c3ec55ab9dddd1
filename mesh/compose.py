"""The composition root: the one place where a replica gets its production ports.

    async with open_replica("agent-a") as replica: ...

What is opened, in this order, and closed in the reverse one: the identity in the folder (issued by
the user's own authority where there is none yet), the journal, the transport, the coordinator, the
replica. Nothing on disk changes before it is certain that the folder is this replica's.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import ipaddress
import re
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from crdt.errors import CallerError, MeshError, ServiceError
from mesh.environment import Bus, Coordinator, Environment
from mesh.instrumentation import LoggingProbe
from mesh.replica import Replica
from mesh.settings import Settings, load_settings, split_address
from mesh.subscription import Subscribe
from mesh.transports.discovery import Combined, Learned, Some, StaticSeeds
from mesh.transports.tcp import TcpTransport
from persistence import folder as layout
from persistence.base import (
    CheckpointStore,
    Clock,
    Entropy,
    EventLog,
    FolderError,
    JournalDamaged,
    Probe,
)
from persistence.genesis import Genesis
from persistence.identity import (
    Identity,
    default_authority,
    open_authority,
    open_identity,
    provision,
)
from persistence.mark import repair_cure
from persistence.salvage import rebuild
from persistence.sqlite import SqliteJournal, open_journal
from persistence.system import SystemClock, SystemEntropy

if TYPE_CHECKING:
    from mesh.transports.zeroconf import ZeroconfDiscovery

__all__ = ("identity_of", "open_replica")

T = TypeVar("T")
COORDINATORS = "statemesh.coordinators"
COORDINATOR = "temporal"
PERSONAL = "personal"
NAME_LENGTH = 63


@asynccontextmanager
async def open_replica(
    path: str | Path,
    settings: Settings | None = None,
    *,
    probe: Probe | None = None,
    subscribe: Subscribe = (),
    **overrides: Any,
) -> AsyncIterator[Replica]:
    """Run a replica in the folder `path` while the block lasts.

    `settings` are loaded from environment and file where none are given; `overrides` are as for
    `load_settings`; `subscribe`: see `mesh.subscription`. Raises FolderError (another mesh's or
    replica's folder, a newer format, in use), SettingsError, StorageError; the folder is then as
    it was. A damaged journal is a JournalDamaged, or built anew (`replica.on_damage`).
    """
    probe = probe or LoggingProbe()
    folder, chosen = await asyncio.to_thread(_chosen, Path(path), settings, overrides)
    async with AsyncExitStack() as stack:
        try:
            replica = await _started(stack, folder, chosen, probe, subscribe)
        except JournalDamaged as damage:
            await stack.aclose()
            if chosen.replica.on_damage != "rebuild":
                raise
            salvage = await _finished(asyncio.to_thread(asyncio.run, rebuild(folder, str(damage))))
            probe.event("journal.rebuilt", **salvage.plain())
            replica = await _started(stack, folder, chosen, probe, subscribe)
        yield replica


async def _started(
    stack: AsyncExitStack, folder: Path, chosen: Settings, probe: Probe, subscribe: Subscribe
) -> Replica:
    """A replica that runs until the stack is closed, and all it needs."""
    clock, entropy = SystemClock(), SystemEntropy()
    identity, journal = await _prepared(folder, chosen)
    # Through cancellation, too: who comes next finds the folder free.
    stack.push_async_callback(lambda: _finished(journal.close()))
    transport = await asyncio.to_thread(TcpTransport, identity, chosen.peers, probe)
    stack.push_async_callback(transport.close)
    coordinator = await _coordinator(chosen, clock, probe)
    bus, log, checkpoints = await asyncio.to_thread(_services, chosen, identity, entropy)
    for port in (coordinator, bus, log, checkpoints):
        if port is not None:
            stack.push_async_callback(port.close)
    network = await _zeroconf(stack, chosen, identity, clock, probe)
    found = [Some(network, identity.replica, chosen.peers.dial_max)] if network else []
    discovery = Combined(StaticSeeds(chosen.peers.seeds), Learned(clock.monotonic), *found)
    environment = Environment(
        clock, entropy, probe, journal, transport, discovery,
        coordinator, bus, log, checkpoints,
    )  # fmt: skip
    replica = Replica(chosen, environment, identity, subscribe=subscribe)
    try:
        await stack.enter_async_context(replica)
    except JournalDamaged as damage:
        if str(journal.path) in str(damage):
            raise
        raise JournalDamaged(f"{journal.path}: {damage}; {repair_cure(folder)}") from damage
    if network is not None and replica.address:
        try:
            await network.announce(replica.address)
        except ServiceError as error:
            probe.event("discovery.failed", reason=str(error))
    return replica


def identity_of(folder: Path, settings: Settings) -> Identity:
    """Who the replica in `folder` is; a new folder gets an identity in the user's own mesh.

    Raises FolderError (another replica's, half restored, no folder, a newer format), CallerError.
    """
    name = settings.replica.name
    if not (folder / layout.IDENTITY).exists():
        if folder.exists() and not folder.is_dir():
            raise FolderError(f"{folder} is not a folder; name one for the replica to live in")
        if (folder / layout.JOURNAL).exists() or (folder / layout.MARK).exists():
            raise FolderError(
                f"{folder} holds a journal but no identity; restore {layout.IDENTITY}/ from a "
                "backup, or use another folder"
            )
        return provision(default_authority(), folder, name or _name_for(folder))
    identity = open_identity(folder)
    if name and name != identity.replica:
        raise FolderError(
            f"{folder} belongs to replica {identity.replica!r}, not to {name!r} (replica.name); "
            "use another folder, or leave the name out"
        )
    return identity


async def _prepared(folder: Path, settings: Settings) -> tuple[Identity, SqliteJournal]:
    """`_prepare` in a thread, which can't be stopped: who gives up waits and frees the folder."""
    work = asyncio.ensure_future(asyncio.to_thread(_prepare, folder, settings))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        with contextlib.suppress(MeshError):
            await (await work)[1].close()
        raise


async def _finished(step: Coroutine[Any, Any, T]) -> T:
    """What a thread does, which can't be stopped: who gives up waits for its end."""
    work = asyncio.ensure_future(step)
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        with contextlib.suppress(MeshError):
            await work
        raise


def _chosen(
    path: Path, settings: Settings | None, overrides: dict[str, Any]
) -> tuple[Path, Settings]:
    chosen = load_settings(**overrides) if settings is None else settings.override(**overrides)
    return path.expanduser().resolve(), chosen


def _prepare(folder: Path, settings: Settings) -> tuple[Identity, SqliteJournal]:
    """All that blocks: folder, identity, journal."""
    identity = identity_of(folder, settings)
    _keep_personal_mesh_local(identity, settings)
    return identity, open_journal(folder, identity.mesh)


def _name_for(folder: Path) -> str:
    """A replica name out of the folder's, as like it as names may be."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", folder.name).strip("._-")[:NAME_LENGTH]
    if not name:
        raise CallerError(
            f"no replica name can be made of the folder name {folder.name!r}; set replica.name "
            "(STATEMESH_REPLICA__NAME)"
        )
    return name


def _keep_personal_mesh_local(identity: Identity, settings: Settings) -> None:
    """The user's own mesh, which nobody ever set up for a network, stays on this machine."""
    listen = settings.peers.listen
    if not listen or identity.mesh.name != PERSONAL or _is_loopback(split_address(listen)[0]):
        return
    if open_authority(default_authority()).mesh.id == identity.mesh.id:
        raise CallerError(
            f"peers.listen = {listen!r} leaves this machine, but your personal mesh stays on it; "
            "found a mesh (mesh init) and let the replica join it (mesh invite, mesh join), or "
            "listen on 127.0.0.1"
        )


async def _zeroconf(
    stack: AsyncExitStack, settings: Settings, identity: Identity, clock: Clock, probe: Probe
) -> ZeroconfDiscovery | None:
    """Discovery on the local network, if the settings want it and there is such a network."""
    listen, wanted = settings.peers.listen, settings.peers.zeroconf
    if wanted == "off" or (wanted == "auto" and not listen):
        return None
    if wanted == "auto" and _is_loopback(split_address(listen)[0]):
        return None
    from mesh.transports.zeroconf import ZeroconfDiscovery

    found = ZeroconfDiscovery(identity.mesh.id, identity.replica, clock.monotonic)
    try:
        return await stack.enter_async_context(found)
    except ServiceError as error:
        probe.event("discovery.failed", reason=str(error))
        return None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def _coordinator(settings: Settings, clock: Clock, probe: Probe) -> Coordinator | None:
    """The coordinator that the settings ask for. Found by entry point: it lies in a layer above."""
    if not settings.temporal.address:
        return None
    connect = await asyncio.to_thread(_load_coordinator)
    coordinator: Coordinator = await connect(settings, clock, probe)
    return coordinator


def _services(
    settings: Settings, identity: Identity, entropy: Entropy
) -> tuple[Bus | None, EventLog | None, CheckpointStore | None]:
    """Bus, log and checkpoint store that the settings ask for; none connects yet.

    Imports the drivers of those alone, which takes its time: call it in a thread.
    """
    mesh, redis, kafka, postgres = identity.mesh, settings.redis, settings.kafka, settings.postgres
    bus: Bus | None = None
    log: EventLog | None = None
    checkpoints: CheckpointStore | None = None
    if redis.url:
        from mesh.transports.redis import RedisBus

        bus = RedisBus(
            redis.url, mesh=mesh.id, shards=mesh.shards, entropy=entropy,
            stream_entries_max=redis.stream_entries_max, read_entries=redis.read_entries,
            timeout_s=redis.timeout_s,
        )  # fmt: skip
    if kafka.servers:
        from persistence.kafka import KafkaLog

        log = KafkaLog(
            servers=kafka.servers, topic=kafka.topic or _topic(mesh), mesh=mesh.id.hex(),
            shards=mesh.shards, replication=kafka.replication, linger_ms=kafka.linger_ms,
            timeout_s=kafka.timeout_s, tls=kafka.tls, username=kafka.username,
            password=kafka.password,
        )  # fmt: skip
    if postgres.dsn:
        from persistence.postgres import PostgresCheckpoints

        checkpoints = PostgresCheckpoints(
            postgres.dsn, mesh=mesh.id, schema=postgres.schema_name, timeout_s=postgres.timeout_s,
            connections_max=postgres.connections_max,
        )  # fmt: skip
    return bus, log, checkpoints


def _topic(mesh: Genesis) -> str:
    """The log's topic where none is named: told apart by name for people, by id for sure."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", mesh.name).strip("-")[:NAME_LENGTH] or "mesh"
    return f"statemesh.{name}.{mesh.id.hex()[:8]}"


def _load_coordinator() -> Any:
    """The `connect` of the installed coordinator. Imports a driver, which takes its time."""
    found = importlib.metadata.entry_points(group=COORDINATORS, name=COORDINATOR)
    if not found:
        raise CallerError(
            f"temporal.address is set, but no {COORDINATOR!r} in {COORDINATORS} is installed; "
            "install statemesh anew, or leave the address out"
        )
    return next(iter(found)).load()
