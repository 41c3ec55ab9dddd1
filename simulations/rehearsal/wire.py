"""What agents and the orchestrator tell each other: one JSON object a line, over the agent's pipes.

Only the rehearsal's own bookkeeping goes this way (progress, what was acknowledged, stop). The
agents' shared state never does: that is what the mesh is for.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from dataclasses import asdict, dataclass
from typing import Any

MAX_LINE = 16_000_000
_PR_SET_PDEATHSIG = 1


class MessageError(ValueError):
    """A line that is no message."""


@dataclass(frozen=True, slots=True)
class AgentTask:
    """The first line an agent is given: everything it has to know to take part.

    `tree` names the saved listing of the source tree, which is the same for all and for ever.
    Services that are not there have no address.
    """

    name: str
    parent: int
    folder: str
    tree: str
    cast: dict[str, tuple[str, ...]]
    seeds: tuple[str, ...]
    temporal: str
    task_queue: str
    status_seconds: float
    redis: str = ""
    kafka: str = ""
    postgres: str = ""

    def line(self) -> bytes:
        """As one line."""
        return pack(asdict(self))

    @staticmethod
    def read(line: bytes) -> AgentTask:
        """Raises MessageError."""
        try:
            values = unpack(line)
            values["cast"] = {name: tuple(roles) for name, roles in values["cast"].items()}
            values["seeds"] = tuple(values["seeds"])
            return AgentTask(**values)
        except (KeyError, TypeError, AttributeError) as error:
            raise MessageError(f"not an agent's task: {error}") from error


def pack(message: dict[str, Any]) -> bytes:
    """One message as one line."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def unpack(line: bytes) -> dict[str, Any]:
    """The message in a line. Raises MessageError."""
    try:
        message = json.loads(line)
    except ValueError as error:
        raise MessageError(f"not JSON: {line[:80]!r}") from error
    if not isinstance(message, dict):
        raise MessageError(f"no object: {line[:80]!r}")
    return message


def emit(kind: str, **fields: Any) -> None:
    """Tell the orchestrator something, one whole line; blocks while the pipe is full."""
    sys.stdout.buffer.write(pack({"kind": kind, **fields}))
    sys.stdout.buffer.flush()


def die_with(parent: int) -> None:
    """End this process when its parent ends, however that ends; at once if it already has.

    On Linux the kernel does it; elsewhere the end of standard input tells.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        raise SystemExit(1)
