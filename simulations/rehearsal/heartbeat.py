"""The ready-made documents: each agent's own state, and by one agent the workflow's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from simulations.rehearsal.audit import ALL_PARTS, AUDIT
from simulations.rehearsal.desk import Desk
from simulations.rehearsal.roles import REQUIREMENTS
from workflows.state import (
    AgentState,
    WorkflowState,
    begin_task,
    complete_step,
    complete_task,
    end_workflow,
    report_progress,
    start_workflow,
)

_SECONDS = 1.0
STEPS = ("inventory", "analysis", "review")


class Heartbeat:
    """Writes once a second what the agent is doing; `doing` and `progress` are asked for it."""

    def __init__(
        self,
        desk: Desk,
        roles: Sequence[str],
        modules: int,
        doing: Callable[[], str],
        progress: Callable[[], float],
    ) -> None:
        self._desk = desk
        self._roles = roles
        self._modules = modules
        self._doing = doing
        self._progress = progress
        self._keeps_workflow = desk.name == REQUIREMENTS

    async def run(self) -> None:
        """Beat until cancelled."""
        now = datetime.now(UTC)
        with self._desk.replica.edit(AgentState, self._desk.name) as agent:
            agent.agent_type = ", ".join(self._roles)
            begin_task(agent, "audit", now)
        self._desk.wrote()
        if self._keeps_workflow:
            self._start_workflow(now)
        while True:
            await asyncio.sleep(_SECONDS)
            self.beat()

    def beat(self) -> None:
        """Write the state as it is now."""
        now = datetime.now(UTC)
        with self._desk.replica.edit(AgentState, self._desk.name) as agent:
            agent.current_task = self._doing()
            report_progress(agent, self._progress(), now)
        self._desk.wrote()
        if self._keeps_workflow:
            self._advance()

    def end(self) -> None:
        """The work is done. Nothing is written after this."""
        now = datetime.now(UTC)
        with self._desk.replica.edit(AgentState, self._desk.name) as agent:
            complete_task(agent, now)
        self._desk.wrote()
        if self._keeps_workflow:
            self._advance()
            with self._desk.replica.edit(WorkflowState, AUDIT) as workflow:
                end_workflow(workflow, "completed", now)
            self._desk.wrote()

    def _start_workflow(self, now: datetime) -> None:
        known = self._desk.replica.get(WorkflowState, AUDIT)
        if known is None:  # it is there already if we come back from a crash
            with self._desk.replica.edit(WorkflowState, AUDIT) as workflow:
                start_workflow(workflow, STEPS[0], now)
            self._desk.wrote()

    def _advance(self) -> None:
        index = self._desk.index
        reached = (
            len(index) >= self._modules,
            index.parts >= self._modules * len(ALL_PARTS),
            index.final >= self._modules,
        )
        known = self._desk.replica.get(WorkflowState, AUDIT)
        done = set(known.completed_steps) if known is not None else set()
        for position, (step, is_reached) in enumerate(zip(STEPS, reached, strict=True)):
            if is_reached and step not in done:
                following = STEPS[position + 1] if position + 1 < len(STEPS) else None
                with self._desk.replica.edit(WorkflowState, AUDIT) as workflow:
                    complete_step(workflow, step, datetime.now(UTC), following)
                self._desk.wrote()
