"""Ready-made documents: the state of an agent and of a workflow, and the usual changes to them.

The functions change a document inside an edit, all fields that belong together, and count up its
version:

    with replica.edit(AgentState, "agent-7") as agent:
        begin_task(agent, "audit json.decoder", now)

Fields merge as their types say: of two statuses written at once the later one wins. What must have
one answer only is a state machine's business; its decision has a place here, in `decision`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from crdt import Counter, Decided, Default, Document, Map, Register
from crdt.errors import InvalidValue, OutOfBounds

__all__ = (
    "AgentState",
    "AgentStatus",
    "WorkflowState",
    "WorkflowStatus",
    "begin_task",
    "complete_step",
    "complete_task",
    "end_workflow",
    "fail_step",
    "fail_task",
    "report_progress",
    "rest",
    "start_workflow",
    "steps_completed",
)

AgentStatus = Literal["idle", "working", "completed", "failed"]
WorkflowStatus = Literal["running", "completed", "failed", "paused"]


class AgentState(Document):
    """What an agent is, does and last did. A status outside AgentStatus is refused."""

    agent_type: Register[str]
    status: Annotated[Register[AgentStatus], Default("idle")]
    current_task: Register[str | None]
    progress: Annotated[Register[float], Default(0.0)]
    last_activity: Register[datetime]
    metadata: Map[str, Register[Any]]
    version: Counter
    decision: Decided[dict[str, Any]]


class WorkflowState(Document):
    """How far a workflow is. A status outside WorkflowStatus is refused.

    `completed_steps` says when each was completed, `failed_steps` why each failed last.
    """

    status: Annotated[Register[WorkflowStatus], Default("running")]
    current_step: Register[str | None]
    completed_steps: Map[str, Register[datetime]]
    failed_steps: Map[str, Register[str]]
    started: Register[datetime]
    ended: Register[datetime]
    metadata: Map[str, Register[Any]]
    version: Counter
    decision: Decided[dict[str, Any]]


def begin_task(agent: AgentState, task: str, now: datetime) -> None:
    """The agent works on a task from now on."""
    agent.current_task = task
    agent.progress = 0.0
    _agent_is(agent, "working", now)


def report_progress(agent: AgentState, progress: float, now: datetime) -> None:
    """How much of the present task is done, from 0 to 1. Raises OutOfBounds, or InvalidValue."""
    if not 0.0 <= progress <= 1.0:
        raise OutOfBounds(f"{agent.id}: progress goes from 0 to 1, not {progress!r}")
    if agent.status != "working":
        raise InvalidValue(f"{agent.id} is {agent.status}, not working: it has no progress")
    agent.progress = progress
    _agent_is(agent, "working", now)


def complete_task(agent: AgentState, now: datetime) -> None:
    """The present task is done; it stays named until the next one."""
    agent.progress = 1.0
    _agent_is(agent, "completed", now)


def fail_task(agent: AgentState, reason: str, now: datetime) -> None:
    """The present task failed; `metadata["failure"]` says why."""
    agent.metadata["failure"] = reason
    _agent_is(agent, "failed", now)


def rest(agent: AgentState, now: datetime) -> None:
    """The agent has nothing to do."""
    agent.current_task = None
    agent.progress = 0.0
    _agent_is(agent, "idle", now)


def start_workflow(workflow: WorkflowState, step: str, now: datetime) -> None:
    """The workflow begins with a step."""
    workflow.status = "running"
    workflow.current_step = step
    workflow.started = now
    workflow.version += 1


def complete_step(
    workflow: WorkflowState, step: str, now: datetime, following: str | None = None
) -> None:
    """A step is done, `following` is next. A step done twice is there once."""
    workflow.completed_steps[step] = now
    workflow.failed_steps.discard(step)
    workflow.current_step = following
    workflow.version += 1


def fail_step(workflow: WorkflowState, step: str, reason: str) -> None:
    """A step failed; the workflow stays at it and can be tried again or ended."""
    workflow.failed_steps[step] = reason
    workflow.current_step = step
    workflow.version += 1


def end_workflow(workflow: WorkflowState, status: WorkflowStatus, now: datetime) -> None:
    """The workflow ends as completed or failed. Raises InvalidValue for another status."""
    if status not in ("completed", "failed"):
        raise InvalidValue(f"{workflow.id} can't end as {status!r}, only as completed or failed")
    workflow.status = status
    workflow.current_step = None
    workflow.ended = now
    workflow.version += 1


def steps_completed(workflow: WorkflowState) -> list[str]:
    """The completed steps in the order of their completion."""
    done = workflow.completed_steps
    return sorted(done, key=lambda step: (done[step], step))


def _agent_is(agent: AgentState, status: AgentStatus, now: datetime) -> None:
    agent.status = status
    agent.last_activity = now
    agent.version += 1
