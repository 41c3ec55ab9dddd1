"""What is special to Temporal: histories, actions, replay, timeouts, cancelling."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import pytest
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import DeleteWorkflowExecutionRequest
from temporalio.client import Client, WorkflowHandle, WorkflowUpdateFailedError
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import Replayer, UnsandboxedWorkflowRunner, WorkflowRunner
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

from mesh.environment import CoordinatorUnavailable, InvalidTransition, Transition
from mesh.settings import Settings
from workflows.claims import EXCLUSIVE
from workflows.coordinator import TemporalCoordinator, connect, workflow_id
from workflows.machine import DefinitionMismatch
from workflows.messages import Fire
from workflows.worker import connected, make_worker
from workflows.workflow import MachineWorkflow

from .world import AUDIT, COUNTING, NOTIFYING, Recorder, TickingClock, performed


async def handle_of(settings: Settings, machine: str, id: str) -> WorkflowHandle[Any, Any]:
    client: Client = await connected(settings)
    return client.get_workflow_handle(workflow_id(settings.temporal.task_queue, machine, id))


async def run_through(coordinator: TemporalCoordinator, id: str) -> Transition:
    for event in ("claim", "claim", "submit", "accept"):
        last = await coordinator.fire(AUDIT.name, id, event, actor="ada", request=f"{id}:{event}")
    return last


async def test_what_no_state_allows_leaves_no_trace_in_history(
    settings: Settings, worker: None, coordinator: TemporalCoordinator, probe: Recorder
) -> None:
    await coordinator.fire(AUDIT.name, "1", "claim", actor="ada", request="1")
    handle = await handle_of(settings, AUDIT.name, "1")
    before = (await handle.describe()).history_length
    changed = {AUDIT.name: dataclasses.replace(COUNTING, name=AUDIT.name)}
    other = TemporalCoordinator(settings.temporal, TickingClock(), probe, changed)
    with pytest.raises(DefinitionMismatch):
        await other.fire(AUDIT.name, "1", "tick", actor="bob", request="2")
    assert (await handle.describe()).history_length == before
    await other.close()


@pytest.mark.parametrize("history_limit", [0, 12])
async def test_a_late_copy_of_a_refused_claim_is_not_granted(
    settings: Settings, worker: None, probe: Recorder, history_limit: int
) -> None:
    """It comes when the thing is free, perhaps to a later run of the workflow."""
    coordinator = TemporalCoordinator(
        settings.temporal, TickingClock(), probe, history_limit=history_limit
    )

    async def fire(event: str, actor: str, request: str) -> Transition:
        return await coordinator.fire(EXCLUSIVE.name, "1", event, actor=actor, request=request)

    await fire("claim", "ada", "one")
    handle = await handle_of(settings, EXCLUSIVE.name, "1")
    asked = (await handle.describe()).run_id
    with pytest.raises(InvalidTransition, match="held by 'ada'"):
        await fire("claim", "bob", "late")
    for number in range(4):
        await fire("claim", "ada", f"ada's {number}")
    freed = await fire("release", "ada", "two")
    assert ((await handle.describe()).run_id == asked) is (history_limit == 0)
    copy = Fire("claim", "bob", "late", EXCLUSIVE.fingerprint())
    for update in ("late", "late, and the server does not know it any more"):
        with pytest.raises(WorkflowUpdateFailedError) as refused:
            await handle.execute_update(MachineWorkflow.fire, copy, id=update)
        assert "held by 'ada'" in str(refused.value.cause)
    assert await coordinator.state(EXCLUSIVE.name, "1") == freed
    await coordinator.close()


async def test_a_finished_machine_is_a_completed_workflow(
    settings: Settings, worker: None, coordinator: TemporalCoordinator
) -> None:
    last = await run_through(coordinator, "1")
    handle = await handle_of(settings, AUDIT.name, "1")
    result = await handle.result()
    assert (result["state"], result["epoch"]) == (last.target, last.epoch)
    assert await coordinator.state(AUDIT.name, "1") == last


async def test_a_machine_ended_from_outside_says_so(
    settings: Settings, worker: None, coordinator: TemporalCoordinator
) -> None:
    await coordinator.fire(AUDIT.name, "1", "claim", actor="ada", request="1")
    await (await handle_of(settings, AUDIT.name, "1")).terminate("by hand")
    with pytest.raises(InvalidTransition, match="ended from outside in 'claimed', epoch 1"):
        await coordinator.fire(AUDIT.name, "1", "submit", actor="ada", request="2")
    with pytest.raises(InvalidTransition, match="ended from outside"):
        await coordinator.fire(AUDIT.name, "1", "claim", actor="ada", request="3")


async def test_a_machine_that_temporal_has_forgotten_begins_anew(
    settings: Settings, worker: None, coordinator: TemporalCoordinator
) -> None:
    for machine in ("1", "2"):
        await coordinator.fire(AUDIT.name, machine, "claim", actor="ada", request="1")
        handle = await handle_of(settings, AUDIT.name, machine)
        await forget(await connected(settings), handle)
    again = await coordinator.fire(AUDIT.name, "1", "claim", actor="bob", request="2")
    assert (again.owner, again.epoch) == ("bob", 1)
    with pytest.raises(InvalidTransition, match="no transition 'submit' from 'queued'"):
        await coordinator.fire(AUDIT.name, "2", "submit", actor="ada", request="2")


async def test_actions_follow_in_order_and_are_tried_again(
    settings: Settings, worker: None, coordinator: TemporalCoordinator
) -> None:
    performed.clear()
    await coordinator.fire(NOTIFYING.name, "1", "touch", actor="ada", request="1")
    await coordinator.fire(NOTIFYING.name, "1", "close", actor="ada", request="2")
    await (await handle_of(settings, NOTIFYING.name, "1")).result()
    assert [(each.event, each.epoch) for each in performed] == [
        ("touch", 1),
        ("close", 2),
        ("close", 2),
    ]


async def test_a_long_life_is_continued_without_losing_a_decision(
    settings: Settings, worker: None, probe: Recorder
) -> None:
    coordinator = TemporalCoordinator(settings.temporal, TickingClock(), probe, history_limit=40)

    async def tick(number: int) -> Transition:
        return await coordinator.fire(
            COUNTING.name, "1", "tick", actor="ada", request=str(number), data={"last": number}
        )

    first = await tick(0)
    ticks = await asyncio.gather(*(tick(number) for number in range(1, 40)))
    assert sorted(each.epoch for each in ticks) == list(range(2, 41))
    assert await tick(0) == first, "the repeat of a request before the continuation is decided anew"
    handle = await handle_of(settings, COUNTING.name, "1")
    assert (await handle.describe()).history_length < 80, "it was never continued"
    await coordinator.close()


@pytest.mark.parametrize("runner", [UnsandboxedWorkflowRunner(), SandboxedWorkflowRunner()])
async def test_histories_replay(
    settings: Settings, worker: None, coordinator: TemporalCoordinator, runner: WorkflowRunner
) -> None:
    """Also in the sandbox: the workflow imports nothing and does nothing that it forbids."""
    await run_through(coordinator, "1")
    await coordinator.fire(NOTIFYING.name, "1", "close", actor="ada", request="1")
    replayer = Replayer(workflows=[MachineWorkflow], workflow_runner=runner)
    for machine in (AUDIT.name, NOTIFYING.name):
        handle = await handle_of(settings, machine, "1")
        await handle.result()
        await replayer.replay_workflow(await handle.fetch_history())


async def test_without_a_worker_the_call_ends_in_time(settings: Settings, probe: Recorder) -> None:
    brief = settings.temporal.model_copy(update={"timeout_s": 0.3})
    coordinator = TemporalCoordinator(brief, TickingClock(), probe)
    with pytest.raises(CoordinatorUnavailable, match=r"within 0\.3 s; is a worker running"):
        await coordinator.fire(AUDIT.name, "1", "claim", actor="ada", request="1")
    assert coordinator.health().state == "down"
    assert "worker" in coordinator.health().cure
    await coordinator.close()


async def test_health_follows_the_worker(settings: Settings, probe: Recorder) -> None:
    coordinator = await connect(settings, TickingClock(), probe)
    await probe.until("coordinator.health", state="down")
    assert coordinator.health().reason == (
        f"no worker listens on task queue {settings.temporal.task_queue!r}"
    )
    async with make_worker(await connected(settings), settings.temporal.task_queue):
        await probe.until("coordinator.health", state="ok")
    await coordinator.close()


async def forget(client: Client, handle: WorkflowHandle[Any, Any]) -> None:
    """Delete a workflow, as the server does by itself when its retention is over."""
    execution = WorkflowExecution(workflow_id=handle.id)
    await client.workflow_service.delete_workflow_execution(
        DeleteWorkflowExecutionRequest(namespace=client.namespace, workflow_execution=execution)
    )
    while await started(handle):
        pass


async def started(handle: WorkflowHandle[Any, Any]) -> bool:
    try:
        await handle.describe()
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
        return False
    return True


async def test_a_cancelled_caller_stays_cancelled(
    settings: Settings, coordinator: TemporalCoordinator, probe: Recorder
) -> None:
    call = coordinator.fire(AUDIT.name, "1", "claim", actor="ada", request="1")
    task = asyncio.create_task(call)
    handle = await handle_of(settings, AUDIT.name, "1")
    while not await started(handle):
        assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not probe.of("coordinator.unavailable"), "a cancelled call says nothing about the server"


async def test_connecting_returns_at_once_without_a_server(probe: Recorder) -> None:
    settings = Settings(temporal={"address": "127.0.0.1:1", "timeout_s": 2.0})
    coordinator = await connect(settings, TickingClock(), probe)
    assert coordinator.health().state == "degraded"
    await probe.until("coordinator.health", state="down")
    with pytest.raises(CoordinatorUnavailable, match=r"code-audit/1: Temporal at 127\.0\.0\.1:1: "):
        await coordinator.fire(AUDIT.name, "1", "claim", actor="ada", request="1")
    await coordinator.close()
    assert coordinator.health().state == "off"


async def test_nothing_configured_is_unavailable(probe: Recorder) -> None:
    coordinator = await connect(Settings(), TickingClock(), probe)
    with pytest.raises(CoordinatorUnavailable, match="no coordinator is configured"):
        await coordinator.state(AUDIT.name, "1")
    await coordinator.close()
