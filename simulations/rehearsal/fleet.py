"""Starts the fleet and everything it needs, listens to it, and ends all of it whatever happens."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import sys
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crdt.errors import ServiceError
from mesh.stack.recipe import Say, silent
from simulations.checkers import Acknowledged
from simulations.rehearsal import plan
from simulations.rehearsal.child import Child
from simulations.rehearsal.door import Door, open_door
from simulations.rehearsal.proxy import LinkProxy
from simulations.rehearsal.servers import Servers, location, open_servers
from simulations.rehearsal.source import SourceTree
from simulations.rehearsal.wire import AgentTask

START_SECONDS = 60.0
ANSWER_SECONDS = 30.0
STOP_SECONDS = 20.0
_WORKER_SECONDS = 5.0

Frontier = dict[int, dict[int, int]]


class FleetError(ServiceError):
    """The run cannot go on: a process ended by itself, or nothing moves any more."""


@dataclass(slots=True)
class Seen:
    """What an agent last said of itself."""

    session: int = 0
    updates: int = 0
    before: int = 0
    findings: int = 0
    modules: int = 0
    final: int = 0
    parts: int = 0
    active: int = 0
    doing: str = "starting"
    links: tuple[str, ...] = ()
    frontier: Frontier = field(default_factory=dict)
    health: dict[str, str] = field(default_factory=dict)
    finished: bool = False


@dataclass(slots=True)
class Promises:
    """What agents said was acknowledged. It is kept here, so it survives the agent that said it."""

    highest: dict[tuple[int, int], int] = field(default_factory=dict)
    marks: set[tuple[str, str]] = field(default_factory=set)

    def add(self, session: int, written: dict[str, int], marks: list[list[str]]) -> None:
        """A flush of this session was acknowledged."""
        for shard, seq in written.items():
            key = (session, int(shard))
            self.highest[key] = max(self.highest.get(key, 0), seq)
        self.marks.update((module, finding) for module, finding in marks)

    @property
    def count(self) -> int:
        """Operations acknowledged so far."""
        return sum(self.highest.values())

    def all(self) -> list[Acknowledged]:
        """As the checkers want them."""
        return [Acknowledged(session, shard, seq) for (session, shard), seq in self.highest.items()]


class Fleet:
    """The processes of one run. Made by `open_fleet`, which also ends them."""

    def __init__(
        self, folder: Path, tree: SourceTree, players: plan.Cast, servers: Servers
    ) -> None:
        self.folder = folder
        self.players = players
        self.servers = servers
        self.proxy = LinkProxy()
        self.promises = Promises()
        self.seen: dict[str, Seen] = {name: Seen() for name in players}
        self._tree = tree
        self._queue = f"mesh-demo-{secrets.token_hex(4)}"
        self._agents: dict[str, Child] = {}
        self._worker: Child | None = None
        self._news = asyncio.Event()
        self._failure: FleetError | None = None
        self._resources = contextlib.AsyncExitStack()
        self._door: Door
        self._addresses: dict[str, str] = {}
        self._ready: dict[str, asyncio.Event] = {}

    @property
    def names(self) -> list[str]:
        """All agents, in order."""
        return sorted(self.players)

    @property
    def authority(self) -> Path:
        """The mesh's own folder, out of which identities are issued."""
        return self.folder / "mesh"

    @property
    def _listing(self) -> Path:
        return self.folder / "tree.json"

    def agent_folder(self, name: str) -> Path:
        """Where an agent keeps its data."""
        return self.folder / "agents" / name

    async def start(self) -> None:
        """Found a mesh of its own, start the worker and all agents, wait until they are ready."""
        for part in ("agents", "logs"):
            (self.folder / part).mkdir()
        await asyncio.to_thread(self._tree.save, self._listing)
        self._door = await self._resources.enter_async_context(
            open_door(self.authority, "mesh-demo")
        )
        await self._open_proxy()
        await self._start_worker()
        starting = [asyncio.create_task(self.start_agent(name)) for name in self.names]
        try:
            await asyncio.gather(*starting)
        finally:
            for task in starting:  # of one that failed the others don't know: none starts later
                task.cancel()
            await asyncio.gather(*starting, return_exceptions=True)

    async def _open_proxy(self) -> None:
        """Wires between all agents, and from each to every service that carries state."""
        shared = self.servers.shared
        services = plan.service_pairs(self.players) if shared else []
        await self.proxy.open([*plan.pairs(self.players), *services], announced=("kafka",))
        for name, address in shared.items():
            self.proxy.point(name, location(address))

    def _addresses_for(self, agent: str) -> dict[str, str]:
        """The services' addresses, with an agent's own wires to them instead."""
        return {
            name: address.replace(location(address), self.proxy.address(agent, name))
            for name, address in self.servers.shared.items()
        }

    async def _start_worker(self) -> None:
        self._worker = await Child.start(
            "temporal worker",
            [sys.executable, "-m", "simulations.rehearsal.worker", str(os.getpid()),
             self.servers.temporal, self._queue],
            self.folder / "logs" / "worker.log",
            self._worker_said,
        )  # fmt: skip

    async def start_agent(self, name: str) -> None:
        """Let an agent join, start it and wait until it says that it is there."""
        folder = self.agent_folder(name)
        await self._door.admit(name, folder)
        ready = self._ready[name] = asyncio.Event()
        task = AgentTask(
            name=name,
            parent=os.getpid(),
            folder=str(folder),
            tree=str(self._listing),
            cast=dict(self.players),
            seeds=tuple(self.proxy.seeds(name, apart=plan.SHARED)),
            temporal=self.servers.temporal,
            task_queue=self._queue,
            status_seconds=0.5,
            **self._addresses_for(name),
        )
        self._agents[name] = await Child.start(
            name,
            [sys.executable, "-m", "simulations.rehearsal.agent"],
            self.folder / "logs" / f"{name}.log",
            lambda message: self._agent_said(name, message),
            task.line(),
        )
        try:
            async with asyncio.timeout(START_SECONDS):
                await self._unless_failed(ready)
        except TimeoutError:
            words = self._agents[name].last_words()
            raise FleetError(f"{name} was not ready in {START_SECONDS:g} s: {words}") from None

    def begin(self, *names: str) -> None:
        """Let agents start working (all of them if none is named)."""
        for name in names or self.names:
            self._agents[name].tell("begin")

    async def crash_agent(self, name: str) -> int:
        """SIGKILL an agent and delete its data folder; how many updates it had made.

        Its key is lost with the folder, so it is revoked, and has to join anew.
        """
        child = self._agents[name]
        child.kill()
        await child.ended()
        self.proxy.forget(name)
        await asyncio.to_thread(shutil.rmtree, self.agent_folder(name))
        del self._addresses[name]
        await self._door.expel(name, told=self._addresses[min(self._addresses)])
        seen = self.seen[name]
        self.seen[name] = Seen(before=seen.before + seen.updates, doing="killed, folder deleted")
        return self.seen[name].before

    def tell(self, do: str, **fields: Any) -> None:
        """Send a command to every agent."""
        for child in self._agents.values():
            child.tell(do, **fields)

    async def ask(
        self, name: str, do: str, within: float = ANSWER_SECONDS, **fields: Any
    ) -> dict[str, Any]:
        """Ask one agent. Raises ChildError."""
        return await self._agents[name].ask(do, within, **fields)

    async def frontiers(self) -> dict[str, Frontier]:
        """What every running agent has, asked for now."""
        names = [name for name in self.names if self._agents[name].running]
        answers = await asyncio.gather(*(self.ask(name, "frontier") for name in names))
        for name, answer in zip(names, answers, strict=True):
            self.seen[name].frontier = read_frontier(answer["frontier"])
        return {name: self.seen[name].frontier for name in names}

    async def reaches(self, name: str, target: Frontier) -> float:
        """Wait until an agent has everything in `target`; seconds since the call."""
        began = time.monotonic()
        await self.ask(name, "reach", frontier=target)
        return time.monotonic() - began

    async def news(self, timeout: float = 0.5) -> None:
        """Wait until an agent says something, or `timeout`.

        Raises FleetError if one failed, ServerLost if a server of the stack did.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._news.wait()
        self._news.clear()
        if self._failure is not None:
            raise self._failure
        self.servers.check()

    async def stop(self) -> list[str]:
        """End all agents: they close their replicas. Who failed to, or had to be killed."""
        children = list(self._agents.values())
        ended = await asyncio.gather(*(child.stop(STOP_SECONDS) for child in children))
        return [
            f"{child.name} did not end in order: {child.last_words()}"
            for child, in_order in zip(children, ended, strict=True)
            if not in_order
        ]

    async def close(self) -> None:
        """End whatever still runs, at once. Idempotent."""
        children = [*self._agents.values(), *([self._worker] if self._worker else [])]
        for child in children:
            child.kill()
        await asyncio.gather(*(child.ended() for child in children), return_exceptions=True)
        await self._resources.aclose()
        await self.proxy.close()

    async def stop_worker(self) -> None:
        """End the worker: nothing will be decided any more."""
        if self._worker is not None:
            await self._worker.stop(_WORKER_SECONDS)

    async def _unless_failed(self, event: asyncio.Event) -> None:
        while not event.is_set():
            await self.news()

    def _worker_said(self, message: dict[str, Any]) -> None:
        if message["kind"] == "ended" and self._worker is not None:
            # The agents would go on with all that commutes, but nothing would ever be final.
            self._fail(f"the Temporal worker ended: {self._worker.last_words()}")

    def _agent_said(self, name: str, message: dict[str, Any]) -> None:
        seen = self.seen[name]
        match message["kind"]:
            case "started":
                seen.session = message["session"]
                seen.doing = "waiting"
                self.proxy.point(name, message["address"])
                self._addresses[name] = message["address"]
                self._ready[name].set()
            case "status":
                _update(seen, message)
            case "acknowledged":
                self.promises.add(message["session"], message["written"], message["marks"])
            case "finished":
                seen.finished = True
            case "ended":
                words = self._agents[name].last_words()
                self._fail(f"{name} ended with code {message['code']}: {words}")
        self._news.set()

    def _fail(self, reason: str) -> None:
        self._failure = self._failure or FleetError(reason)
        self._news.set()


def _update(seen: Seen, message: dict[str, Any]) -> None:
    for key in ("updates", "findings", "modules", "final", "parts", "active", "doing"):
        setattr(seen, key, message[key])
    if "frontier" in message:
        seen.frontier = read_frontier(message["frontier"])
        seen.links = tuple(message["links"])
        seen.health = message["health"]


def read_frontier(plain: dict[str, dict[str, int]]) -> Frontier:
    """A frontier from JSON, whose keys are always text."""
    return {
        int(shard): {int(session): seq for session, seq in sessions.items()}
        for shard, sessions in plain.items()
    }


def union(frontiers: list[Frontier]) -> Frontier:
    """All that any of them has."""
    everything: Frontier = {}
    for frontier in frontiers:
        for shard, sessions in frontier.items():
            mine = everything.setdefault(shard, {})
            for session, seq in sessions.items():
                mine[session] = max(seq, mine.get(session, 0))
    return everything


def total(frontier: Frontier) -> int:
    """How many operations a frontier stands for."""
    return sum(sum(sessions.values()) for sessions in frontier.values())


def covers(have: Frontier, want: Frontier) -> bool:
    """Whether one frontier holds everything of the other."""
    return all(
        seq <= have.get(shard, {}).get(session, 0)
        for shard, sessions in want.items()
        for session, seq in sessions.items()
    )


def in_words(sources: Mapping[str, int]) -> str:
    """`{"log": 5, "checkpoints": 9, "bus": 0}` as "checkpoints + log": the largest first."""
    there = [name for name, count in sources.items() if count > 0]
    return " + ".join(sorted(there, key=lambda name: (-sources[name], name)))


@contextlib.asynccontextmanager
async def open_fleet(
    folder: Path, tree: SourceTree, players: plan.Cast, *, stack: bool = False, say: Say = silent
) -> AsyncIterator[Fleet]:
    """A started fleet with its servers, which tell `say` how they get on with starting; all of it
    is gone when the block ends.
    """
    async with open_servers(folder, stack=stack, say=say) as servers:
        fleet = Fleet(folder, tree, players, servers)
        try:
            await fleet.start()
            yield fleet
        finally:
            await fleet.close()
