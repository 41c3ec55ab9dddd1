"""What agents do all day: analyse, lead modules through their machine, review.

Analysing commutes and needs nobody's leave: every role adds its part to every task, in whatever
order and on whichever side of a partition. Leading and reviewing are exclusive and begin with a
claim.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Sequence
from typing import Any

from simulations.rehearsal.audit import ANALYSED, CLAIMED, QUEUED, REVIEWED, Task
from simulations.rehearsal.desk import Desk
from simulations.rehearsal.index import Known
from simulations.rehearsal.plan import rendezvous
from simulations.rehearsal.roles import REQUIREMENTS, Role
from simulations.rehearsal.source import Analysis, SourceTree
from workflows.machine import TOKEN

_BATCH = 6
_LEADING_MAX = 8
_REVIEWING_MAX = 12
_WEIGHT = {"high": 12, "medium": 4, "low": 1}


class Analyst:
    """Plays one role over its share of the modules; several of one divide them without talking."""

    def __init__(self, role: Role, tree: SourceTree, colleagues: Sequence[str], desk: Desk) -> None:
        self._role = role
        self._tree = tree
        self._desk = desk
        self._pending = [
            name for name in tree.modules if rendezvous(name, colleagues)[0] == desk.name
        ]
        self._share = len(self._pending)
        self.latest = ""

    @property
    def done(self) -> int:
        """Modules of its share that have its part."""
        return self._share - len(self._pending)

    @property
    def idle(self) -> bool:
        """Nothing left to analyse."""
        return not self._pending

    async def run(self) -> None:
        """Work until every module of the share has this role's part. Analyses run in a thread."""
        context = await asyncio.to_thread(self._role.prepare, self._tree)
        while self._pending:
            batch = self._next()
            if not batch:
                await self._desk.index.changed()
                continue
            analyses = await asyncio.to_thread(self._analyse, batch, context)
            await self._desk.replica.ready()
            for name, analysis in analyses.items():
                self._desk.record(self._role.name, name, analysis)
            self._desk.count(self._role.name, analyses)
            self.latest = batch[-1]
            await asyncio.sleep(0)

    def _next(self) -> list[str]:
        """The next few modules that have a task and lack our part; the first role makes tasks."""
        batch: list[str] = []
        waiting: list[str] = []
        for position, name in enumerate(self._pending):
            if len(batch) == _BATCH:
                waiting.extend(self._pending[position:])
                break
            known = self._desk.index.get(name)
            if known is not None and self._role.name in known.parts:
                continue
            if known is None and self._role.name != REQUIREMENTS:
                waiting.append(name)
                continue
            batch.append(name)
        self._pending = waiting
        return batch

    def _analyse(self, batch: Sequence[str], context: Any) -> dict[str, Analysis]:
        return {name: self._role.analyse(self._tree.load(name), context) for name in batch}


class _Claimant(ABC):
    """Runs one task per module it is responsible for, never more than `limit` at once."""

    def __init__(self, desk: Desk, limit: int) -> None:
        self._desk = desk
        self._limit = limit
        self._active: dict[str, asyncio.Task[None]] = {}

    @property
    def active(self) -> int:
        """Modules in hand."""
        return len(self._active)

    async def run(self) -> None:
        """Take on modules as they come, until cancelled; raises the error of any of them."""
        try:
            while True:
                for name in self._wanted(self._limit - len(self._active)):
                    self._active[name] = asyncio.create_task(self._handle(name))
                await self._desk.index.changed()
                for name, task in list(self._active.items()):
                    if task.done():
                        del self._active[name]
                        task.result()
        finally:
            for task in self._active.values():
                task.cancel()
            await asyncio.gather(*self._active.values(), return_exceptions=True)

    @abstractmethod
    def _wanted(self, room: int) -> list[str]:
        """Which modules to take on now, at most `room`."""

    @abstractmethod
    def _handle(self, name: str) -> Coroutine[Any, Any, None]:
        """What is done with one."""


class Lead(_Claimant):
    """Answers for modules: claims one, waits for all parts, sums them up, hands it to review."""

    def __init__(self, desk: Desk, leads: Sequence[str], roles: Sequence[str]) -> None:
        super().__init__(desk, _LEADING_MAX)
        self._leads = leads
        self._roles = frozenset(roles)
        self._ours: dict[str, bool] = {}

    def _wanted(self, room: int) -> list[str]:
        """Our own claims first (a restart), then modules that are ours by hash, then anybody's."""
        if room <= 0:
            return []
        own: list[str] = []
        ours: list[str] = []
        others: list[str] = []
        for name, known in self._desk.index:
            if name in self._active or known.state not in (QUEUED, CLAIMED):
                continue
            if known.state == CLAIMED:
                if known.owner == self._desk.name:
                    own.append(name)
            elif known.parts >= self._roles:
                (ours if self._is_ours(name) else others).append(name)
        if own or ours:
            return [*own, *ours][:room]
        # Idle: help out, but only where nothing is missing any more, so that it is over soon.
        complete = (name for name in others if self._complete(name))
        return sorted(complete, key=self._rank)[: min(room, 2)]

    def _is_ours(self, name: str) -> bool:
        if name not in self._ours:
            self._ours[name] = rendezvous(name, self._leads)[0] == self._desk.name
        return self._ours[name]

    def _complete(self, name: str) -> bool:
        known = self._desk.index.get(name)
        return known is not None and known.complete

    def _rank(self, name: str) -> int:
        return rendezvous(name, self._leads).index(self._desk.name)

    async def _handle(self, name: str) -> None:
        claim = await self._desk.decide(name, "claim")
        if claim is None:
            return
        desk = self._desk
        while not self._complete(name):
            await desk.index.changed()
        summary = self._sum_up(name)
        with desk.replica.edit(Task, name) as task:
            task.summary = {**summary, "lead": desk.name, "token": claim.epoch}
        desk.wrote()
        data = {"score": summary["score"], TOKEN: claim.epoch}
        await desk.decide(name, "analysed", data)

    def _sum_up(self, name: str) -> dict[str, Any]:
        task = self._desk.replica.get(Task, name)
        assert task is not None, "a claimed module has its task"
        counts = dict.fromkeys(_WEIGHT, 0)
        for finding in task.findings.values():
            counts[finding["severity"]] += 1
        score = max(0, 100 - sum(_WEIGHT[severity] * count for severity, count in counts.items()))
        return {"score": score, **counts}


class Reviewer(_Claimant):
    """Takes analysed modules and what was found in them; accepts, or sends to rework."""

    def __init__(self, desk: Desk, reviewers: Sequence[str]) -> None:
        super().__init__(desk, _REVIEWING_MAX)
        self._reviewers = reviewers

    def _wanted(self, room: int) -> list[str]:
        if room <= 0:
            return []
        return [name for name, known in self._desk.index if self._mine(name, known)][:room]

    def _mine(self, name: str, known: Known) -> bool:
        if name in self._active or not known.complete:
            return False
        if known.state == REVIEWED:
            return known.owner == self._desk.name
        return known.state == ANALYSED and rendezvous(name, self._reviewers)[0] == self._desk.name

    async def _handle(self, name: str) -> None:
        desk = self._desk
        known = desk.index.get(name)
        if known is not None and known.state == ANALYSED:
            await desk.decide(name, "reviewed")
            known = desk.index.get(name)
        if known is None or known.state != REVIEWED or known.owner != desk.name:
            return
        task = desk.replica.get(Task, name)
        assert task is not None, "a reviewed module has its task"
        grave = any(finding["severity"] == "high" for finding in task.findings.values())
        await desk.decide(name, "reject" if grave else "accept")
