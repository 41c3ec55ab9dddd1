"""The Coordinator port's contract, held by Temporal and by the in-memory coordinator alike."""

from __future__ import annotations

from collections.abc import Mapping

from mesh.environment import Coordinator
from mesh.settings import Settings
from workflows.conformance import check_coordinator
from workflows.coordinator import TemporalCoordinator
from workflows.machine import Machine
from workflows.memory import MemoryCoordinator, MemoryMachines

from .world import Recorder, TickingClock


async def test_memory_holds_the_contract() -> None:
    store = MemoryMachines()

    async def make(machines: Mapping[str, Machine]) -> Coordinator:
        return MemoryCoordinator(store, TickingClock(), Recorder(), machines)

    await check_coordinator(make, "run")


async def test_temporal_holds_the_contract(settings: Settings, worker: None) -> None:
    async def make(machines: Mapping[str, Machine]) -> Coordinator:
        return TemporalCoordinator(settings.temporal, TickingClock(), Recorder(), machines)

    await check_coordinator(make, "run")


async def test_temporal_holds_the_contract_across_short_histories(
    settings: Settings, worker: None
) -> None:
    """Every machine continues as new after nearly every decision."""

    async def make(machines: Mapping[str, Machine]) -> Coordinator:
        return TemporalCoordinator(
            settings.temporal, TickingClock(), Recorder(), machines, history_limit=12
        )

    await check_coordinator(make, "run")
