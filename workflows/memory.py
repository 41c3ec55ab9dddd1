"""The Coordinator port in memory, on the same pure decisions: for simulations and unit tests.

Several coordinators, one per simulated replica, share one `MemoryMachines`. Each can be cut off and
healed, the way a replica loses its way to Temporal while others keep theirs.
"""

from __future__ import annotations

from collections.abc import Mapping

from persistence.base import Clock, Probe
from workflows import registry
from workflows.base import BaseCoordinator
from workflows.decider import Decider
from workflows.machine import Machine, MachineState
from workflows.messages import Start
from workflows.request import Request

__all__ = ("MemoryCoordinator", "MemoryMachines")


class MemoryMachines:
    """The machines of one mesh, as Temporal would hold them. They live as long as this object."""

    def __init__(self) -> None:
        self._deciders: dict[tuple[str, str], Decider] = {}

    def __repr__(self) -> str:
        return f"<MemoryMachines: {len(self._deciders)}>"

    def fire(self, request: Request) -> tuple[MachineState, Decider]:
        """Decide one event; the machine is made if there is none. Raises CallerError, also where
        this process lacks what the machine does.
        """
        registry.check_complete(request.definition)
        key = request.definition.name, request.first.id
        decider = self._deciders.get(key)
        if decider is None:
            decider = self._deciders[key] = Decider(Start(request.definition, request.first))
        return decider.fire(request.fire), decider

    def state(self, machine: str, id: str) -> MachineState | None:
        """Where a machine stands; None if nothing was ever asked of it."""
        decider = self._deciders.get((machine, id))
        return decider.state if decider is not None else None


class MemoryCoordinator(BaseCoordinator):
    """`mesh.environment.Coordinator` without a server. Actions run before the answer is given."""

    def __init__(
        self,
        store: MemoryMachines,
        clock: Clock,
        probe: Probe,
        machines: Mapping[str, Machine] = registry.machines,
    ) -> None:
        super().__init__(clock, probe, machines)
        self._store = store
        self._health.ok()
        self._cut = ""

    def __repr__(self) -> str:
        return f"MemoryCoordinator({self._store!r}, {self._health.now.state})"

    def cut(self, reason: str) -> None:
        """From now on every call raises CoordinatorUnavailable with this reason."""
        self._cut = reason

    def heal(self) -> None:
        """Calls work again; health follows with the first one."""
        self._cut = ""

    async def _decide(self, request: Request) -> MachineState:
        self._reach(request.where)
        state, decider = self._store.fire(request)
        while decider.due:
            due = decider.due.popleft()
            await registry.actions[due.action](due.state.transition())
        return state

    async def _look_up(self, machine: str, id: str) -> MachineState | None:
        self._reach(f"{machine}/{id}")
        return self._store.state(machine, id)

    def _reach(self, where: str) -> None:
        self._check_open()
        if self._cut:
            raise self._unavailable(where, self._cut)
        self._health.ok()
