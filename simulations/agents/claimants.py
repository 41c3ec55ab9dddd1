"""Agents that need decisions: they claim, work under a token, hand in, expire, spend a budget.

Each run of a replica has two workers of one name: as after a crash, the second may take what the
first believes to hold. They ask the replica's own coordinator, repeat a question under its request
id for a while, and give up at times without knowing what became of it. What was decided they
publish. All that they saw goes into a `History`, by which the run is judged.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from crdt import BoundedCounter, Decided, Document, OutOfBounds
from mesh.editing import Backpressure, ReplicaClosed
from mesh.environment import (
    Coordinator,
    CoordinatorUnavailable,
    InvalidTransition,
    Transition,
    UnknownMachine,
)
from mesh.replica import Replica
from simulations.invariants.linearizable import NEVER
from workflows import claims
from workflows.claims import EXCLUSIVE, claim_of, token_of
from workflows.machine import TOKEN, Machine, Rule
from workflows.publish import publish
from workflows.registry import action, register

if TYPE_CHECKING:
    from simulations.world import Host

__all__ = (
    "EFFECTS",
    "MACHINES",
    "TASK",
    "Affair",
    "Claimant",
    "History",
    "Operation",
    "Purse",
    "document_of",
)

TASK = register(
    Machine(
        "simulations.task",
        "queued",
        (
            Rule("claim", "queued", "claimed", "take"),
            Rule("claim", "claimed", "claimed", "take"),
            Rule("expire", "claimed", "queued", "clear"),
            Rule("submit", "claimed", "submitted", "require", actions=("simulations.effect",)),
            Rule("reject", "submitted", "claimed"),
            Rule("accept", "submitted", "accepted", "clear", actions=("simulations.effect",)),
        ),
        ("accepted",),
    )
)
MACHINES = {one.name: one for one in (EXCLUSIVE, TASK)}
WORKERS = 2
PAUSE_S, WORK_S, RETRY_S = 2.0, 0.7, 0.5
"""Seconds, on average: between errands, under a claim, until a question is asked again."""
ERA_S = 10.0
"""For how long the same things are claimed, so that each is asked for some dozens of times only."""
THINGS = 2
PURSE = "1"

EFFECTS: ContextVar[Callable[[Transition], None] | None] = ContextVar("EFFECTS", default=None)
"""Who is told of an action that is performed."""


@action("simulations.effect")
async def _effect(transition: Transition) -> None:
    tell = EFFECTS.get()
    if tell is not None:
        tell(transition)


class Affair(Document):
    """What was decided about one thing."""

    decision: Decided[dict[str, Any]]


def document_of(key: str) -> str:
    """The name of the Affair that tells of a machine."""
    return key.replace("/", ".")


class Purse(Document):
    """What all may spend from."""

    money: BoundedCounter


@dataclass(slots=True)
class Operation:
    """One question about a machine, from its first asking to its answer, as the asker saw it. An
    empty `event` asks for the state. `ended` is NEVER, and there is no answer, where he gave up or
    his process ended. `token` is what he showed; 0: nothing.
    """

    actor: str
    event: str
    request: str
    token: int
    began: float
    ended: float = NEVER
    answer: Transition | None = None

    def __str__(self) -> str:
        came = "refused" if self.answer is None else f"epoch {self.answer.epoch}"
        asked = f"{self.event or 'state'} by {self.actor} ({self.request}"
        shown = f", token {self.token})" if self.token else ")"
        return f"{asked}{shown}: {came if self.ended < NEVER else 'unknown'}"


@dataclass(slots=True)
class History:
    """What workers saw of each machine (`name/id`), and what a keeper took: (thing, token)."""

    operations: dict[str, list[Operation]] = field(default_factory=dict)
    kept: list[tuple[str, int]] = field(default_factory=list)
    highest: dict[str, int] = field(default_factory=dict)

    def keep(self, thing: str, token: int) -> bool:
        """Who keeps a thing takes what is done to it, unless the token is out of date."""
        highest = self.highest.get(thing, 0)
        if claims.fenced(highest, token):
            return False
        self.highest[thing] = max(highest, token)
        self.kept.append((thing, token))
        return True


class Claimant:
    """The agent. Call it with host and replica to run it, for ever. See `workload.Writer`."""

    def __init__(
        self,
        history: History,
        chance: Callable[[str, int], random.Random],
        only: Collection[str] | None = None,
    ) -> None:
        self._history = history
        self._chance = chance
        self._only = only

    async def __call__(self, host: Host, replica: Replica) -> None:
        """Work until the replica is closed; not at all where there is no coordinator."""
        coordinator = replica.environment.coordinator
        if coordinator is None or (self._only is not None and host.name not in self._only):
            return
        rng = self._chance(host.name, host.runs)
        workers = (
            _Worker(self._history, rng, host, replica, coordinator, f"{host.name}.{host.runs}.{n}")
            for n in range(WORKERS)
        )
        await asyncio.gather(*(worker.run() for worker in workers))


class _Worker:
    """One of a host's workers; all go by the host's name."""

    def __init__(
        self,
        history: History,
        rng: random.Random,
        host: Host,
        replica: Replica,
        coordinator: Coordinator,
        name: str,
    ) -> None:
        self._history = history
        self._rng = rng
        self._host = host
        self._replica = replica
        self._coordinator = coordinator
        self._name = name
        self._asked = 0

    async def run(self) -> None:
        """One errand after the other."""
        errands = (self._hold, self._hold, self._do_task, self._do_task, self._look_up)
        while True:
            await self._wait(PAUSE_S)
            try:
                if self._rng.random() < 0.2:
                    self._spend()
                else:
                    era = int(asyncio.get_running_loop().time() / ERA_S)
                    await self._rng.choice(errands)(f"{era}-{self._rng.randrange(THINGS)}")
            except Backpressure:
                await self._replica.ready()
            except ReplicaClosed:
                return

    async def _hold(self, id: str) -> None:
        """Claim a thing, do something to it under the claim's token, and let it go."""
        claimed = await self._fire(EXCLUSIVE, id, "claim")
        if claimed is None:
            await self._suspect(EXCLUSIVE, id)
            return
        token = token_of(claimed)
        await self._wait(WORK_S)
        taken = self._history.keep(id, token)
        self._host.tell("kept" if taken else "fenced", thing=id, token=token)
        if self._rng.random() < 0.8:
            await self._fire(EXCLUSIVE, id, "release", token)

    async def _do_task(self, id: str) -> None:
        """Claim a task and hand it in, or judge one that was."""
        claimed = await self._fire(TASK, id, "claim")
        if claimed is None:
            await self._fire(TASK, id, self._rng.choice(("accept", "reject")))
            await self._suspect(TASK, id)
            return
        await self._wait(WORK_S)
        await self._fire(TASK, id, "submit", token_of(claimed))

    async def _suspect(self, machine: Machine, id: str) -> None:
        """Believe that a holder is gone, as the mesh tells of one; rightly or not."""
        affair = self._replica.get(Affair, document_of(f"{machine.name}/{id}"))
        holder = claim_of(affair.decision).holder if affair is not None else ""
        if holder and self._rng.random() < 0.5:
            await self._fire(machine, id, "expire")

    async def _look_up(self, id: str) -> None:
        machine = self._rng.choice((EXCLUSIVE, TASK))
        await self._ask(machine, id, "", 0, lambda _: self._coordinator.state(machine.name, id))

    async def _fire(self, machine: Machine, id: str, event: str, token: int = 0) -> Any:
        """What was decided, published; None: refused, or given up."""
        return await self._ask(
            machine, id, event, token,
            lambda request: self._coordinator.fire(
                machine.name, id, event, actor=self._host.name, request=request,
                data={TOKEN: token} if token else None,
            ),
        )  # fmt: skip

    async def _ask(
        self, machine: Machine, id: str, event: str, token: int, ask: Callable[[str], Any]
    ) -> Transition | None:
        self._asked += 1
        request = f"{self._name}.{self._asked}"
        loop = asyncio.get_running_loop()
        asked = Operation(self._host.name, event, request, token, loop.time())
        key = f"{machine.name}/{id}"
        self._history.operations.setdefault(key, []).append(asked)
        for _ in range(self._rng.choice((1, 3, 12))):
            try:
                asked.answer = await ask(request)
            except CoordinatorUnavailable:
                await self._wait(RETRY_S)
                continue
            except (InvalidTransition, UnknownMachine):
                asked.ended = loop.time()
                return None
            asked.ended = loop.time()
            assert asked.answer is not None
            publish(self._replica, Affair, document_of(key), "decision", asked.answer)
            return asked.answer
        return None

    def _spend(self) -> None:
        """Out of what all have: more than there is a right to is refused."""
        with self._replica.edit(Purse, PURSE) as purse:
            amount = self._rng.randrange(1, 8)
            kind = self._rng.randrange(4)
            if kind == 0:
                purse.money.grant(amount)
                return
            others = sorted(set(purse.money.rights) - {self._replica.session})
            try:
                if kind == 1 and others:
                    purse.money.transfer(self._rng.choice(others), amount)
                else:
                    purse.money.spend(amount)
            except OutOfBounds:
                self._host.tell("budget.refused", amount=amount)

    async def _wait(self, mean_s: float) -> None:
        await asyncio.sleep(self._rng.expovariate(1 / mean_s))
