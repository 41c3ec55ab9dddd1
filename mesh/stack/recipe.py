"""What the stack has to know of one kind of server: how to get it, run it, ask it and stop it.

A recipe holds no process and no state: `mesh.stack.server` runs what it says. So one recipe object
serves any number of places.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from crdt.errors import ServiceError

HOST: Final = "127.0.0.1"
CURE: Final = "pip install 'statemesh[stack]'"

Say = Callable[[str], None]
"""Takes one line of progress, for people."""


def silent(line: str) -> None:
    """Progress that nobody wants."""
    del line


class StackError(ServiceError):
    """A server can't be had, started or reached. One line, with the cure."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where one server lives: a folder of its own, its ports by name, and the file it logs to.

    The folder exists. The log's end is quoted when the server dies. All paths are absolute.
    """

    folder: Path
    ports: Mapping[str, int]
    log: Path


@dataclass(frozen=True, slots=True)
class Command:
    """How to run a program in the foreground; what it prints goes to its place's log.

    `environment` is added to this process's own. `unprivileged`: the program refuses to run as
    root; if we are root it runs as `nobody` (see `mesh.stack.process`).
    """

    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None
    unprivileged: bool = False


class Recipe(Protocol):
    """One kind of server."""

    @property
    def name(self) -> str:
        """Its name in `SERVICES`, in the command line and in messages."""

    @property
    def port_names(self) -> tuple[str, ...]:
        """Names of the ports it needs; the first is the one that clients connect to."""

    @property
    def stop_signal(self) -> signal.Signals:
        """What asks it to stop in order, without waiting for its clients."""

    @property
    def stop_s(self) -> float:
        """Seconds it gets for that before it is killed."""

    async def prepare(self, place: Place, say: Say) -> None:
        """Find or fetch the program; make the data folder, or check the one that is there.

        Called before every start, so quick and without effect where all is done. Blocking work
        happens in threads or child processes; when cancelled, no child process is left. Never
        leaves a half-made folder that a later call takes for a whole one. Raises StackError naming
        the cure.
        """

    def command(self, place: Place) -> Command:
        """How to run it here; only called after `prepare`."""

    async def ask(self, place: Place) -> str:
        """Make one real request of the server here; returns its product and version ("Valkey 9.1").

        Takes at most a few seconds. While the server is not ready it raises anything
        connection-like: OSError, TimeoutError, StackError.
        """

    async def reach(self, address: str) -> str:
        """The same at any address, as clients write it: product and version as far as it tells.

        Raises as `ask` does; messages never hold the address's password.
        """

    def address(self, place: Place) -> str:
        """Where clients reach it: URL, DSN or host:port."""
