"""The Coordinator port in memory, on the same pure decisions: for simulations and unit tests.

Several coordinators, one per simulated replica, share one `MemoryMachines`. Each can be cut off and
healed, the way a replica loses its way to Temporal while others keep theirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mesh.environment import CoordinatorUnavailable, PartHealth, Transition, UnknownMachine
from persistence.base import Clock, Probe
from workflows import registry
from workflows.decider import Decider
from workflows.health import HealthRecord
from workflows.machine import Machine, MachineState, beginning
from workflows.messages import Start
from workflows.request import Request, check_answer, prepare

__all__ = ("MemoryCoordinator", "MemoryMachines")


class MemoryMachines:
    """The machines of one mesh, as Temporal would hold them. They live as long as this object."""

    def __init__(self) -> None:
        self._deciders: dict[tuple[str, str], Decider] = {}

    def __repr__(self) -> str:
        return f"<MemoryMachines: {len(self._deciders)}>"

    def fire(self, request: Request) -> tuple[MachineState, Decider]:
        """Decide one event; the machine starts if this can be its first."""
        key = request.definition.name, request.first.id
        decider = self._deciders.get(key)
        if decider is None:
            if request.not_first is not None:
                raise request.not_first
            decider = Decider(Start(request.definition, request.first))
        state = decider.fire(request.fire)
        self._deciders[key] = decider
        return state, decider

    def state(self, machine: str, id: str) -> MachineState | None:
        """Where a machine stands; None if it was never started."""
        decider = self._deciders.get((machine, id))
        return decider.state if decider is not None else None


class MemoryCoordinator:
    """`mesh.environment.Coordinator` without a server. Actions run before the answer is given."""

    def __init__(
        self,
        store: MemoryMachines,
        clock: Clock,
        probe: Probe,
        machines: Mapping[str, Machine] = registry.machines,
    ) -> None:
        self._store = store
        self._machines = machines
        self._probe = probe
        self._health = HealthRecord(clock, probe)
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

    async def fire(
        self,
        machine: str,
        id: str,
        event: str,
        *,
        actor: str,
        request: str,
        data: Mapping[str, Any] | None = None,
    ) -> Transition:
        """Fire an event at machine `id`. See the port."""
        prepared = prepare(self._machines, machine, id, event, actor, request, data)
        registry.check_complete(prepared.definition)
        self._reach(machine, id)
        state, decider = self._store.fire(prepared)
        check_answer(prepared, state)
        while decider.due:
            due = decider.due.popleft()
            await registry.actions[due.action](due.state.transition())
        return state.transition()

    async def state(self, machine: str, id: str) -> Transition:
        """The last decision of a machine. See the port."""
        beginning(registry.find(machine, self._machines), id)
        self._reach(machine, id)
        state = self._store.state(machine, id)
        if state is None:
            raise UnknownMachine(f"{machine}/{id} was never started")
        return state.transition()

    def health(self) -> PartHealth:
        """Whether the last call went through."""
        return self._health.now

    async def close(self) -> None:
        """Later calls raise CoordinatorUnavailable. Idempotent."""
        self._health.off()
        self._cut = "closed"

    def _reach(self, machine: str, id: str) -> None:
        if self._cut:
            self._health.down(self._cut)
            raise CoordinatorUnavailable(f"{machine}/{id}: the coordinator is {self._cut}")
        self._health.ok()
