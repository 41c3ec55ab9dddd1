"""The four servers together, while a block lasts; `mesh.stack.standing` has those that stay.

    async with Stack.running(folder, only=("redis",), progress=print) as stack:
        stack.services["redis"].address

For development, tests and rehearsals on one machine: the servers listen on the loopback without a
password, so any user of this machine may use them.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from pathlib import Path
from typing import Final, cast

from crdt.errors import CallerError
from mesh.sections import nearest
from mesh.stack.recipe import Recipe, Say, StackError, silent
from mesh.stack.server import Server
from mesh.stack.state import StateFile
from persistence.folder import LOCK, FolderLock

SERVICES: Final = ("redis", "kafka", "postgres", "temporal")
"""Names of the services, in the order they are shown in."""

VARIABLES: Final = {
    "redis": "STATEMESH_REDIS__URL",
    "kafka": "STATEMESH_KAFKA__SERVERS",
    "postgres": "STATEMESH_POSTGRES__DSN",
    "temporal": "STATEMESH_TEMPORAL__ADDRESS",
}
"""The environment variable by which each service's address becomes a setting."""

RECIPES: Final = {
    "redis": "RedisRecipe",
    "kafka": "KafkaRecipe",
    "postgres": "PostgresRecipe",
    "temporal": "TemporalRecipe",
}


class Stack:
    """Real servers that die with this process. Made by `Stack.running`."""

    def __init__(self, servers: Iterable[Server]) -> None:
        self._servers = {server.name: server for server in servers}

    def __repr__(self) -> str:
        return f"<Stack of {', '.join(map(repr, self._servers.values()))}>"

    @classmethod
    @contextlib.asynccontextmanager
    async def running(
        cls,
        folder: str | Path,
        only: Iterable[str] = SERVICES,
        ports: Mapping[str, int] | None = None,
        progress: Say = silent,
    ) -> AsyncIterator[Stack]:
        """Start these servers at once, wait until all answer, and stop them when the block ends.

        `ports` tells some of them their port by name of service; the others get a free one. The
        folder is made if missing; what servers kept in it is there again. They die with this
        process, however it ends (on Linux; and with the *thread* that starts them: use the main
        one). Addresses in the settings play no part: these are always servers of their own. Raises
        StackError, after stopping those that did start; FolderError if the folder is in use.
        """
        names, told = check_services(only), check_ports(ports or {})
        place = await asyncio.to_thread(make_folder, folder)
        with FolderLock(place / LOCK, owner=True):
            state = StateFile(place)
            recorded = state.read()
            for name in SERVICES:
                process = recorded[name].process if name in recorded else None
                if process is not None and process.running:
                    raise StackError(
                        f"{name} runs in {place} already, as process {process.pid}; "
                        f"mesh stack down --dir {place}"
                    )
            stack = cls(make_servers(place, names, told, state, progress, bound=True))
            try:
                await stack._start_all()
                yield stack
            finally:
                await stack._stop_all()

    @property
    def services(self) -> Mapping[str, Server]:
        """The servers by name: each has name, address, version, pid, running."""
        return self._servers

    def environment(self) -> dict[str, str]:
        """The variables that make these servers the settings'."""
        return {VARIABLES[name]: server.address for name, server in self._servers.items()}

    async def start(self, name: str) -> None:
        """Start it again, with the same port and data; returns once it answers. Idempotent.

        Raises StackError.
        """
        await self._server(name).start()

    async def stop(self, name: str) -> None:
        """Stop it in order. Idempotent."""
        await self._server(name).stop()

    async def kill(self, name: str) -> None:
        """Kill it and all its processes at once; returns once they are gone. Idempotent."""
        await self._server(name).kill()

    def _server(self, name: str) -> Server:
        if name not in self._servers:
            there = ", ".join(self._servers)
            raise CallerError(f"this stack has no {name!r}, only {there}; name it in only=")
        return self._servers[name]

    async def _start_all(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for server in self._servers.values():
                    group.create_task(server.start())
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None

    async def _stop_all(self) -> None:
        stops = (server.stop() for server in self._servers.values())
        for failure in await asyncio.gather(*stops, return_exceptions=True):
            if isinstance(failure, BaseException):
                raise failure


def make_folder(folder: str | Path) -> Path:
    """The folder, absolute; made if missing. Raises StackError."""
    place = Path(folder).absolute()
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StackError(f"cannot make the folder {place}: {error}; use another --dir") from None
    return place


def make_recipe(name: str) -> Recipe:
    """The recipe of a service; its module, and so its driver, is imported now."""
    module = importlib.import_module(f"mesh.stack.{name}")
    return cast("Recipe", getattr(module, RECIPES[name])())


def make_servers(
    folder: Path,
    names: Iterable[str],
    told: Mapping[str, int],
    state: StateFile,
    say: Say,
    *,
    bound: bool,
) -> list[Server]:
    """Servers as the folder remembers them. Not started. Raises StackError."""
    recorded = state.read()
    servers = []
    for name in names:
        recipe = make_recipe(name)
        servers.append(
            Server(
                recipe,
                folder / name,
                told={recipe.port_names[0]: told[name]} if name in told else None,
                recorded=recorded.get(name),
                bound=bound,
                say=say,
                record=lambda entry, name=name: state.put(name, entry),  # type: ignore[misc]
            )
        )
    return servers


def check_services(names: Iterable[str]) -> tuple[str, ...]:
    """The names in the order of `SERVICES`. Raises CallerError for one that is none."""
    chosen: Collection[str] = {names} if isinstance(names, str) else set(names)
    for name in sorted(chosen):
        if name not in SERVICES:
            raise CallerError(f"{name!r} is no service{nearest(name, list(SERVICES))}")
    if not chosen:
        raise CallerError(f"no service is named; there are {', '.join(SERVICES)}")
    return tuple(name for name in SERVICES if name in chosen)


def check_ports(ports: Mapping[str, int]) -> dict[str, int]:
    """The same, checked. Raises CallerError."""
    check_services([*ports, SERVICES[0]])
    for name, port in ports.items():
        if not 0 < port < 65_536:
            raise CallerError(f"port {port} of {name} is none; use one from 1 to 65535")
    if len(set(ports.values())) < len(ports):
        raise CallerError("two services are told the same port; give each its own")
    return dict(ports)
