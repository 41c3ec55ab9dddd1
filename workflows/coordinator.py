"""The Coordinator port over Temporal: one round trip per event, at most one start per machine.

An event of a machine that is not known to run is sent as update-with-start. Where it is refused as
the first event of a machine, the machine's workflow remembers that, and waits for another one to
begin with. A finished machine is never started again while Temporal remembers it: keep the
namespace's retention longer than ids of machines may be used again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from datetime import timedelta
from typing import TypeVar
from weakref import WeakValueDictionary

from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.client import (
    Client,
    RPCTimeoutOrCancelledError,
    WithStartWorkflowOperation,
    WorkflowHandle,
    WorkflowQueryFailedError,
    WorkflowUpdateFailedError,
)
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import ApplicationError, TemporalError, WorkflowAlreadyStartedError
from temporalio.service import GrpcCompression, RetryConfig, RPCError, RPCStatusCode

from crdt.errors import CallerError, InvalidId, InvalidValue
from mesh.environment import CoordinatorUnavailable, InvalidTransition, UnknownMachine
from mesh.settings import Settings, TemporalSettings
from persistence.base import Clock, Probe
from workflows import registry
from workflows.base import BaseCoordinator
from workflows.machine import DefinitionMismatch, Machine, MachineState, step
from workflows.messages import Start
from workflows.request import Request
from workflows.runtime import sdk_runtime
from workflows.workflow import MachineWorkflow

__all__ = ("MAX_IN_FLIGHT", "TemporalCoordinator", "connect", "workflow_id")

MAX_IN_FLIGHT = 64
"""Calls under way at once; further ones wait, and the wait counts towards their timeout."""

MAX_PER_MACHINE = 4
"""Of these to one machine. Temporal takes 10 updates of a workflow at a time, from all of us."""

MAX_KNOWN = 4_096
"""Machines remembered as started, which need no offer to start them with every event."""

TASK_TIMEOUT = timedelta(seconds=5)
"""After which another worker gets the work of one that died in the middle of it."""

FIRST_CHECK_S = 0.5
LAST_CHECK_S = 15.0

REFUSALS: dict[str, type[CallerError]] = {
    kind.__name__: kind
    for kind in (InvalidTransition, UnknownMachine, DefinitionMismatch, InvalidId, InvalidValue)
}
CURES = {
    RPCStatusCode.UNAVAILABLE: "it can't be reached",
    RPCStatusCode.DEADLINE_EXCEEDED: "it answers too slowly; is a worker running?",
    RPCStatusCode.RESOURCE_EXHAUSTED: "it is overloaded",
    RPCStatusCode.UNAUTHENTICATED: "it does not accept our credentials",
    RPCStatusCode.PERMISSION_DENIED: "it does not permit this",
}

Result = TypeVar("Result")
Handle = WorkflowHandle[MachineWorkflow, MachineState]


class _Closed(TemporalError):
    """The machine's workflow has ended, or there is none."""


async def connect(settings: Settings, clock: Clock, probe: Probe) -> TemporalCoordinator:
    """A coordinator that reaches for the server in the background. Returns at once, also without
    one.
    """
    coordinator = TemporalCoordinator(settings.temporal, clock, probe)
    coordinator.begin()
    return coordinator


def workflow_id(queue: str, machine: str, id: str) -> str:
    """The workflow of a machine. The task queue scopes it, as it does the workers."""
    return f"machine:{queue}:{machine}:{id}"


class TemporalCoordinator(BaseCoordinator):
    """`mesh.environment.Coordinator`, decided by Temporal workflows.

    A call takes at most `timeout_s` and a few attempts; then it raises CoordinatorUnavailable.
    While the server is down, one task looks for it at growing intervals, so that `health` recovers
    by itself.
    """

    def __init__(
        self,
        settings: TemporalSettings,
        clock: Clock,
        probe: Probe,
        machines: Mapping[str, Machine] = registry.machines,
        history_limit: int = 0,
    ) -> None:
        super().__init__(clock, probe, machines)
        self._settings = settings
        self._history_limit = history_limit
        self._slots = asyncio.Semaphore(MAX_IN_FLIGHT)
        self._turns: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._known: dict[str, None] = {}
        self._client: Client | None = None
        self._seeker: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return (
            f"TemporalCoordinator({self._settings.address!r}, queue={self._settings.task_queue!r}, "
            f"{self._health.now.state})"
        )

    def begin(self) -> None:
        """Look for the server in the background, until decisions can be had."""
        if self._health.now.state == "off" or not self._settings.address:
            return
        if self._seeker is None or self._seeker.done():
            self._seeker = asyncio.create_task(self._seek(), name="coordinator-seek")

    async def close(self) -> None:
        """End the search for the server and refuse further calls. Idempotent."""
        await super().close()
        self._client = None
        if self._seeker is not None:
            self._seeker.cancel()
            await asyncio.gather(self._seeker, return_exceptions=True)
            self._seeker = None

    def _connected(self) -> Client:
        self._check_open()  # it may have been closed while this call was under way
        assert self._client is not None, "_call made it"
        return self._client

    def _handle(self, machine: str, id: str) -> Handle:
        return self._connected().get_workflow_handle_for(
            MachineWorkflow.run, workflow_id(self._settings.task_queue, machine, id)
        )

    async def _decide(self, request: Request) -> MachineState:
        turn = self._turns.setdefault(request.where, asyncio.Semaphore(MAX_PER_MACHINE))
        return await self._call(lambda: self._fire(request), request.where, turn)

    async def _look_up(self, machine: str, id: str) -> MachineState | None:
        async def ask() -> MachineState | None:
            try:
                return await _open(self._handle(machine, id).query(MachineWorkflow.state))
            except _Closed:
                return None

        return await self._call(ask, f"{machine}/{id}", nullcontext())

    async def _fire(self, request: Request) -> MachineState:
        """One event, sent with an offer to start its machine unless that is known to run."""
        try:
            if request.where not in self._known:
                return await self._fire_with_start(request)
            fire = request.fire
            update = self._handle(request.first.machine, request.first.id).execute_update(
                MachineWorkflow.fire, fire, id=fire.request
            )
            return await _open(update)
        except _Closed:
            self._known.pop(request.where, None)
        with suppress(_Closed):
            return await self._answer_of_closed(request)
        return await self._fire_with_start(request)  # Temporal has forgotten it: it begins anew

    async def _answer_of_closed(self, request: Request) -> MachineState:
        """What a machine that takes no more events had decided for this request, or its refusal."""
        handle = self._handle(request.first.machine, request.first.id)
        fire = request.fire
        answer = await _open(handle.query(MachineWorkflow.answer, fire.request))
        if answer is not None:
            return answer
        last = await _open(handle.query(MachineWorkflow.state))
        step(request.definition, last, fire.event, fire.actor, fire.data, registry.guards)
        # Open by its table, yet its workflow is not: somebody terminated it from outside.
        raise InvalidTransition(
            f"{request.where}: its workflow was ended from outside in {last.state!r}, "
            f"epoch {last.epoch}; it takes no more events"
        )

    async def _fire_with_start(self, request: Request) -> MachineState:
        queue, first, fire = self._settings.task_queue, request.first, request.fire
        operation = WithStartWorkflowOperation(
            MachineWorkflow.run,
            Start(request.definition, first, history_limit=self._history_limit),
            id=workflow_id(queue, first.machine, first.id),
            task_queue=queue,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
            task_timeout=TASK_TIMEOUT,
        )
        update = self._connected().execute_update_with_start_workflow(
            MachineWorkflow.fire, fire, start_workflow_operation=operation, id=fire.request
        )
        try:
            state = await _open(update)
        except BaseException:
            await _look_away(operation)
            raise
        self._known[request.where] = None
        if len(self._known) > MAX_KNOWN:
            del self._known[next(iter(self._known))]
        return state

    async def _call(
        self,
        ask: Callable[[], Awaitable[Result]],
        where: str,
        turn: AbstractAsyncContextManager[object],
    ) -> Result:
        """Run one exchange within the timeout; a failure that is no refusal means unavailable."""
        self._check_open()
        if not self._settings.address:
            raise CoordinatorUnavailable("no coordinator is configured")
        try:
            async with asyncio.timeout(self._settings.timeout_s), turn, self._slots:
                if self._client is None:
                    self._client = await _connect(self._settings)
                result = await ask()
        except CallerError:
            self._health.ok()
            raise
        except (TimeoutError, RPCTimeoutOrCancelledError) as error:
            _keep_cancelled(error)
            reason = f"no answer within {self._settings.timeout_s:g} s; is a worker running?"
            raise self._unavailable(where, reason) from error
        except (TemporalError, RuntimeError) as error:
            _keep_cancelled(error)
            raise self._unavailable(where, _reason(error)) from error
        self._health.ok()
        return result

    def _unavailable(self, where: str, reason: str) -> CoordinatorUnavailable:
        super()._unavailable(where, reason)
        self.begin()
        return CoordinatorUnavailable(f"{where}: Temporal at {self._settings.address}: {reason}")

    async def _seek(self) -> None:
        """Look for a server that answers and a worker that listens, less and less often.

        A server remembers for a while a worker that was killed. So once there was something to
        complain of, only a worker that asked for work since then counts.
        """
        wait, known = FIRST_CHECK_S, None
        while self._health.now.state != "ok":
            try:
                async with asyncio.timeout(self._settings.timeout_s):
                    heard = await self._last_heard_of_worker()
            except (TimeoutError, TemporalError, RuntimeError) as error:
                _keep_cancelled(error)
                self._health.down(_reason(error))
                known = 0.0
            else:
                if known is None and self._health.now.state == "down":
                    known = heard
                if heard > (known or 0.0):
                    self._health.ok()
                    return
                if not heard:
                    known = 0.0
                    queue = self._settings.task_queue
                    self._health.down(f"no worker listens on task queue {queue!r}")
            await asyncio.sleep(wait)
            wait = min(2 * wait, LAST_CHECK_S)

    async def _last_heard_of_worker(self) -> float:
        """When a worker last asked our queue for work, by the server's clock; 0 if none did."""
        if self._client is None:
            self._client = await _connect(self._settings)
        answer = await self._client.workflow_service.describe_task_queue(
            DescribeTaskQueueRequest(
                namespace=self._settings.namespace,
                task_queue=TaskQueue(name=self._settings.task_queue),
                task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW,
            )
        )
        times = [poller.last_access_time.ToNanoseconds() / 1e9 for poller in answer.pollers]
        return max(times, default=0.0)


async def _connect(settings: TemporalSettings) -> Client:
    """A client that connects with its first call. No compression: the payloads are tiny."""
    return await Client.connect(
        settings.address,
        namespace=settings.namespace,
        lazy=True,
        grpc_compression=GrpcCompression.NONE,
        runtime=sdk_runtime(),
        retry_config=RetryConfig(
            initial_interval_millis=50,
            max_interval_millis=1_000,
            max_elapsed_time_millis=int(settings.timeout_s * 1_000),
            max_retries=6,
        ),
    )


async def _look_away(operation: WithStartWorkflowOperation[MachineWorkflow, MachineState]) -> None:
    """Take the error out of the operation's own future too, or asyncio reports it as never
    retrieved.
    """
    started = asyncio.ensure_future(operation.workflow_handle())
    await asyncio.wait({started}, timeout=0)
    started.cancel()
    await asyncio.gather(started, return_exceptions=True)


async def _open(call: Awaitable[Result]) -> Result:
    """Await a call to a machine, translating refusals, and "it has ended" to `_Closed`."""
    try:
        return await call
    except WorkflowUpdateFailedError as error:
        cause = error.cause
        if isinstance(cause, ApplicationError):
            if cause.type in REFUSALS:
                raise REFUSALS[cause.type](cause.message) from None
            if cause.type == "AcceptedUpdateCompletedWorkflow":
                raise _Closed from error
        raise
    except WorkflowAlreadyStartedError as error:
        raise _Closed from error
    except RPCError as error:
        if error.status == RPCStatusCode.NOT_FOUND and "namespace" not in error.message.lower():
            raise _Closed from error
        raise


def _reason(error: BaseException) -> str:
    """What went wrong, in words and with what the server said."""
    if isinstance(error, RPCError):
        known = CURES.get(error.status, "")
        return f"{known} ({error.message})" if known else error.message
    if isinstance(error, TimeoutError | RPCTimeoutOrCancelledError):
        return "no answer in time"
    if isinstance(error, WorkflowUpdateFailedError):
        return f"the update failed: {error.cause}"
    if isinstance(error, WorkflowQueryFailedError):
        return f"the query failed: {error.message}"
    return str(error) or type(error).__name__


def _keep_cancelled(error: BaseException) -> None:
    """The SDK turns a cancelled call into an error of its own; a cancelled caller must stay
    cancelled.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError from error
