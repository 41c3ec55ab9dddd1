"""A child process that talks in JSON lines, and never outlives the one that started it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from crdt.errors import ServiceError
from simulations.rehearsal import wire

_LOG_TAIL = 1_500

Listener = Callable[[dict[str, Any]], None]


class ChildError(ServiceError):
    """A child process ended by itself, or did not answer in time."""


class Child:
    """One process: its messages go to `listener` as they come, answers to whoever asked.

    It runs in a process group of its own, so a Ctrl-C at the terminal reaches the parent alone,
    which then ends its children in order.
    """

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self.name = name
        self.log = log
        self._process = process
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._reader: asyncio.Task[None] | None = None
        self.expected_to_end = False

    @classmethod
    async def start(
        cls, name: str, argv: Sequence[str], log: Path, listener: Listener, first: bytes = b""
    ) -> Child:
        """Start `argv`; standard error goes to `log`, `first` to its standard input."""
        with log.open("ab") as errors:
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                process_group=0,
                limit=wire.MAX_LINE,
            )
        child = cls(name, process, log)
        if first:
            child._write(first)
        child._reader = asyncio.create_task(child._read(listener), name=f"read-{name}")
        return child

    @property
    def pid(self) -> int:
        """Its process id, which is its process group's too."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.returncode is None

    def tell(self, do: str, **fields: Any) -> None:
        """Send a command; a child that is gone hears nothing."""
        self._write(wire.pack({"do": do, **fields}))

    async def ask(self, do: str, timeout: float, **fields: Any) -> dict[str, Any]:
        """Send a command and wait for its answer. Raises ChildError."""
        number = next(self._numbers)
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        try:
            if not self.running:
                raise ChildError(f"{self.name} is not running")
            self.tell(do, request=number, **fields)
            async with asyncio.timeout(timeout):
                return await answer
        except TimeoutError:
            raise ChildError(f"{self.name} did not answer {do!r} within {timeout:g} s") from None
        finally:
            del self._asked[number]

    async def ended(self) -> int:
        """Wait until it has ended and all it said was heard; its exit code."""
        code = await self._process.wait()
        if self._reader is not None:
            await self._reader
        return code

    def kill(self) -> None:
        """SIGKILL, at once, to it and whatever it started."""
        self.expected_to_end = True
        self._signal(signal.SIGKILL)

    async def stop(self, grace: float) -> bool:
        """Ask it to end (SIGTERM), kill it after `grace` seconds. True if it ended in order: by
        itself, and with nothing to complain of.
        """
        self.expected_to_end = True
        self._signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace):
                return await self.ended() == 0
        except TimeoutError:
            self.kill()
            await self.ended()
            return False

    def last_words(self) -> str:
        """The last line of its log, for a message that says why it failed."""
        try:
            lines = self.log.read_bytes()[-_LOG_TAIL:].decode(errors="replace").splitlines()
        except OSError:
            lines = []
        return next((line.strip() for line in reversed(lines) if line.strip()), "its log is empty")

    def _signal(self, number: signal.Signals) -> None:
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    def _write(self, line: bytes) -> None:
        stream = self._process.stdin
        if stream is not None and self.running and not stream.is_closing():
            with contextlib.suppress(OSError):
                stream.write(line)

    async def _read(self, listener: Listener) -> None:
        stream = self._process.stdout
        assert stream is not None, "start() asked for a pipe"
        while line := await stream.readline():
            try:
                message = wire.unpack(line)
            except wire.MessageError:
                continue  # something a library printed; it is not meant for us
            if message.get("kind") == "answer":
                waiting = self._asked.get(message.get("request", 0))
                if waiting is not None and not waiting.done():
                    waiting.set_result(message)
            else:
                listener(message)
        code = await self._process.wait()
        error = ChildError(f"{self.name} ended with code {code}: {self.last_words()}")
        for waiting in self._asked.values():
            if not waiting.done():
                waiting.set_exception(error)
        if not self.expected_to_end:
            listener({"kind": "ended", "code": code})
