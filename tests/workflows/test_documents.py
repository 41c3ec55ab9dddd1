"""Decisions and claims in mesh documents, and the ready-made agent and workflow states."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from crdt import Decided, Document, Register
from crdt.errors import InvalidValue, OutOfBounds, SchemaError
from mesh import Replica, Settings
from mesh.environment import Transition
from workflows.claims import EXCLUSIVE, Claim, claim_of, fenced, token_of
from workflows.memory import MemoryCoordinator, MemoryMachines
from workflows.publish import publish
from workflows.state import (
    AgentState,
    WorkflowState,
    begin_task,
    complete_step,
    complete_task,
    end_workflow,
    fail_step,
    fail_task,
    report_progress,
    rest,
    start_workflow,
    steps_completed,
)

from .world import Recorder, TickingClock

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Module(Document):
    title: Register[str]
    claim: Decided[dict[str, Any]]


@pytest.fixture
async def replica(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Replica]:
    monkeypatch.setenv("STATEMESH_HOME", str(tmp_path / "home"))
    async with Replica.open(tmp_path / "agent", settings=Settings()) as replica:
        yield replica


async def claims() -> list[Transition]:
    """The decisions of a short life: claimed, claimed again, expired, claimed by another."""
    coordinator = MemoryCoordinator(MemoryMachines(), TickingClock(), Recorder())
    return [
        await coordinator.fire(EXCLUSIVE.name, "json", event, actor=actor, request=event + actor)
        for event, actor in (
            ("claim", "ada"),
            ("expire", "operator"),
            ("claim", "bob"),
            ("release", "bob"),
        )
    ]


def test_a_token_is_fenced_by_a_later_change_of_ownership() -> None:
    assert [fenced(3, token) for token in (2, 3, 4)] == [True, False, False]
    claim = Claim("ada", 3, "held", 5)
    assert claim.held_by("ada", 3)
    assert not claim.held_by("ada", 2)
    assert not claim.held_by("bob", 3)


async def test_every_change_of_ownership_has_a_higher_token() -> None:
    assert [token_of(each) for each in await claims()] == [1, 2, 3, 4]


async def test_a_published_decision_is_readable_as_a_claim(replica: Replica) -> None:
    claimed, *_ = await claims()
    assert publish(replica, Module, "json", "claim", claimed)
    module = replica.get(Module, "json")
    assert module is not None
    assert claim_of(module.claim) == Claim(holder="ada", token=1, state="held", epoch=1)
    assert module.claim.value == {
        "machine": "exclusive-claim",
        "state": "held",
        "owner": "ada",
        "token": 1,
        "event": "claim",
        "source": "free",
        "data": {},
    }


async def test_decisions_may_come_in_any_order_and_again(replica: Replica) -> None:
    decisions = await claims()
    for number, order in enumerate(itertools.permutations(decisions)):
        name = f"json-{number}"
        written = [publish(replica, Module, name, "claim", each) for each in (*order, *order)]
        best = list(itertools.accumulate((each.epoch for each in order), max))
        news = [epoch > before for epoch, before in zip(best, [0, *best], strict=False)]
        assert written == [*news, *[False] * len(order)]
        module = replica.get(Module, name)
        assert module is not None
        assert claim_of(module.claim) == Claim(holder="", token=4, state="free", epoch=4)


async def test_only_a_decided_field_takes_decisions(replica: Replica) -> None:
    claimed, *_ = await claims()
    with pytest.raises(SchemaError, match=r"Module\.title can't take a decision"):
        publish(replica, Module, "json", "title", claimed)


def test_nothing_decided_is_nobody_s_claim() -> None:
    class Undecided:
        value = None
        epoch = 0

    assert claim_of(Undecided()) == Claim("", 0, "", 0)  # type: ignore[arg-type]


async def test_an_agent_s_life(replica: Replica) -> None:
    with replica.edit(AgentState, "7") as agent:
        agent.agent_type = "auditor"
        assert (agent.status, agent.progress) == ("idle", 0.0)
        begin_task(agent, "json.decoder", NOON)
        report_progress(agent, 0.5, NOON + timedelta(minutes=1))
    with replica.edit(AgentState, "7") as agent:
        assert agent.snapshot() == {
            "agent_type": "auditor",
            "status": "working",
            "current_task": "json.decoder",
            "progress": 0.5,
            "last_activity": NOON + timedelta(minutes=1),
            "metadata": {},
            "version": 2,
            "decision": None,
        }
        complete_task(agent, NOON)
        assert (agent.status, agent.progress, agent.version) == ("completed", 1.0, 3)
        begin_task(agent, "csv", NOON)
        fail_task(agent, "no disk", NOON)
        assert (agent.status, agent.metadata["failure"]) == ("failed", "no disk")
        rest(agent, NOON)
        assert (agent.status, agent.current_task) == ("idle", None)


async def test_an_agent_s_state_is_checked(replica: Replica) -> None:
    with replica.edit(AgentState, "7") as agent:
        with pytest.raises(InvalidValue, match="AgentState/7 is idle, not working"):
            report_progress(agent, 0.5, NOON)
        begin_task(agent, "json", NOON)
        with pytest.raises(OutOfBounds, match=r"from 0 to 1, not 1\.5"):
            report_progress(agent, 1.5, NOON)
        with pytest.raises(InvalidValue, match="status"):
            agent.status = "asleep"  # type: ignore[assignment]


async def test_a_workflow_s_life(replica: Replica) -> None:
    with replica.edit(WorkflowState, "1") as workflow:
        start_workflow(workflow, "fetch", NOON)
        complete_step(workflow, "fetch", NOON + timedelta(minutes=2), following="build")
        fail_step(workflow, "build", "out of memory")
        assert (workflow.current_step, dict(workflow.failed_steps)) == (
            "build",
            {"build": "out of memory"},
        )
        complete_step(workflow, "build", NOON + timedelta(minutes=1))
        complete_step(workflow, "build", NOON + timedelta(minutes=3))
        assert steps_completed(workflow) == ["fetch", "build"]
        assert dict(workflow.failed_steps) == {}
        with pytest.raises(InvalidValue, match="can't end as 'paused'"):
            end_workflow(workflow, "paused", NOON)
        end_workflow(workflow, "completed", NOON + timedelta(minutes=4))
    view = replica.get(WorkflowState, "1")
    assert view is not None
    assert (view.status, view.current_step, view.version) == ("completed", None, 6)
    assert view.ended == NOON + timedelta(minutes=4)
