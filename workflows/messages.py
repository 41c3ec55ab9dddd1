"""What goes into and comes out of a machine's workflow. Fields may be added with a default, never
renamed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from workflows.machine import Machine, MachineState

MAX_ANSWERS = 64
"""Answered requests a machine remembers, and as many refused ones; a repeat of an older request
counts as a new one.
"""

MAX_REASON = 1_000
"""Characters that are kept of why a request was refused."""

MAX_DUE = 256
"""Actions that may wait for execution; more decisions are refused until some are done."""


@dataclass(frozen=True, slots=True)
class Fire:
    """Argument of the update: one event. `definition` is the fingerprint the caller goes by."""

    event: str
    actor: str
    request: str
    definition: str
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """A request that was decided, and what came of it."""

    request: str
    state: MachineState


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request that was refused, by which kind of error, and why."""

    request: str
    kind: str
    reason: str


@dataclass(frozen=True, slots=True)
class Due:
    """An action that a decision still owes."""

    action: str
    state: MachineState


@dataclass(frozen=True, slots=True)
class Start:
    """Argument of the workflow: the definition, and what a continued run takes over from its
    predecessor.
    """

    machine: Machine
    state: MachineState
    answers: tuple[Answer, ...] = ()
    due: tuple[Due, ...] = ()
    history_limit: int = 0
    """Continue as new beyond this many history events; 0 leaves it to the server's suggestion."""
    refusals: tuple[Refusal, ...] = ()
