"""The bus over Redis (6.2 or newer) or Valkey: one stream a shard. See `mesh.environment.Bus`.

    bus = RedisBus("redis://127.0.0.1:6379/0", mesh=mesh_id, shards=16, entropy=entropy)
    generation = await bus.publish([(3, frame)])
    batch = await bus.read({3: ""}, limit=256, wait_s=1.0)

Keys are `statemesh:{MESH}:SHARD:frames` (streams; one field `f`, the frame) and
`statemesh:{MESH}:generation`; `redis_registry.py` has the registry's. All of a mesh's keys share
one hash tag, so that in a cluster they live on one node: only so can one blocking read wait for all
shards. A cluster spreads meshes.

**Generation** is made of three things, because no single one tells every loss: a token that the
first one to arrive leaves in the data (a flush, or another database, has not got it), the server's
run id (after a restart the newest writes may be missing, token or not) and its replication id
(where it became a replica and a master again on open connections, its data was replaced). The token
is asked for in the same round trip as the frames; the rest when connecting, and once a second.

**Trimming** is looked for where it can have happened: at a position this connection has not handed
out, and after a read that brought as many entries as a stream may be cut down to. That rests on
nobody cutting the streams shorter than that, as `trim` is never asked to; where the server's memory
policy may evict a stream whole (`allkeys-*`), every read looks. It errs on the side of telling:
where the entry at the position is itself gone, `trimmed` is told though perhaps nothing after it
was removed.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, TypeAlias, TypeVar

import redis.exceptions as driver
from redis.asyncio.connection import AbstractConnection, Connection, parse_url

from mesh.environment import BusBatch, BusEntry
from mesh.sections import SettingsError
from mesh.transports.redis_errors import explain, refused
from mesh.transports.redis_registry import RegistryKeys, cuts, found, wanted
from persistence.base import Entropy, ServiceUnavailable

__all__ = ("RedisBus",)

T = TypeVar("T")
Command: TypeAlias = tuple[str | bytes | int, ...]

OLDEST_VERSION = [6, 2]
PIPELINE_BYTES = 4 << 20
"""Frames sent before their answers are awaited: bounds what is copied at once."""
KEPT_AT_LEAST = 100
"""The smallest `stream_entries_max` a replica may be set to: no stream is cut below it."""
REFRESH_S = 1.0
"""How old the replication id may be that a generation is made of."""
EXAMPLE = "write one like redis://127.0.0.1:6379/0"
FIELD: Final = b"f"
START = "0-0"


class _Line:
    """One connection, and what is known of the server process at its other end."""

    def __init__(self, connection: AbstractConnection) -> None:
        self.connection = connection
        self.sound: dict[int, str] = {}
        """Positions that nothing is missing after, unless it was trimmed since."""
        self.product = ""
        self.version = ""
        self.evicts = ""
        self._run = ""
        self._replication = ""
        self._refreshed = 0.0

    async def open(self, address: str) -> None:
        """Connect, log in and learn whose line this is; refuse what can't serve as a bus."""
        await self.connection.connect()  # type: ignore[no-untyped-call]
        reply = (await self._exchange([("INFO",)]))[0]
        facts = _facts(reply)
        if "redis_version" not in facts:
            raise driver.InvalidResponse("no version in its INFO")
        self.product = "Valkey" if "valkey_version" in facts else "Redis"
        self.version = facts.get("valkey_version", facts["redis_version"])
        if [int(part) for part in re.findall(r"\d+", self.version)[:2]] < OLDEST_VERSION:
            raise ServiceUnavailable(
                f"Redis at {address} is of version {self.version}",
                "use Redis 6.2 or newer, or Valkey",
                lasting=True,
            )
        policy = facts.get("maxmemory_policy", "")
        if policy.startswith("allkeys") and facts.get("maxmemory", "0") != "0":
            self.evicts = policy
        self._run = facts.get("run_id", "")
        self._learn(facts, address)

    async def ask(self, commands: Sequence[Command], address: str) -> list[Any]:
        """The replies; raises the first refusal among them. One round trip."""
        due = asyncio.get_running_loop().time() - self._refreshed > REFRESH_S
        asked = [*commands, ("INFO", "replication")] if due else commands
        replies = await self._exchange(asked)
        for reply in replies:
            if isinstance(reply, driver.ResponseError) and not _no_such_key(reply):
                raise reply
        if due:
            self._learn(_facts(replies.pop()), address)
        return replies

    @property
    def server(self) -> str:
        """Another one where the process was restarted, or its data replaced by a master's."""
        return f"{self._run[:12]}.{self._replication[:12]}"

    def generation(self, token: bytes) -> str:
        """The name of the data behind this line."""
        return f"{token[:64].decode(errors='replace')}.{self.server}"

    async def drop(self) -> None:
        """Disconnect at once, without waiting for anything."""
        with suppress(driver.RedisError, OSError):
            await self.connection.disconnect(nowait=True)

    async def _exchange(self, commands: Sequence[Command]) -> list[Any]:
        connection = self.connection
        if not connection.is_connected:  # or else the driver would connect again by itself
            raise driver.ConnectionError("closed meanwhile")
        await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
        replies: list[Any] = []
        for _ in commands:
            try:
                replies.append(await connection.read_response())
            except driver.ResponseError as error:
                replies.append(error)
        return replies

    def _learn(self, facts: Mapping[str, str], address: str) -> None:
        if facts.get("role") == "slave":
            master = f"{facts.get('master_host', '')}:{facts.get('master_port', '')}"
            raise refused("READONLY", f"its master is {master}", address)
        self._replication = facts.get("master_replid", "")
        self._refreshed = asyncio.get_running_loop().time()


class _Side:
    """Whoever holds the lock may use, replace or drop the line."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.line: _Line | None = None


class RedisBus:
    """`mesh.environment.Bus` of one mesh on one Redis server.

    Connects at the first call, over one connection for writes and one for blocking reads, and again
    at the first call after a failure. Calls of the same kind wait for one another. No answer is
    waited for longer than `timeout_s` seconds (a read: plus its `wait_s`).

    `mesh`: the 16 bytes of the mesh's id. Streams keep at least `stream_entries_max` entries.
    Raises SettingsError where `url` is none this product can use.
    """

    def __init__(
        self,
        url: str,
        *,
        mesh: bytes,
        shards: int,
        entropy: Entropy,
        stream_entries_max: int = 100_000,
        read_entries: int = 256,
        timeout_s: float = 5.0,
    ) -> None:
        self._connect, self._address = _connector(url, timeout_s)
        prefix = f"statemesh:{{{mesh.hex()}}}"
        self._keys = [f"{prefix}:{shard}:frames" for shard in range(shards)]
        self._shard_of = {key.encode(): shard for shard, key in enumerate(self._keys)}
        self._token_key = f"{prefix}:generation"
        self._registry = RegistryKeys(prefix)
        self._entropy = entropy
        self._kept = stream_entries_max
        self._read_entries = read_entries
        self._timeout_s = timeout_s
        self._writing = _Side()
        self._reading = _Side()
        self._closed = False

    async def publish(self, frames: Sequence[tuple[int, bytes]]) -> str:
        """See `Bus.publish`. More than 4 MiB go in several round trips."""
        if wrong := [shard for shard, _ in frames if not 0 <= shard < len(self._keys)]:
            raise ValueError(f"shard {wrong[0]} is not in 0..{len(self._keys) - 1}")

        async def write(line: _Line) -> str:
            # While frames are written the data may be flushed, and those written already with it.
            # The second try meets the new data from its start.
            for _ in range(2):
                if generation := await self._append(line, frames):
                    return generation
            raise ServiceUnavailable(
                f"the data of Redis at {self._address} went again and again while frames were "
                "written",
                "find out who flushes it",
            )

        return await self._run(self._writing, write)

    async def read(
        self, after: Mapping[int, str], *, limit: int | None = None, wait_s: float
    ) -> BusBatch:
        """See `Bus.read`. `limit` defaults to `read_entries`.

        Positions belong to the generation of the batch they came in; in another one begin at ""
        again, or entries are missed that were written under older positions.
        """
        limit = self._read_entries if limit is None else limit
        if limit < 1:
            raise ValueError(f"limit {limit} is not positive")
        for shard, position in after.items():
            if not 0 <= shard < len(self._keys):
                raise ValueError(f"shard {shard} is not in 0..{len(self._keys) - 1}")
            _ordinal(position or START)

        loop = asyncio.get_running_loop()
        until = loop.time() + wait_s

        async def read(line: _Line) -> BusBatch:
            return await self._read(line, after, limit, until - loop.time())

        return await self._run(self._reading, read)

    async def trim(self, below: Mapping[int, Sequence[str]], *, generation: str) -> None:
        """See `Bus.trim`. Whole nodes of the streams are freed; what is less stays."""
        commands = cuts(self._keys, below)

        async def trim(line: _Line) -> None:
            (token,) = await self._ask(line, [("GET", self._token_key)])
            if commands and line.generation(token or b"") == generation:
                await self._ask(line, commands)

        await self._run(self._writing, trim)

    async def announce(self, name: str, row: bytes, *, ttl_s: float) -> None:
        """See `Bus.announce`."""

        async def announce(line: _Line) -> None:
            (time,) = await self._ask(line, [("TIME",)])
            await self._ask(line, self._registry.leave(name, row, ttl_s, time))

        await self._run(self._writing, announce)

    async def announced(self, prefix: str) -> dict[str, bytes]:
        """See `Bus.announced`."""

        async def look(line: _Line) -> dict[str, bytes]:
            names = wanted((await self._ask(line, [self._registry.names()]))[0], prefix)
            commands = self._registry.rows(names)
            return found(names, await self._ask(line, commands) if commands else [])

        return await self._run(self._writing, look)

    async def version(self) -> str:
        """See `Bus.version`. Also says where the memory policy may evict streams."""

        async def ask(line: _Line) -> str:
            await self._ask(line, [("PING",)])
            evicting = f", may evict streams: maxmemory-policy is {line.evicts}"
            return f"{line.product} {line.version}{evicting if line.evicts else ''}"

        return await self._run(self._writing, ask)

    async def close(self) -> None:
        """See `Bus.close`. Calls under way end with ServiceUnavailable."""
        self._closed = True
        for side in (self._writing, self._reading):
            line, side.line = side.line, None
            if line is not None:
                # It is bounded by the connection's own timeout.
                with suppress(driver.RedisError, OSError):
                    await line.connection.disconnect()

    async def _append(self, line: _Line, frames: Sequence[tuple[int, bytes]]) -> str:
        """Write all frames; their generation, or "" where it was not one for all of them."""
        look: Command = ("GET", self._token_key)
        tokens: list[bytes | None] = []
        server = line.server
        for chunk in _chunks(frames):
            commands: list[Command] = [] if tokens else [self._leave_token(), look]
            commands += [
                ("XADD", self._keys[shard], "MAXLEN", "~", self._kept, "*", FIELD, data)
                for shard, data in chunk
            ]
            replies = await self._ask(line, [*commands, look])
            tokens += [replies[-1]] if tokens else [replies[1], replies[-1]]
        token = tokens[-1]
        if token is None or set(tokens) != {token} or line.server != server:
            return ""
        return line.generation(token)

    async def _read(
        self, line: _Line, after: Mapping[int, str], limit: int, wait_s: float
    ) -> BusBatch:
        unsure = {at: pos for at, pos in after.items() if pos and line.sound.get(at) != pos}
        missing = await self._missing(line, unsure)
        start = {at: START if missing.get(at) else pos or START for at, pos in after.items()}
        commands: list[Command] = [("GET", self._token_key)]
        if after:
            block = ("BLOCK", max(1, int(wait_s * 1000))) if wait_s > 0 else ()
            keys = (self._keys[shard] for shard in start)
            commands.insert(0, ("XREAD", "COUNT", limit, *block, "STREAMS", *keys, *start.values()))
        *streams, token = await self._ask(line, commands, wait_s)
        if token is None:
            token = (await self._ask(line, [self._leave_token(), commands[-1]]))[1]
        found = {self._shard_of[key]: rows for key, rows in (streams and streams[0]) or ()}
        many = min(limit, self._kept, KEPT_AT_LEAST)
        doubtful = {
            shard: start[shard]
            for shard, rows in found.items()
            if start[shard] != START and (line.evicts or len(rows) >= many)
        }
        missing.update(await self._missing(line, doubtful))
        entries = [
            BusEntry(shard, row.decode(), _frame(fields))
            for shard, rows in found.items()
            for row, fields in rows
        ]
        line.sound.update((at, pos) for at, pos in after.items() if not missing.get(at))
        line.sound.update((entry.shard, entry.position) for entry in entries)
        return BusBatch(line.generation(token or b""), entries, sorted(missing))

    async def _missing(self, line: _Line, positions: Mapping[int, str]) -> dict[int, bool]:
        """The shards where entries after the position may be gone.

        True where the position is beyond all the stream ever had, because it was deleted, or is an
        older copy: what is added now may come below the position.
        """
        if not positions:
            return {}
        asked: list[Command] = [("XINFO", "STREAM", self._keys[shard]) for shard in positions]
        missing: dict[int, bool] = {}
        for (shard, position), reply in zip(
            positions.items(), await self._ask(line, asked), strict=True
        ):
            if isinstance(reply, driver.ResponseError):
                missing[shard] = True
                continue
            stream = dict(zip(reply[::2], reply[1::2], strict=True))
            at, last = _ordinal(position), _ordinal(stream[b"last-generated-id"].decode())
            first = stream[b"first-entry"]
            if at > last:
                missing[shard] = True
            elif at < last and (first is None or at < _ordinal(first[0].decode())):
                missing[shard] = False
        return missing

    def _leave_token(self) -> Command:
        # A new one every time: the same one again would hide that the first was lost.
        return ("SET", self._token_key, self._entropy.token(8).hex(), "NX")

    async def _ask(
        self, line: _Line, commands: Sequence[Command], wait_s: float = 0.0
    ) -> list[Any]:
        async with asyncio.timeout(self._timeout_s + max(0.0, wait_s)):
            return await line.ask(commands, self._address)

    async def _run(self, side: _Side, work: Callable[[_Line], Awaitable[T]]) -> T:
        """Do `work` on the side's line; once more on a new one if the line breaks."""
        async with side.lock:
            for last in (False, True):
                self._check_open()
                opened = side.line is not None
                line = side.line = side.line or _Line(self._connect())
                try:
                    if not opened:
                        async with asyncio.timeout(self._timeout_s):
                            await line.open(self._address)
                        opened = True
                        self._check_open()
                    return await work(line)
                except BaseException as error:
                    side.line = None
                    await line.drop()
                    if not isinstance(error, Exception):
                        raise
                    self._check_open()
                    if opened and _broke(error) and not last:
                        continue
                    # What is no Redis may answer anything at all; a Redis does not.
                    if isinstance(error, driver.RedisError | OSError) or (
                        isinstance(error, ValueError) and not opened
                    ):
                        raise explain(error, self._address, self._timeout_s, opened) from error
                    raise
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _check_open(self) -> None:
        if self._closed:
            raise ServiceUnavailable("the bus was closed here", "open another", lasting=True)

    def __repr__(self) -> str:
        line = self._writing.line or self._reading.line
        state = "closed" if self._closed else "connected" if line else "not connected"
        return f"RedisBus({self._address}, {state})"


def _connector(url: str, timeout_s: float) -> tuple[Callable[[], AbstractConnection], str]:
    """How to make a connection, and what to call its other end: never with a password."""
    try:
        options: dict[str, Any] = dict(parse_url(url))
    except ValueError:
        raise SettingsError(f"redis.url is no URL of a Redis server; {EXAMPLE}") from None
    make: type[AbstractConnection] = options.pop("connection_class", Connection)
    path = url.partition("://")[2].partition("?")[0].partition("/")[2].strip("/")
    where = options.get("path") or f"{options.get('host', 'localhost')}:{options.get('port', 6379)}"
    if "path" not in options and path and "db" not in options:
        # Not shown: it is the end of the password where that has an unquoted "/" in it.
        raise SettingsError(f"redis.url has something else than a number as database; {EXAMPLE}")
    # Timeouts are kept by the bus, which knows how long each call may wait; the driver's would
    # break off blocking reads. Nor does the driver retry, which would hide that a line was lost.
    options |= {"socket_timeout": None, "socket_connect_timeout": timeout_s}
    options |= {"protocol": 2, "driver_info": None, "decode_responses": False}
    try:
        make(**options)
    except (TypeError, driver.RedisError) as error:
        raise SettingsError(f"redis.url has an option it can't have: {error}") from None
    return lambda: make(**options), f"{where}/{options.get('db', 0)}"


def _chunks(frames: Sequence[tuple[int, bytes]]) -> Iterator[list[tuple[int, bytes]]]:
    """The frames in groups of about `PIPELINE_BYTES`; one empty group where there are none."""
    chunk: list[tuple[int, bytes]] = []
    size = 0
    for frame in frames:
        chunk.append(frame)
        size += len(frame[1]) + 64
        if size >= PIPELINE_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk or not frames:
        yield chunk


def _frame(fields: Sequence[bytes]) -> bytes:
    """The frame in an entry. An entry of somebody else's is handed on empty, not passed over."""
    for index in range(0, len(fields) - 1, 2):
        if fields[index] == FIELD:
            return fields[index + 1]
    return b""


def _ordinal(position: str) -> tuple[int, int]:
    """A stream id as it is ordered. ValueError: it is none."""
    major, dash, minor = position.partition("-")
    if not dash or not (major + minor).isascii() or not (major.isdigit() and minor.isdigit()):
        raise ValueError(f"{position!r} is no position of this bus")
    return int(major), int(minor)


def _facts(reply: object) -> dict[str, str]:
    """What INFO says."""
    if isinstance(reply, driver.ResponseError):
        raise reply
    if not isinstance(reply, bytes):
        raise driver.InvalidResponse(f"{type(reply).__name__} as the answer to INFO")
    lines = reply.decode(errors="replace").splitlines()
    return {name: value for name, _, value in (line.partition(":") for line in lines)}


def _no_such_key(error: driver.ResponseError) -> bool:
    return "no such key" in str(error)


def _broke(error: BaseException) -> bool:
    """Whether the connection itself broke: nothing that the server said, and no timeout."""
    if isinstance(error, driver.ConnectionError):
        return error.status_code is None
    return isinstance(error, OSError) and not isinstance(error, TimeoutError)
