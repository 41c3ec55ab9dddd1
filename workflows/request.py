"""What a coordinator checks and works out before it asks anybody to decide. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mesh.environment import InvalidTransition
from workflows import registry
from workflows.machine import Machine, MachineState, beginning, check_data, check_name
from workflows.messages import Fire

__all__ = ("Request", "check_answer", "prepare")

MAX_REQUEST = 200


@dataclass(frozen=True, slots=True)
class Request:
    """One event on its way, and how its machine begins if there is none yet."""

    definition: Machine
    first: MachineState
    fire: Fire

    @property
    def where(self) -> str:
        """The machine, for messages."""
        return f"{self.first.machine}/{self.first.id}"


def prepare(
    machines: Mapping[str, Machine],
    machine: str,
    id: str,
    event: str,
    actor: str,
    request: str,
    data: Mapping[str, Any] | None,
) -> Request:
    """Check everything that needs no server. Raises UnknownMachine, InvalidId, InvalidValue."""
    definition = registry.find(machine, machines)
    first = beginning(definition, id)
    where = f"{machine}/{id}"
    check_name(where, "request id", request, MAX_REQUEST)
    check_name(where, "actor", actor)
    carried = dict(data or {})
    check_data(where, carried)
    return Request(
        definition, first, Fire(event, actor, request, definition.fingerprint(), carried)
    )


def check_answer(request: Request, state: MachineState) -> None:
    """Raises InvalidTransition if the request id had been used for something else before."""
    fire = request.fire
    if state.event != fire.event:
        raise InvalidTransition(
            f"{request.where}: request {fire.request!r} was used before, for {state.event!r}; "
            f"{fire.event!r} needs a request id of its own"
        )
