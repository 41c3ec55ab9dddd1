"""A stack that stands on its own: what `mesh stack up`, `down` and `status` do.

Its servers outlive the command that started them, and are found again by the record in the stack's
folder. A server that the settings name is used as it is: asked, but never started or stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import shlex
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from crdt.errors import CallerError, MeshError
from mesh.sections import without_password
from mesh.settings import Settings
from mesh.stack.recipe import Say, StackError, silent
from mesh.stack.server import ASK_S, Server
from mesh.stack.stack import (
    SERVICES,
    VARIABLES,
    check_ports,
    check_services,
    make_folder,
    make_recipe,
    make_servers,
)
from mesh.stack.state import Entry, StateFile
from persistence.base import FolderError
from persistence.folder import LOCK, FolderLock

DEFAULT_FOLDER: Final = Path("mesh-stack")
LOCK_WAIT_S: Final = 300.0
LOCK_POLL_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Standing:
    """How one service is now. `trouble` is empty where it answers; `source` says whose it is.

    `address` holds no password. `pid` and `uptime_s` are known of a running server of the stack.
    """

    name: str
    source: Literal["stack", "settings"]
    address: str
    version: str = ""
    pid: int | None = None
    uptime_s: float | None = None
    trouble: str = ""

    @property
    def well(self) -> bool:
        """Whether it answered."""
        return not self.trouble


async def up(
    folder: Path,
    names: Iterable[str] | None,
    ports: Mapping[str, int],
    settings: Settings,
    say: Say,
) -> list[Standing]:
    """Make these services (None: all) run, and wait until each answers.

    What runs already is left as it is. Raises StackError that says of each service that failed why;
    the others stay up. Two of these in one folder wait for each other.
    """
    chosen = SERVICES if names is None else check_services(names)
    told = check_ports(ports)
    place = await asyncio.to_thread(make_folder, folder)
    async with _locked(place, say):
        state = StateFile(place)
        recorded = state.read()
        named = _named_in(settings, recorded)
        _check_told(told, named, recorded, place)
        own = [name for name in chosen if name not in named]
        servers = make_servers(place, own, told, state, say, bound=False)
        # Asked first: one that does not answer ends this before anything is started.
        foreign = [await _reach(name, settings, say) for name in chosen if name in named]
        ends = await asyncio.gather(*(each.start() for each in servers), return_exceptions=True)
        _raise_all(ends)
        standing = [*foreign, *(_standing(server) for server in servers)]
        return sorted(standing, key=lambda one: SERVICES.index(one.name))


async def down(folder: Path, names: Iterable[str] | None, say: Say) -> list[str]:
    """Stop what `up` started in this folder and still runs; returns the names of those stopped.

    Ports and data stay for the next `up`. Raises StackError.
    """
    chosen = SERVICES if names is None else check_services(names)
    place = folder.absolute()  # noqa: ASYNC240 - touches no disk
    if not await asyncio.to_thread(place.is_dir):
        say(f"nothing was ever started in {place}")
        return []
    async with _locked(place, say):
        state = StateFile(place)
        recorded = state.read()
        there = [name for name in chosen if name in recorded or (place / name).is_dir()]
        servers = make_servers(place, there, {}, state, say, bound=False)
        ends = await asyncio.gather(
            *(_stop(server, state, say) for server in servers), return_exceptions=True
        )
        _raise_all(ends)
        if not any(server.process for server in servers):
            say(f"nothing runs in {place}")
        return [end for end in ends if isinstance(end, str) and end]


async def status(folder: Path, names: Iterable[str] | None, settings: Settings) -> list[Standing]:
    """How these services are now: each is asked. None: those the folder or the settings know.

    Changes nothing, and needs no lock. Raises StackError where the folder's record is unreadable.
    """
    place = folder.absolute()  # noqa: ASYNC240 - touches no disk
    state = StateFile(place)
    recorded = state.read()
    named = _named_in(settings, recorded)
    known = [name for name in SERVICES if name in recorded or name in named] or SERVICES
    chosen = known if names is None else check_services(names)
    servers = make_servers(
        place, [n for n in chosen if n not in named], {}, state, silent, bound=False
    )
    asked = [_ask(server) for server in servers]
    asked += [_try_to_reach(name, settings) for name in chosen if name in named]
    return sorted(await asyncio.gather(*asked), key=lambda one: SERVICES.index(one.name))


def command_line(verb: str, folder: Path, *names: str) -> str:
    """What to type for `mesh stack VERB` to be about this folder and these services (none: all)."""
    elsewhere = folder.absolute() != DEFAULT_FOLDER.absolute()
    options = [f"--only {','.join(names)}"] if names else []
    options += [f"--dir {shlex.quote(str(folder))}"] if elsewhere else []
    return " ".join(["mesh stack", verb, *options])


def environment(folder: Path, names: Iterable[str] | None, say: Say) -> dict[str, str]:
    """The variables that make the folder's running servers the settings'.

    Says which are left out as they should run and don't. Raises StackError where none runs.
    """
    recorded = StateFile(folder.absolute()).read()
    chosen = SERVICES if names is None else check_services(names)
    found = {name: recorded[name] for name in chosen if name in recorded}
    running = {
        name: entry.address
        for name, entry in found.items()
        if entry.process and entry.process.running
    }
    asked = () if names is None else chosen
    if not running:
        raise StackError(
            f"{', '.join(asked) + ': ' if asked else ''}nothing runs in {folder.absolute()}; "
            f"start it by {command_line('up', folder, *asked)}"
        )
    for name in chosen:
        if name not in running and (name in asked or (name in found and found[name].process)):
            say(f"{name} does not run; start it by {command_line('up', folder, name)}")
    return {VARIABLES[name]: address for name, address in running.items()}


@contextlib.asynccontextmanager
async def _locked(folder: Path, say: Say) -> AsyncIterator[None]:
    """Hold the folder's lock. Raises FolderError where another keeps it for minutes."""
    loop = asyncio.get_running_loop()
    deadline, told = loop.time() + LOCK_WAIT_S, False
    while True:
        try:
            lock = FolderLock(folder / LOCK, owner=True)
            break
        except FolderError as error:
            held = isinstance(error.__cause__, BlockingIOError)
            if not held or loop.time() > deadline:
                raise
            if not told:
                say(f"waiting: {error}")
                told = True
            await asyncio.sleep(LOCK_POLL_S)
    with lock:
        yield


def _named_in(settings: Settings, recorded: Mapping[str, Entry]) -> dict[str, str]:
    """Addresses of servers that the settings name and this stack did not start itself.

    Whoever exported what `mesh stack env` prints has its own servers in the settings.
    """
    named = {
        "redis": settings.redis.url,
        "kafka": ",".join(settings.kafka.servers),
        "postgres": settings.postgres.dsn,
        "temporal": settings.temporal.address,
    }
    return {
        name: address
        for name, address in named.items()
        if address and (name not in recorded or recorded[name].address != address)
    }


def _check_told(
    told: Mapping[str, int], named: Mapping[str, str], recorded: Mapping[str, Entry], place: Path
) -> None:
    for name, port in told.items():
        if name in named:
            raise CallerError(
                f"--port {name}={port}: your settings name a server for {name}, so none is "
                f"started; unset {VARIABLES[name]}, or leave the option out"
            )
        entry = recorded.get(name)
        if entry is None or entry.process is None or not entry.process.running:
            continue
        if port not in entry.ports.values():
            raise CallerError(
                f"--port {name}={port}: it runs already, at {entry.address}; "
                f"stop it first by {command_line('down', place, name)}"
            )


def _raise_all(ends: Iterable[object]) -> None:
    """Raise what failed, as one error if all failures are ours."""
    failures = [end for end in ends if isinstance(end, BaseException)]
    for failure in failures:
        if not isinstance(failure, MeshError):
            raise failure
    if failures:
        raise StackError("; ".join(map(str, failures)))


async def _stop(server: Server, state: StateFile, say: Say) -> str:
    """Stop one, and say so; returns its name if it did run. Raises StackError."""
    pid, version = server.pid, server.version or server.name
    if pid is not None:
        await server.stop()
        say(f"{server.name}: stopped {version}, pid {pid}, at {server.address}")
        return server.name
    await server.check_left_behind()
    if server.process is not None:
        state.put(server.name, server.entry().stopped())
        say(f"{server.name}: had ended by itself; see its log {server.place.log}")
    return ""


async def _ask(server: Server) -> Standing:
    try:
        if server.running:
            server.version = await server.ask()
            return _standing(server)
        await server.check_left_behind()
    except StackError as error:
        return _standing(server, trouble=str(error))
    start = command_line("up", server.folder.parent, server.name)
    if server.process is not None:
        return _standing(
            server,
            trouble=f"its process {server.process.pid} has ended; see its log {server.place.log}, "
            f"start it again by {start}",
        )
    how = "stopped" if server.address else "not started"
    return _standing(server, trouble=f"{how}; start it by {start}")


def _standing(server: Server, trouble: str = "") -> Standing:
    pid, process = server.pid, server.process
    uptime = round(max(0.0, time.time() - process.started), 1) if pid and process else None
    return Standing(
        server.name, "stack", server.address, server.version, pid, uptime, trouble=trouble
    )


async def _reach(name: str, settings: Settings, say: Say) -> Standing:
    """Ask the server that the settings name. Raises StackError where it does not answer."""
    found = await _try_to_reach(name, settings)
    if not found.well:
        raise StackError(
            f"{found.trouble}; correct {VARIABLES[name]} (or the settings file), start that "
            "server, or take it out of the settings to have one started"
        )
    say(f"{name}: {found.version} at {found.address} is used, as the settings name it")
    return found


async def _try_to_reach(name: str, settings: Settings) -> Standing:
    address = _named_in(settings, {})[name]
    shown = without_password(address)
    try:
        async with asyncio.timeout(ASK_S):
            version = await _version_at(name, address, settings)
    except (OSError, TimeoutError, StackError) as error:
        reason = str(error) or f"nothing within {ASK_S:g} s"
        trouble = f"{name} at {shown}, named in the settings, does not answer: {reason}"
        return Standing(name, "settings", shown, trouble=trouble)
    return Standing(name, "settings", shown, version)


async def _version_at(name: str, address: str, settings: Settings) -> str:
    if name == "temporal":
        from mesh.stack.temporal import TemporalRecipe

        return await TemporalRecipe(settings.temporal.namespace).reach(address)
    if name == "kafka" and (settings.kafka.tls or settings.kafka.username):
        host, _, port = settings.kafka.servers[0].rpartition(":")
        _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
        writer.close()
        return "a listener behind TLS or a login, not asked what it is"
    return await make_recipe(name).reach(address)
