"""One server of a stack: its recipe and its place, and its process while it runs."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from mesh.stack.process import (
    ServerProcess,
    free_port,
    left_behind,
    log_tail,
    port_is_free,
    spawn,
    until,
)
from mesh.stack.recipe import Place, Recipe, Say, StackError, silent
from mesh.stack.state import Entry

READY_S: Final = 60.0
ASK_S: Final = 5.0
PAUSE_S: Final = 0.05
LEAVE_S: Final = 5.0
ATTEMPTS: Final = 5
PORT_TAKEN: Final = "address already in use"


class PortTaken(StackError):
    """Somebody else listens on a port this server was to have."""


class Server:
    """One server. Starts, stops and kills it; several tasks must not do so at once.

    Its ports are those `told`; else those `recorded` of an earlier run, if still free; else free
    ones. Once it has answered they stay, over `kill` and `start`. `bound`: it dies with this
    process. `record` is called whenever its process changes, at once.
    """

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        *,
        told: Mapping[str, int] | None = None,
        recorded: Entry | None = None,
        bound: bool = True,
        say: Say = silent,
        record: Callable[[Entry], None] | None = None,
        ready_s: float = READY_S,
    ) -> None:
        self.recipe = recipe
        self.folder = folder.absolute()
        self.version = recorded.version if recorded else ""
        self._told = dict(told or {})
        self._ports = {**(recorded.ports if recorded else {}), **self._told}
        self._answered = False
        self._process = recorded.process if recorded else None
        self._bound = bound
        self._say: Say = lambda line: say(f"{recipe.name}: {line}")
        self._on_change = record
        self._ready_s = ready_s

    def __repr__(self) -> str:
        state = f"pid {self.pid}" if self.running else "not running"
        return f"<Server {self.name} {self.version or 'of unknown version'}, {state}>"

    @property
    def name(self) -> str:
        """Its name in `SERVICES`."""
        return self.recipe.name

    @property
    def place(self) -> Place:
        """Its folder, ports and log."""
        return Place(self.folder, dict(self._ports), self.folder / f"{self.name}.log")

    @property
    def address(self) -> str:
        """Where clients reach it: URL, DSN or host:port. Before its first start, empty."""
        return self.recipe.address(self.place) if self._ports else ""

    @property
    def pid(self) -> int | None:
        """Its first process, which leads its process group; None while it does not run."""
        return self._process.pid if self._process is not None and self.running else None

    @property
    def running(self) -> bool:
        """Whether its process is there. Whether it answers, `ask` tells."""
        return self._process is not None and self._process.running

    @property
    def process(self) -> ServerProcess | None:
        """The process of its last start, which may have ended."""
        return self._process

    async def ask(self) -> str:
        """Make one real request; returns product and version. Raises StackError, in seconds."""
        try:
            async with asyncio.timeout(ASK_S):
                return await self.recipe.ask(self.place)
        except (OSError, TimeoutError, StackError) as error:
            reason = str(error) or f"nothing within {ASK_S:g} s"
            raise StackError(f"{self.name} at {self.address} does not answer: {reason}") from None

    async def start(self) -> None:
        """Start it where it does not run, and wait until it answers. Raises StackError.

        When this fails or is cancelled, a process that was started is gone; one that ran before is
        left alone.
        """
        if self._process is not None and self.running:
            await self._wait_until_ready(self._process, 0)
            self._say(f"runs already, {self.version} at {self.address}, pid {self.pid}")
            return
        begun = asyncio.get_running_loop().time()
        try:
            await asyncio.to_thread(self.folder.mkdir, mode=0o700, parents=True, exist_ok=True)
            await self._wait_until_left()
            await self._start_on_a_free_port()
        except OSError as error:
            raise StackError(
                f"{self.name} can't use its folder {self.folder}: {error}; make room or mend its "
                "permissions, or use another --dir"
            ) from None
        took = asyncio.get_running_loop().time() - begun
        self._say(f"{self.version} answers at {self.address} after {took:.1f} s")

    async def stop(self) -> None:
        """Ask it to stop in order; kill it if it does not in time. Idempotent."""
        await self._end(self.recipe.stop_signal)

    async def kill(self) -> None:
        """Kill it and all its processes at once, as a crash would; returns once they are gone."""
        await self._end(signal.SIGKILL)

    def entry(self) -> Entry:
        """What to remember of it."""
        process = self._process
        entry = Entry(dict(self._ports), self.address, self.version)
        if process is None:
            return entry
        return Entry(entry.ports, entry.address, entry.version, process.pid, process.started)

    async def check_left_behind(self) -> None:
        """Raises StackError if a process of an earlier start is still in its folder.

        Nobody else knows of one whose command was killed before it could record it, or whose start
        seems another one as the clock was set since.
        """
        place = self.place
        pid = await asyncio.to_thread(left_behind, place.folder, place.log)
        if pid is not None:
            raise StackError(
                f"{self.name}: process {pid} still runs in {place.folder}, but is not the one on "
                f"record; see that it is that server, and end it: kill {pid}"
            )

    async def _wait_until_left(self) -> None:
        """Until nobody else is at its data; what was just killed may take its time to go."""
        with contextlib.suppress(TimeoutError):
            await until(lambda: left_behind(self.folder, self.place.log) is None, LEAVE_S)
        await self.check_left_behind()

    async def _start_on_a_free_port(self) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                self._choose_ports()
                await self._start_once()
                break
            except PortTaken:
                if self._pinned() or attempt == ATTEMPTS:
                    raise
                self._say("its port was taken by somebody else, another one is tried")
                self._ports = dict(self._told)

    async def _start_once(self) -> None:
        place = self.place
        await self.recipe.prepare(place, self._say)
        log_start = place.log.stat().st_size if place.log.exists() else 0
        self._process = spawn(self.recipe.command(place), place.log, bound=self._bound)
        try:
            self._record(self.entry())
            await self._wait_until_ready(self._process, log_start)
        except BaseException:
            await self.kill()
            raise
        self._answered = True
        self._record(self.entry())

    def _choose_ports(self) -> None:
        for name in self.recipe.port_names:
            if name not in self._ports:
                self._ports[name] = free_port(avoid=self._ports.values())
            elif not port_is_free(self._ports[name]):
                raise self._port_taken(str(self._ports[name]))

    def _pinned(self) -> bool:
        """Whether it must have the ports it has, or fail."""
        return self._answered or bool(self._told)

    def _port_taken(self, ports: str) -> PortTaken:
        return PortTaken(
            f"{self.name}: port {ports} is in use; stop what listens there, or choose another "
            f"with --port {self.name}=PORT"
        )

    async def _wait_until_ready(self, process: ServerProcess, log_start: int) -> None:
        """Until it answers. Raises StackError where it ends before that, or takes too long."""
        place, reason = self.place, "it was not asked"
        try:
            async with asyncio.timeout(self._ready_s):
                while process.running:
                    try:
                        version = await self._ask_while_running(process)
                    except (OSError, TimeoutError, StackError) as error:
                        reason = str(error) or f"nothing within {ASK_S:g} s"
                        await asyncio.sleep(PAUSE_S)
                        continue
                    if process.running:  # and not somebody else who has the port
                        self.version = version
                        return
        except TimeoutError:
            raise StackError(
                f"{self.name} at {self.address} was not ready within {self._ready_s:g} s "
                f"({reason}); see its log {place.log}: {log_tail(place.log, log_start)}"
            ) from None
        tail = log_tail(place.log, log_start)
        if PORT_TAKEN in tail.lower():
            raise self._port_taken(" or ".join(map(str, place.ports.values())))
        code = "unknown" if process.exit_code is None else process.exit_code
        raise StackError(
            f"{self.name} at {self.address} ended with code {code}; see its log {place.log}: {tail}"
        )

    async def _ask_while_running(self, process: ServerProcess) -> str:
        """Ask once. Raises what the recipe does; StackError as soon as the process has ended."""
        asked = asyncio.ensure_future(self.recipe.ask(self.place))
        ended = asyncio.ensure_future(until(lambda: not process.running, ASK_S))
        try:
            await asyncio.wait({asked, ended}, return_when=asyncio.FIRST_COMPLETED)
            if asked.done():
                return asked.result()
            raise StackError(f"nothing within {ASK_S:g} s")
        finally:
            asked.cancel()
            ended.cancel()
            await asyncio.gather(asked, ended, return_exceptions=True)

    def _record(self, entry: Entry) -> None:
        if self._on_change is not None:
            self._on_change(entry)

    async def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            await self._process.end(how, self.recipe.stop_s)
            self._record(self.entry().stopped())
