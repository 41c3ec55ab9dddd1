"""An event loop without ways out: what would open a socket, a process or a signal handler raises.

Only that half of `simulations.loop` which says no, or has nothing to do; the other one runs things.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from crdt.errors import CallerError

__all__ = ("Escaped", "SealedLoop", "call_site")

_OWN = (
    str(Path(asyncio.__file__).parent.parent),
    *(str(Path(__file__).with_name(name)) for name in ("sealed.py", "loop.py", "walls.py")),
)


class Escaped(CallerError):
    """Code in a simulation reached for the real world: a socket, thread, clock, or entropy."""


def call_site() -> str:
    """`file:line in function` of the code that is to blame: the innermost frame that is neither of
    the standard library nor of the simulator.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith("<") and ("site-packages" in name or not name.startswith(_OWN)):
            return f"{name}:{frame.f_lineno} in {frame.f_code.co_name}"
        frame = frame.f_back
    return "code of the standard library"


def _exit(name: str) -> Callable[..., NoReturn]:
    def refuse(self: SealedLoop, *args: object, **options: object) -> NoReturn:
        del args, options
        raise self.refusal(
            f"the event loop's {name}",
            "the ports of the replica: a simulation has no sockets, processes or signals",
        )

    return refuse


class SealedLoop(asyncio.AbstractEventLoop):
    """`halt` is why the run must end, such as the first way out that was tried: who swallows that
    error is caught all the same.
    """

    halt: CallerError | None = None

    def refusal(self, what: str, instead: str) -> Escaped:
        """Note that somebody tries to get out; what to raise at him."""
        error = Escaped(f"{call_site()} used {what} in a simulation; use {instead}")
        self.halt = self.halt or error
        return error

    def stop(self) -> None:
        """Nothing: it runs until something is complete."""

    def get_debug(self) -> bool:
        """False."""
        return False

    def set_debug(self, enabled: bool) -> None:
        """Nothing: what debugging would add are real times."""

    def get_task_factory(self) -> None:
        """None: tasks are the loop's own."""

    async def shutdown_default_executor(self) -> None:
        """Nothing: there are no threads."""

    def set_exception_handler(self, handler: Any) -> None:
        """Nothing: see `faults`."""

    def get_exception_handler(self) -> None:
        """None."""

    add_reader: Any = _exit("add_reader")
    add_signal_handler: Any = _exit("add_signal_handler")
    add_writer: Any = _exit("add_writer")
    connect_accepted_socket: Any = _exit("connect_accepted_socket")
    connect_read_pipe: Any = _exit("connect_read_pipe")
    connect_write_pipe: Any = _exit("connect_write_pipe")
    create_connection: Any = _exit("create_connection")
    create_datagram_endpoint: Any = _exit("create_datagram_endpoint")
    create_server: Any = _exit("create_server")
    create_unix_connection: Any = _exit("create_unix_connection")
    create_unix_server: Any = _exit("create_unix_server")
    getaddrinfo: Any = _exit("getaddrinfo")
    getnameinfo: Any = _exit("getnameinfo")
    remove_reader: Any = _exit("remove_reader")
    remove_signal_handler: Any = _exit("remove_signal_handler")
    remove_writer: Any = _exit("remove_writer")
    sendfile: Any = _exit("sendfile")
    set_default_executor: Any = _exit("set_default_executor")
    sock_accept: Any = _exit("sock_accept")
    sock_connect: Any = _exit("sock_connect")
    sock_recv: Any = _exit("sock_recv")
    sock_recv_into: Any = _exit("sock_recv_into")
    sock_recvfrom: Any = _exit("sock_recvfrom")
    sock_recvfrom_into: Any = _exit("sock_recvfrom_into")
    sock_sendall: Any = _exit("sock_sendall")
    sock_sendfile: Any = _exit("sock_sendfile")
    sock_sendto: Any = _exit("sock_sendto")
    start_tls: Any = _exit("start_tls")
    subprocess_exec: Any = _exit("subprocess_exec")
    subprocess_shell: Any = _exit("subprocess_shell")
