"""A simulated Temporal: decides what must be decided once, answers late, and is asked twice.

    temporal = TemporalServer(rng)
    coordinator = SimCoordinator(temporal, way, clock, probe)    # one for each run of a replica

Decisions are the production `Decider`'s, as in the real workflow. Simulated is what lies around it:
the way there and back, a client that repeats a call whose answer got lost, a server that goes away
and comes back with all that it had decided, and a worker that performs actions after the answer,
in order, at least once.

Copies of requests come late, and overtake later ones of the same caller: of what was decided, of
what was refused, and of what never came to the server before its caller gave up.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from crdt.errors import CallerError
from persistence.base import Clock, Probe, ServiceUnavailable
from workflows import registry
from workflows.base import BaseCoordinator
from workflows.machine import Machine, MachineState
from workflows.memory import MemoryMachines
from workflows.messages import Fire
from workflows.request import Request

if TYPE_CHECKING:
    from simulations.ports.services import Way

__all__ = ("Commit", "SimCoordinator", "TemporalServer")

T = TypeVar("T")
ACTION_S = 0.05
"""How long it takes on average until a worker has performed an action."""
ACTION_ATTEMPTS = 20
LATE_S = 5.0
"""How late a copy of a request comes, on average."""
REPEAT_S = (0.05, 1.0)
"""How soon a client repeats a call that broke off."""


@dataclass(frozen=True, slots=True)
class Commit:
    """A decision that stands: what was asked for, and what came of it."""

    fire: Fire
    state: MachineState


class TemporalServer:
    """Server and workers. What was decided survives everything. `repeats` is the share of calls
    whose answer is lost after the decision, of requests that come a second time, and of actions
    that are performed again. `commits` holds the decisions of each `machine/id` in their order.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._machines = MemoryMachines()
        self._performing: set[str] = set()
        self._up = asyncio.Event()
        self._up.set()
        self._slow_s = 0.0
        self.repeats = 0.0
        self.context = copy_context()
        """Where actions run: it is nobody's process that could crash."""
        self.commits: dict[str, list[Commit]] = {}

    def __repr__(self) -> str:
        return f"<TemporalServer, {self._machines!r}, {'up' if self._up.is_set() else 'down'}>"

    def stop(self) -> None:
        """Nothing is decided and nothing answered."""
        self._up.clear()

    def start(self) -> None:
        """It goes on with all that it had."""
        self._up.set()

    def slow(self, seconds: float) -> None:
        """From now on answers come so late on average; 0: at once."""
        self._slow_s = seconds

    def loses(self) -> bool:
        """Whether something is lost after it was done, and has to be done again."""
        return bool(self.repeats) and self._rng.random() < self.repeats

    def pause(self) -> float:
        """How long a client waits before it repeats a call."""
        return self._rng.uniform(*REPEAT_S)

    async def answer(self, ask: Callable[[], T]) -> T | CallerError:
        """What comes of a request; a refusal is an answer. Raises ServiceUnavailable."""
        self._check_up()
        result: T | CallerError
        try:
            result = ask()
        except CallerError as refusal:
            result = refusal
        if self._slow_s:
            await asyncio.sleep(self._rng.expovariate(1 / self._slow_s))
            self._check_up()
        return result

    def copy(self, request: Request) -> None:
        """A request is on its way: a copy of it may come late, whatever becomes of it."""
        if self.loses():
            asyncio.get_running_loop().call_later(
                self._rng.expovariate(1 / LATE_S), self._again, request, context=self.context
            )

    def decide(self, request: Request) -> MachineState:
        """Decide one event. Raises CallerError."""
        before = self._machines.state(request.first.machine, request.first.id)
        state, decider = self._machines.fire(request)
        if decider.state is not before:  # else it was answered from memory
            self.commits.setdefault(request.where, []).append(Commit(request.fire, decider.state))
        if decider.due and request.where not in self._performing:
            self._performing.add(request.where)
            asyncio.get_running_loop().create_task(
                self._perform(request.where, decider.due),
                name=f"actions of {request.where}", context=self.context.copy(),
            )  # fmt: skip
        return state

    def state(self, machine: str, id: str) -> MachineState | None:
        """Where a machine stands; None: there is none."""
        return self._machines.state(machine, id)

    def _again(self, request: Request) -> None:
        """A late copy of a request; nobody waits for the answer."""
        if self._up.is_set():
            with suppress(CallerError):
                self.decide(request)

    async def _perform(self, where: str, due: Any) -> None:
        while due:
            for attempt in range(1, ACTION_ATTEMPTS + 1):
                await asyncio.sleep(self._rng.expovariate(1 / ACTION_S))
                await self._up.wait()
                try:
                    await registry.actions[due[0].action](due[0].state.transition())
                except Exception:
                    if attempt == ACTION_ATTEMPTS:
                        raise
                    continue
                if not self.loses():
                    break
            due.popleft()
        self._performing.discard(where)

    def _check_up(self) -> None:
        if not self._up.is_set():
            raise ServiceUnavailable("Temporal is away", "start it")


class SimCoordinator(BaseCoordinator):
    """`mesh.environment.Coordinator` of one run of a replica."""

    def __init__(
        self,
        server: TemporalServer,
        way: Way,
        clock: Clock,
        probe: Probe,
        timeout_s: float,
        machines: Mapping[str, Machine] = registry.machines,
    ) -> None:
        super().__init__(clock, probe, machines)
        self._server = server
        self._way = way
        self._timeout_s = timeout_s

    def __repr__(self) -> str:
        return f"SimCoordinator({self._server!r}, {self._health.now.state})"

    async def _decide(self, request: Request) -> MachineState:
        self._server.copy(request)
        return await self._call(request.where, lambda: self._server.decide(request))

    async def _look_up(self, machine: str, id: str) -> MachineState | None:
        return await self._call(f"{machine}/{id}", lambda: self._server.state(machine, id))

    async def _call(self, where: str, ask: Callable[[], T]) -> T:
        """One call, repeated where the connection broke, within the time that a client has."""
        self._check_open()
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await self._way.call(lambda: self._server.answer(ask))
                while self._server.loses():
                    await asyncio.sleep(self._server.pause())
                    answer = await self._way.call(lambda: self._server.answer(ask))
        except (TimeoutError, ServiceUnavailable) as error:
            reason = str(error) or f"no answer within {self._timeout_s:g} s; is a worker running?"
            raise self._unavailable(where, reason) from error
        self._health.ok()
        if isinstance(answer, CallerError):
            raise answer
        return answer
