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
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from crdt.errors import CallerError, MeshError
from mesh.environment import Bus, Coordinator, Environment
from mesh.instrumentation import LoggingProbe
from mesh.replica import Replica
from mesh.settings import Settings, load_settings, split_address
from mesh.transports.discovery import StaticSeeds
from mesh.transports.tcp import TcpTransport
from persistence import folder as layout
from persistence.base import (
    CheckpointStore,
    Clock,
    Entropy,
    EventLog,
    FolderError,
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
from persistence.sqlite import SqliteJournal, open_journal
from persistence.system import SystemClock, SystemEntropy

__all__ = ("identity_of", "open_replica")

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
    **overrides: Any,
) -> AsyncIterator[Replica]:
    """Run a replica in the folder `path` while the block lasts.

    `settings` are loaded from environment and file where none are given; `overrides` are as for
    `load_settings`. Raises FolderError (another mesh's or replica's folder, a newer format, in
    use), SettingsError, StorageError; the folder is then as it was.
    """
    clock, entropy = SystemClock(), SystemEntropy()
    probe = probe or LoggingProbe()
    chosen, identity, journal = await _prepared(Path(path), settings, overrides)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(journal.close)
        transport = await asyncio.to_thread(TcpTransport, identity, chosen.peers, probe)
        stack.push_async_callback(transport.close)
        coordinator = await _coordinator(chosen, clock, probe)
        bus, log, checkpoints = await asyncio.to_thread(_services, chosen, identity, entropy)
        for port in (coordinator, bus, log, checkpoints):
            if port is not None:
                stack.push_async_callback(port.close)
        environment = Environment(
            clock, entropy, probe, journal, transport, StaticSeeds(chosen.peers.seeds),
            coordinator, bus, log, checkpoints,
        )  # fmt: skip
        yield await stack.enter_async_context(Replica(chosen, environment, identity))


def identity_of(folder: Path, settings: Settings) -> Identity:
    """Who the replica in `folder` is; a new folder gets an identity in the user's own mesh.

    Raises FolderError (another replica's, half restored, no folder, a newer format), CallerError.
    """
    name = settings.replica.name
    if not (folder / layout.IDENTITY).exists():
        if folder.exists() and not folder.is_dir():
            raise FolderError(f"{folder} is not a folder; name one for the replica to live in")
        if (folder / layout.JOURNAL).exists():
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


async def _prepared(
    path: Path, settings: Settings | None, overrides: dict[str, Any]
) -> tuple[Settings, Identity, SqliteJournal]:
    """`_prepare` in a thread, which can't be stopped: who gives up waits and frees the folder."""
    work = asyncio.ensure_future(asyncio.to_thread(_prepare, path, settings, overrides))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        with contextlib.suppress(MeshError):
            await (await work)[2].close()
        raise


def _prepare(
    path: Path, settings: Settings | None, overrides: dict[str, Any]
) -> tuple[Settings, Identity, SqliteJournal]:
    """All that blocks: settings, folder, identity, journal."""
    chosen = load_settings(**overrides) if settings is None else settings.override(**overrides)
    folder = path.expanduser().resolve()
    identity = identity_of(folder, chosen)
    _keep_personal_mesh_local(identity, chosen)
    return chosen, identity, open_journal(folder, identity.mesh)


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
            "found a mesh with persistence.create_genesis and let the replica in with provision, "
            "or listen on 127.0.0.1"
        )


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
