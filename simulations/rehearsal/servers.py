"""The servers under a fleet: Temporal alone, or the full stack, any server of which may be lost."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Final

from crdt.errors import ServiceError
from mesh.health import BUS, CHECKPOINTS, COORDINATOR, LOG
from mesh.stack import SERVICES, Server, Stack
from mesh.stack.process import log_tail
from mesh.stack.recipe import Say
from mesh.stack.temporal import PRODUCT, TemporalServer
from simulations.rehearsal.plan import SHARED

PARTS: Final[Mapping[str, str]] = {
    "redis": BUS,
    "kafka": LOG,
    "postgres": CHECKPOINTS,
    "temporal": COORDINATOR,
}
"""The part of a replica's health that tells of a service."""


class ServerLost(ServiceError):
    """A server of the stack ended by itself, which no plan had."""


class Servers:
    """What runs under a fleet. Made by `open_servers`, which also ends it."""

    def __init__(self, temporal: TemporalServer | Server, stack: Stack | None = None) -> None:
        self._temporal = temporal
        self._stack = stack
        self._away: str | None = None

    @property
    def temporal(self) -> str:
        """Where Temporal is, as host:port."""
        return self._temporal.address

    @property
    def decides(self) -> bool:
        """Whether Temporal's process is there."""
        return self._temporal.running

    @property
    def shared(self) -> dict[str, str]:
        """The addresses of the services that carry state, as clients write them; {} without a
        stack.
        """
        services = self._stack.services if self._stack is not None else {}
        return {name: services[name].address for name in SHARED if name in services}

    @property
    def versions(self) -> dict[str, str]:
        """{service: product and version}; of Temporal the version alone."""
        temporal = {"temporal": self._temporal.version.removeprefix(PRODUCT)}
        if self._stack is None:
            return temporal
        return {name: server.version for name, server in self._stack.services.items()} | temporal

    @property
    def title(self) -> str:
        """All of them in words."""
        versions = self.versions
        return ", ".join(
            [*(versions[name] for name in self.shared), f"Temporal {versions['temporal']}"]
        )

    def check(self) -> None:
        """Raises ServerLost if a server of the stack is gone that nobody took away."""
        for name, server in self._stack.services.items() if self._stack is not None else ():
            if name != self._away and not server.running:
                raise ServerLost(
                    f"{name} ended by itself ({server.version}, code "
                    f"{server.process.exit_code if server.process else None}): "
                    f"{log_tail(server.place.log)}"
                )

    async def take_away(self, name: str) -> None:
        """SIGKILL a server of the stack; it may be gone until `bring_back`."""
        assert self._stack is not None, "options are checked: only a stack loses servers"
        self._away = name
        await self._stack.kill(name)

    async def bring_back(self, name: str) -> None:
        """Start it on what it left on its disk; returns once it answers. Raises StackError."""
        assert self._stack is not None, "options are checked: only a stack loses servers"
        await self._stack.start(name)
        self._away = None


@contextlib.asynccontextmanager
async def open_servers(folder: Path, *, stack: bool, say: Say) -> AsyncIterator[Servers]:
    """Servers that answer, Temporal in memory unless it is a stack's; gone when the block ends.

    Of a stack's data nothing stays; its logs go to `folder/logs`. Raises StackError.
    """
    if not stack:
        async with TemporalServer.start(folder / "temporal", in_memory=True) as temporal:
            yield Servers(temporal)
        return
    place = folder / "stack"
    try:
        async with Stack.running(place, progress=say) as running:
            yield Servers(running.services["temporal"], running)
    finally:
        await asyncio.to_thread(_clear_away, place, folder / "logs")


def _clear_away(place: Path, logs: Path) -> None:
    logs.mkdir(exist_ok=True)
    for name in SERVICES:
        log = place / name / f"{name}.log"
        if log.exists():
            shutil.move(log, logs / log.name)
    if place.exists():
        shutil.rmtree(place)


def location(address: str) -> str:
    """The `host:port` in a URL, or in `host:port` itself."""
    return address.rpartition("://")[2].rpartition("@")[2].partition("/")[0]
