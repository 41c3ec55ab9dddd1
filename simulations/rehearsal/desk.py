"""Everything an agent writes, in one place: edits, what was acknowledged, and its decisions.

An update is *acknowledged* once `flush(PEERS(1))` returned: another replica has it on its disk.
Only then is it reported as a promise, together with the findings it carried, and the verdict holds
the fleet to it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from typing import Any

from mesh.durability import Durability, FlushTimeout
from mesh.environment import (
    Coordinator,
    CoordinatorUnavailable,
    InvalidTransition,
    Transition,
    UnknownMachine,
)
from mesh.replica import Replica
from simulations.rehearsal import wire
from simulations.rehearsal.audit import AUDIT, MODULE_AUDIT, Fleet, Report, Task
from simulations.rehearsal.index import Index
from simulations.rehearsal.source import Analysis
from workflows.publish import decision_value, publish

_FLUSH_SECONDS = 5.0
_FLUSH_PAUSE = 0.1
_RETRY_FIRST, _RETRY_LAST = 0.1, 2.0
_REPORTED_PER_PART = 2


class Desk:
    """One agent's pen. Every edit goes through here, so none is forgotten in the promises."""

    def __init__(
        self, name: str, replica: Replica, coordinator: Coordinator | None, index: Index
    ) -> None:
        self.name = name
        self.replica = replica
        self.index = index
        self.updates = 0
        self.findings = 0
        self.refused = 0
        self._coordinator = coordinator
        self._marks: list[tuple[str, str]] = []
        self._dirty = asyncio.Event()
        self._requests = 0
        self._unanswered: set[str] = set()

    @property
    def waiting(self) -> int:
        """Decisions that could not be had when last asked for, and are asked for again."""
        return len(self._unanswered)

    def wrote(self, *marks: tuple[str, str]) -> None:
        """One more transaction was committed; `marks` name (module, finding) pairs it carried."""
        self.updates += 1
        self._marks.extend(marks)
        self._dirty.set()

    async def acknowledge(self) -> None:
        """Make promises for ever: flush what was written to one other replica, then say so."""
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            marks, self._marks = self._marks, []
            if not await self.flush(marks):
                self._marks = marks + self._marks
                self._dirty.set()
            await asyncio.sleep(_FLUSH_PAUSE)

    async def flush(self, marks: list[tuple[str, str]]) -> bool:
        """Try once; True if another replica has everything, and then it has been reported."""
        try:
            result = await self.replica.flush(Durability.PEERS(1), timeout=_FLUSH_SECONDS)
        except FlushTimeout:
            return False  # nobody in reach: not yet acknowledged, and asked again
        wire.emit(
            "acknowledged",
            session=self.replica.session,
            written={str(shard): seq for shard, seq in result.written.items()},
            marks=marks,
        )
        return True

    def record(self, role: str, module: str, analysis: Analysis) -> None:
        """Write a role's part of a task: all in one transaction, nothing if it is there already."""
        with self.replica.edit(Task, module) as task:
            if role in task.parts:
                return
            for register, value in analysis.registers.items():
                setattr(task, register, value)
            for name in analysis.imports:
                task.imports.add(name)
            for finding in analysis.findings:
                task.findings[finding.key] = {"role": role, **finding.value()}
            for severity, count in Counter(f.severity for f in analysis.findings).items():
                task.severities[severity] += count
            task.parts.add(role)
        self.findings += len(analysis.findings)
        self.wrote(*((module, finding.key) for finding in analysis.findings))
        self.index.refresh(module)

    def count(self, role: str, analyses: Mapping[str, Analysis]) -> None:
        """Add a batch to the fleet's counters, and its gravest findings to the common report."""
        lines: list[str] = []
        severities: Counter[str] = Counter()
        for module, analysis in analyses.items():
            severities.update(finding.severity for finding in analysis.findings)
            grave = [finding for finding in analysis.findings if finding.severity == "high"]
            lines.extend(
                f"- `{module}:{finding.line}` {finding.message} ({role})\n"
                for finding in grave[:_REPORTED_PER_PART]
            )
        with self.replica.edit(Fleet, AUDIT) as fleet:
            fleet.parts[role] += len(analyses)
            for severity, count in severities.items():
                fleet.findings[severity] += count
        self.wrote()
        if lines:
            self.report("".join(lines))

    def head_report(self, heading: str) -> None:
        """Put a heading over whatever others have written already; once, also after a crash."""
        with self.replica.edit(Report, AUDIT) as report:
            if heading in report.text:
                return
            report.text.insert(0, heading)
        self.wrote()

    def report(self, text: str) -> None:
        """Append to the common report."""
        with self.replica.edit(Report, AUDIT) as report:
            report.text.append(text)
        self.wrote()

    async def decide(
        self, module: str, event: str, data: Mapping[str, Any] | None = None
    ) -> Transition | None:
        """Fire an event at a module's machine and publish the decision. None: it was refused.

        A refusal means that somebody else was there first, perhaps beyond a partition: what the
        machine last decided is published then. An unreachable coordinator is asked again under the
        same request id.
        """
        if self._coordinator is None:
            raise CoordinatorUnavailable("this agent was given no coordinator")
        self._requests += 1
        request = f"{self.name}.{self.replica.session}.{self._requests}"
        try:
            transition = await self._insist(module, event, request, data)
        except (InvalidTransition, UnknownMachine):
            self.refused += 1
            await self._learn(module)
            return None
        self._publish(module, transition)
        return transition

    async def _insist(
        self, module: str, event: str, request: str, data: Mapping[str, Any] | None
    ) -> Transition:
        """Fire an event until it is decided; once it could not be, it counts as `waiting`."""
        assert self._coordinator is not None, "decide() asked it just now"
        wait = _RETRY_FIRST
        try:
            while True:
                try:
                    return await self._coordinator.fire(
                        MODULE_AUDIT.name, module, event,
                        actor=self.name, request=request, data=data,
                    )  # fmt: skip
                except CoordinatorUnavailable:
                    self._unanswered.add(request)
                    await asyncio.sleep(wait)
                    wait = min(2 * wait, _RETRY_LAST)
        finally:
            self._unanswered.discard(request)

    async def _learn(self, module: str) -> None:
        assert self._coordinator is not None, "decide() asked it just now"
        try:
            transition = await self._coordinator.state(MODULE_AUDIT.name, module)
        except (CoordinatorUnavailable, UnknownMachine):
            return  # whoever decided will publish it; we shall see it in the mesh
        self._publish(module, transition)

    def _publish(self, module: str, transition: Transition) -> None:
        publish(self.replica, Task, module, "machine", transition)
        self.wrote()
        with self.replica.edit(Task, module) as task:
            task.history.append(
                {"epoch": transition.epoch, "by": self.name, **decision_value(transition)}
            )
        self.wrote()
        self.index.refresh(module)
