"""The in-memory coordinator, where it is more than the contract: cutting off, healing, actions."""

from __future__ import annotations

import pytest

from mesh.environment import CoordinatorUnavailable, InvalidTransition
from workflows.machine import DefinitionError, Machine, Rule
from workflows.memory import MemoryCoordinator, MemoryMachines

from .world import AUDIT, NOTIFYING, Recorder, TickingClock, broken, performed


async def test_one_replica_is_cut_off_while_another_goes_on() -> None:
    store, probe = MemoryMachines(), Recorder()
    ada = MemoryCoordinator(store, TickingClock(), probe)
    bob = MemoryCoordinator(store, TickingClock(), Recorder())
    ada.cut("behind a partition")
    with pytest.raises(CoordinatorUnavailable, match=r"code-audit/1: .*behind a partition"):
        await ada.fire(AUDIT.name, "1", "claim", actor="ada", request="1")
    assert (ada.health().state, ada.health().reason) == ("down", "behind a partition")
    await bob.fire(AUDIT.name, "1", "claim", actor="bob", request="1")
    ada.heal()
    with pytest.raises(InvalidTransition, match="held by 'bob'"):
        await ada.fire(AUDIT.name, "1", "claim", actor="ada", request="2")
    assert ada.health().state == "ok"
    assert [each["state"] for each in probe.of("coordinator.health")] == ["ok", "down", "ok"]


async def test_actions_run_before_the_answer() -> None:
    performed.clear()
    broken.append("memory")
    coordinator = MemoryCoordinator(MemoryMachines(), TickingClock(), Recorder())
    closed = await coordinator.fire(NOTIFYING.name, "memory", "close", actor="ada", request="1")
    assert performed == [closed, closed]


async def test_a_definition_with_unknown_actions_is_refused() -> None:
    lacking = Machine("lacking", "a", (Rule("go", "a", "z", actions=("nowhere",)),), ("z",))
    coordinator = MemoryCoordinator(
        MemoryMachines(), TickingClock(), Recorder(), {lacking.name: lacking}
    )
    with pytest.raises(DefinitionError, match="action 'nowhere'"):
        await coordinator.fire(lacking.name, "1", "go", actor="ada", request="1")
