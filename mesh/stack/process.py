"""Processes of servers: started in a group of their own, known again later, ended whole.

A process is known by its pid *and* the instant it started, so that a pid which the system has
given to somebody else since is never signalled.

A *bound* process dies with this one, even by SIGKILL: it asks the kernel for that with
`prctl(PR_SET_PDEATHSIG)`. Linux alone has that, and binds it to the *thread* that started the
child: start servers from one that outlives them, the main one.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import functools
import importlib.metadata
import os
import random
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from mesh.stack.recipe import CURE, HOST, Command, StackError

POLL_S: Final = 0.02
GONE_S: Final = 20.0
TAIL_BYTES: Final = 16_000
TAIL_LINES: Final = 6
TAIL_LINE_CHARACTERS: Final = 300
# Where in Java it happened fills a log's end, and tells nobody what to do.
JAVA_FRAME: Final = re.compile(r"\s*(at \S+\(.*\)|\.\.\. \d+ more)\s*")
PR_SET_PDEATHSIG: Final = 1
NOBODY: Final = 65_534
# A process's start as the system tells it moves with corrections of the clock, a little.
SAME_START_S: Final = 1.0
# Below what Linux, macOS and the BSDs give outgoing connections: a client that keeps dialling a
# dead server of ours could otherwise connect to itself, and so hold the server's port.
LOWEST_PORT, HIGHEST_PORT = 20_000, 32_000
PORT_DRAWS: Final = 200


@dataclass(frozen=True, slots=True)
class ServerProcess:
    """One server's first process, which leads a session and a process group of its own.

    `started`: seconds since 1970 as the system tells. It need not be a child of this process.
    """

    pid: int
    started: float
    _child: subprocess.Popen[bytes] | None = field(default=None, repr=False, compare=False)

    @property
    def running(self) -> bool:
        """Whether it is there: this very process, not another one with its pid."""
        if self._child is not None:
            return self._child.poll() is None
        return self._find() is not None

    @property
    def exit_code(self) -> int | None:
        """How it ended, where it is our child and has; minus the signal's number for a signal."""
        return None if self._child is None else self._child.poll()

    async def end(self, how: signal.Signals, grace_s: float) -> None:
        """Send `how`, wait up to `grace_s`, then kill it and all it left behind. Idempotent.

        Returns once all of it is gone. With SIGKILL the whole group goes at once. Raises StackError
        where it can't be ended.
        """
        family = self._family()
        if how == signal.SIGKILL:
            self._kill(family)
        elif self.running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, how)
            with contextlib.suppress(TimeoutError):
                await until(lambda: not self.running, grace_s)
            self._kill(family)
        try:
            await until(lambda: not self.running and not any(map(is_there, family)), GONE_S)
        except TimeoutError:
            raise StackError(
                f"process {self.pid} does not end within {GONE_S:g} s of being killed; "
                "see what it waits for (ps -o stat,wchan -p PID)"
            ) from None

    def _kill(self, family: Sequence[Any]) -> None:
        """Kill its group, and those of its children that left the group (PostgreSQL's do)."""
        # A group keeps its number from being given to a new process; so it is ours also where its
        # leader is gone, but not where that number is somebody else's by now.
        if self.running or not psutil().pid_exists(self.pid):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        for one in family:
            with contextlib.suppress(psutil().NoSuchProcess):
                one.kill()  # checks that it is still the same process

    def _family(self) -> list[Any]:
        process = self._find()
        with contextlib.suppress(psutil().NoSuchProcess):
            return process.children(recursive=True) if process is not None else []
        return []

    def _find(self) -> Any:
        """The system's record of it, or None where it ended."""
        try:
            found = psutil().Process(self.pid)
            same = abs(found.create_time() - self.started) <= SAME_START_S
            return found if same and is_there(found) else None
        except psutil().NoSuchProcess:
            return None


class _Detached(subprocess.Popen[bytes]):
    """A child that is meant to outlive us: forgetting it is no mistake to warn of."""

    def __del__(self) -> None:
        """Leave it alone."""


def spawn(command: Command, log: Path, *, bound: bool) -> ServerProcess:
    """Start a program; what it prints is appended to `log`.

    It gets no input and no terminal's Ctrl-C. Not `bound`: it goes on when this process ends.
    Raises StackError; OSError where the log can't be written.
    """
    psutil()  # before there is a process that could not be told from another
    argv = as_nobody(command.argv, command.cwd, bound=bound) if command.unprivileged else None
    with log.open("ab") as output:
        try:
            child = (subprocess.Popen if bound else _Detached)(
                argv or command.argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=command.cwd,
                env={**os.environ, **command.environment},
                start_new_session=True,
                preexec_fn=_die_with_parent() if bound else None,
            )
        except OSError as error:
            raise StackError(f"{command.argv[0]} does not start: {error}; {CURE}") from None
    try:
        started = psutil().Process(child.pid).create_time()
    except psutil().NoSuchProcess:  # it ended at once; its log tells why
        started = 0.0
    return ServerProcess(child.pid, started, child)


def as_nobody(argv: Sequence[str], folder: Path | None, *, bound: bool) -> list[str] | None:
    """The command that runs `argv` as the user nobody if we are root, by util-linux' setpriv.

    None if we are not root. Where nobody can't get at the program or the folder, as root's own
    folders are closed, the process keeps the one capability that passes them. Raises StackError
    where there is no setpriv.
    """
    if os.geteuid() != 0:
        return None
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise StackError(
            f"{Path(argv[0]).name} refuses to run as root, and setpriv is not on PATH; "
            "install util-linux, or run as another user"
        )
    prefix = [setpriv, f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    kept = _capability_for(Path(argv[0]), folder)
    prefix += [f"--{kind}=-all{kept}" for kind in ("inh-caps", "ambient-caps", "bounding-set")]
    prefix.append("--no-new-privs")
    if bound:
        prefix.append("--pdeathsig=KILL")  # what was asked for before is lost with the user
    return [*prefix, "--", *argv]


async def output_of(
    argv: Sequence[str],
    *,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    unprivileged_in: Path | None = None,
) -> str:
    """Run a program to its end; returns what it printed. Cancelling kills it.

    `environment` is added to this process's own. `unprivileged_in`: as nobody if we are root, with
    that folder to work in. Raises StackError, with the end of what it printed.
    """
    whole = as_nobody(argv, unprivileged_in, bound=True) if unprivileged_in else None
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            *(whole or argv),
            cwd=unprivileged_in or cwd,
            env={**os.environ, **(environment or {})},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_die_with_parent(),
        )
    )
    try:
        # Cancelled half-way, asyncio would wait for ever for a program that has ended.
        process = await asyncio.shield(starting)
    except OSError as error:
        raise StackError(f"{argv[0]} does not start: {error}") from None
    except asyncio.CancelledError:
        with contextlib.suppress(OSError):
            await _end(await starting)
        raise
    try:
        output, _ = await process.communicate()
    finally:
        await _end(process)
    text = output.decode(errors="replace")
    if process.returncode != 0:
        raise StackError(
            f"{Path(argv[0]).name} ended with code {process.returncode}: {end_of(text)}"
        )
    return text


async def _end(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


def wheel_program(wheel: str, name: str) -> Path | None:
    """The program `name` that an installed wheel brings; None if the wheel is not installed."""
    try:
        files = importlib.metadata.files(wheel) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    for file in files:
        if file.stem == name and "bin" in str(file.parent):
            path = Path(str(file.locate())).resolve()
            if path.is_file() and os.access(path, os.X_OK):
                return path
    return None


def free_port(avoid: Collection[int] = ()) -> int:
    """A port of the loopback that nobody listens on now. Raises StackError."""
    for _ in range(PORT_DRAWS):
        port = random.SystemRandom().randrange(LOWEST_PORT, HIGHEST_PORT)
        if port not in avoid and port_is_free(port):
            return port
    raise StackError(
        f"no free port between {LOWEST_PORT} and {HIGHEST_PORT}; stop something that listens there"
    )


def port_is_free(port: int) -> bool:
    """Whether a server could listen on this port of the loopback now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def works_in(folder: Path) -> bool:
    """Whether a process that we may look at has this working directory."""
    real = str(folder.resolve())
    for process in psutil().process_iter():
        with contextlib.suppress(psutil().Error):
            if process.cwd() == real and is_there(process):
                return True
    return False


def left_behind(folder: Path, log: Path) -> int | None:
    """The oldest process that works in this folder or below it and writes this log; None if none.

    So does every server that `spawn` started there, also one that no record tells of.
    """
    real, output = folder.resolve(), str(log.resolve())
    found = []
    for process in psutil().process_iter():
        with contextlib.suppress(psutil().Error):
            if Path(process.cwd()).is_relative_to(real) and _writes(process, output):
                found.append((process.create_time(), process.pid))
    return min(found)[1] if found else None


def _writes(process: Any, path: str) -> bool:
    """Whether it has this file open, and not just to read it (macOS does not tell)."""
    files = process.open_files() if is_there(process) else []
    return any(file.path == path and getattr(file, "mode", "a") != "r" for file in files)


async def until(condition: Callable[[], bool], timeout_s: float) -> None:
    """Wait until it holds. Raises TimeoutError."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - no event tells that somebody else's child ended
            await asyncio.sleep(POLL_S)


def log_tail(log: Path, start: int = 0) -> str:
    """The last lines of a log from offset `start`, as one line."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(start, size - TAIL_BYTES))
            return end_of(file.read().decode(errors="replace"))
    except FileNotFoundError:
        return "there is no log"


@functools.cache
def psutil() -> ModuleType:
    """The psutil package. Raises StackError where it is not installed."""
    try:
        import psutil as loaded
    except ImportError:
        raise StackError(f"psutil is not installed; {CURE}") from None
    return loaded


def end_of(text: str) -> str:
    """The last lines of what a program printed, as one line; without the frames of Java."""
    lines = [line for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if not JAVA_FRAME.fullmatch(line)] or lines
    short = (" ".join(line.split())[:TAIL_LINE_CHARACTERS] for line in telling[-TAIL_LINES:])
    return " / ".join(short) or "it printed nothing"


def is_there(process: Any) -> bool:
    """Whether psutil's `process` goes on: not ended, with only its exit code left to be fetched."""
    try:
        return bool(process.is_running()) and process.status() != psutil().STATUS_ZOMBIE
    except psutil().NoSuchProcess:
        return False


def _capability_for(program: Path, folder: Path | None) -> str:
    """What nobody needs of root's powers to run the program on the folder, for setpriv: the least,
    of those we have ourselves (containers have fewer).
    """
    if not program.stat().st_mode & stat.S_IXOTH:
        return ",+dac_override"
    above = {*program.parents, *(folder.parents if folder else ())}
    facts = [each.stat() for each in above]
    if all(fact.st_mode & stat.S_IXOTH or fact.st_uid == NOBODY for fact in facts):
        return ""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    effective = next(line for line in status.splitlines() if line.startswith("CapEff:"))
    may_read_search = int(effective.split()[1], 16) & 1 << 2  # CAP_DAC_READ_SEARCH
    return ",+dac_read_search" if may_read_search else ",+dac_override"


def _die_with_parent() -> Callable[[], None] | None:
    """What the child runs first: ask the kernel to kill it when we die. None off Linux."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(
        None, use_errno=True
    )  # loaded here: a fork of threads must not load libraries
    parent = os.getpid()

    def ask() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before we asked
            os._exit(1)

    return ask
