"""One Temporal workflow per machine: its history is the total order of that machine's decisions.

The update `fire` decides. Its validator refuses what is refused wherever the machine stands, before
anything is written to history; validator and handler run without an await between them, so what was
validated is what is decided. A request id is decided or refused once: repeats are answered from a
bounded memory that survives continue-as-new. So refusals stand in history, too: without that, a
copy of the request that comes late could be granted to somebody who was told that it is refused.
"""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from crdt.errors import CallerError
    from workflows.decider import REMEMBERED, Decider
    from workflows.machine import MachineState
    from workflows.messages import Due, Fire, Start

__all__ = ("MachineWorkflow",)

ACTION_TIMEOUT = timedelta(seconds=60)
ACTION_RETRY = RetryPolicy(
    initial_interval=timedelta(milliseconds=200),
    maximum_interval=timedelta(seconds=30),
    maximum_attempts=20,
)


@workflow.defn(name="statemesh.machine")
class MachineWorkflow:
    """A running machine. Completes once a final state is reached and all its actions are done."""

    @workflow.init
    def __init__(self, start: Start) -> None:
        self._decider = Decider(start)
        self._history_limit = start.history_limit

    @workflow.run
    async def run(self, start: Start) -> MachineState:  # noqa: ARG002  __init__ has taken it in
        """Returns the final state. Events are decided by `fire`, between the steps of this loop."""
        decider = self._decider
        while True:
            await workflow.wait_condition(
                lambda: bool(decider.due) or decider.ended or self._long()
            )
            if decider.due:
                await _perform(decider.due[0])
                decider.due.popleft()
                continue
            await workflow.wait_condition(workflow.all_handlers_finished)
            if decider.ended:
                return decider.state
            workflow.continue_as_new(decider.resumed())

    @workflow.update
    def fire(self, fire: Fire) -> MachineState:
        """Decide one event, or repeat what its request was told before."""
        try:
            return self._decider.fire(fire)
        except REMEMBERED as refusal:
            raise _refused(refusal) from refusal

    @fire.validator
    def check(self, fire: Fire) -> None:
        """Refuse what would be refused in any state, leaving no trace in history."""
        try:
            self._decider.check(fire)
        except CallerError as refusal:
            raise _refused(refusal) from refusal

    @workflow.query
    def state(self) -> MachineState:
        """The last decision; of a closed machine, its final one."""
        return self._decider.state

    @workflow.query
    def answer(self, request: str) -> MachineState | None:
        """What was decided for that request, if it was and is still remembered."""
        return self._decider.answer(request)

    def _long(self) -> bool:
        """Whether the history should end here and a successor go on."""
        info = workflow.info()
        limit = self._history_limit
        return info.is_continue_as_new_suggested() or (
            0 < limit < info.get_current_history_length()
        )


async def _perform(due: Due) -> None:
    """Run an action. That it failed for good is told in the log and does not stop the machine."""
    try:
        await workflow.execute_activity(
            due.action,
            due.state,
            start_to_close_timeout=ACTION_TIMEOUT,
            retry_policy=ACTION_RETRY,
        )
    except ActivityError as failure:
        state = due.state
        workflow.logger.error(
            f"action {due.action} of {state.machine}/{state.id}, epoch {state.epoch}, "
            f"failed for good: {failure.cause}"
        )


def _refused(refusal: CallerError) -> ApplicationError:
    """The one kind of error that fails the update and not the workflow task."""
    return ApplicationError(str(refusal), type=type(refusal).__name__, non_retryable=True)
