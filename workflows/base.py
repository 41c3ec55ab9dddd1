"""What all coordinators do alike: check a question, ask it, check the answer, tell the probe."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from mesh.environment import CoordinatorUnavailable, PartHealth, Transition, UnknownMachine
from persistence.base import Clock, Probe
from workflows import registry
from workflows.health import HealthRecord
from workflows.machine import Machine, MachineState, beginning
from workflows.request import Request, check_answer, prepare

__all__ = ("BaseCoordinator", "never_started")


class BaseCoordinator(ABC):
    """`mesh.environment.Coordinator`, but for how a question gets to who decides, and back."""

    def __init__(self, clock: Clock, probe: Probe, machines: Mapping[str, Machine]) -> None:
        self._clock = clock
        self._probe = probe
        self._machines = machines
        self._health = HealthRecord(clock, probe)

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
        """Fire an event at machine `id`. See the port; UnknownMachine may be DefinitionMismatch."""
        prepared = prepare(self._machines, machine, id, event, actor, request, data)
        began = self._clock.monotonic()
        state = await self._decide(prepared)
        check_answer(prepared, state)
        self._probe.event(
            "machine.fired", machine=machine, id=id, event=event, target=state.state,
            epoch=state.epoch, seconds=self._clock.monotonic() - began,
        )  # fmt: skip
        return state.transition()

    async def state(self, machine: str, id: str) -> Transition:
        """The last decision of a machine. See the port."""
        beginning(registry.find(machine, self._machines), id)
        state = await self._look_up(machine, id)
        if state is None or state.epoch == 0:
            raise never_started(f"{machine}/{id}")
        return state.transition()

    def health(self) -> PartHealth:
        """Whether whom it asks answered last time, and could decide."""
        return self._health.now

    async def close(self) -> None:
        """Later calls raise CoordinatorUnavailable. Idempotent."""
        self._health.off()

    @abstractmethod
    async def _decide(self, request: Request) -> MachineState:
        """Have a request decided. Raises what `Coordinator.fire` does."""

    @abstractmethod
    async def _look_up(self, machine: str, id: str) -> MachineState | None:
        """Where a machine stands; None: there is none. Raises CoordinatorUnavailable."""

    def _check_open(self) -> None:
        """Raises CoordinatorUnavailable once this is closed."""
        if self._health.now.state == "off":
            raise CoordinatorUnavailable("the coordinator is closed")

    def _unavailable(self, where: str, reason: str) -> CoordinatorUnavailable:
        """What to raise where no answer came; health and probe are told."""
        self._health.down(reason)
        self._probe.event("coordinator.unavailable", machine=where, reason=reason)
        return CoordinatorUnavailable(f"{where}: {reason}")


def never_started(where: str) -> UnknownMachine:
    """What to raise where nothing is known of a machine."""
    return UnknownMachine(f"{where} was never started, or ended longer ago than is remembered")
