"""A simulated world: hosts with clocks, disks and processes, a network between them, one seed.

    world = World(seed=7, replicas=5)
    world.run(scenario)            # a coroutine function that gets the world

Here and in `host` alone simulated ports are built: what runs on the hosts is the production
`Replica`.
"""

from __future__ import annotations

import asyncio
import gc
import random
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from mesh.replica import Replica
from mesh.settings import Settings
from persistence.base import FrameRecord
from persistence.identity import found_mesh
from simulations.host import Host, Run
from simulations.loop import SECOND, Escaped, Livelock, SimLoop
from simulations.ports.hosts import SimClock, SimEntropy, clone_name, drawn
from simulations.ports.network import Conditions, Network
from simulations.ports.services import Services, short_streams
from simulations.trace import Trace
from simulations.walls import walls

__all__ = ("Host", "Run", "World", "host_name")

T = TypeVar("T")
Agent = Callable[[Host, Replica], Awaitable[None]]
Listener = Callable[[str, str, Mapping[str, object]], None]


def host_name(number: int) -> str:
    """What the host of this number, from 1, is called."""
    return f"replica-{number}"


class World:
    """See the module. `settings` are of all replicas; `agents` run beside each replica that is up.
    With `only`, of the hosts there would be only those of these numbers are there. `services` are
    those that every replica has: of `services.SERVICES`.

    `listeners` are told (host, kind, fields) of every probe event; `watchers` of frames that came
    on a disk.
    """

    def __init__(
        self,
        seed: int,
        replicas: int = 5,
        *,
        only: Collection[int] | None = None,
        shards: int = 4,
        settings: Mapping[str, Any] | None = None,
        conditions: Conditions | None = None,
        services: Sequence[str] = (),
        keep_trace: bool = False,
    ) -> None:
        self.seed = seed
        numbers = range(1, replicas + 1)
        self.names = [host_name(one) for one in numbers if only is None or one in only]
        self.loop = SimLoop(drawn(seed, "loop"))
        self.trace = Trace(self.loop, keep=keep_trace)
        self.fair_weather = conditions or Conditions()
        self.network = Network(self.loop, self.trace, self.chance("network"), self.fair_weather)
        self.true_clock = SimClock(self.loop)
        self.services = Services(
            self.network, self.chance("services"), self.true_clock, shards, services
        )
        self.settings = Settings().override(**{"replica__gc_freeze": False} | dict(settings or {}))
        self.authority = found_mesh(
            "simulated", shards, self.true_clock, SimEntropy(seed, "authority", 0)
        )
        # A signature that anybody in this world has verified, or made, need not be verified again.
        self.agents: list[Agent] = []
        self.listeners: list[Listener] = []
        self.watchers: list[Callable[[Host, list[FrameRecord]], None]] = []
        self.counts: Counter[str] = Counter()
        self.marks: Counter[str] = Counter()
        self.dead: list[Run] = []
        self.hosts = {name: Host(self, name, self.chance("host", name)) for name in self.names}
        self.clones: dict[str, Host] = {}
        """By the name of the clone."""

    def __repr__(self) -> str:
        return f"<World {self.seed} at {self.loop.time():.3f} s, {list(self.hosts.values())}>"

    def chance(self, *path: object) -> random.Random:
        """A generator of its own for what the path names."""
        return random.Random(drawn(self.seed, *path))  # noqa: S311 - the seed is the point

    @property
    def now(self) -> float:
        """Virtual seconds since the world began."""
        return self.loop.now_ns / SECOND

    @property
    def up(self) -> list[Host]:
        """Hosts whose replica is started, by name."""
        return [host for host in self.hosts.values() if host.replica is not None]

    def replicas(self) -> list[Replica]:
        """The replicas that are started."""
        return [host.replica for host in self.up if host.replica is not None]

    def happened(self, host: str, kind: str, fields: Mapping[str, object]) -> None:
        """A probe event, or one of the world's own."""
        if self.trace.open:
            self.counts[kind] += 1
            self.trace.add(host, kind, *(f"{name}={value}" for name, value in fields.items()))
            for listener in self.listeners:
                listener(host, kind, fields)

    def journaled(self, host: Host, frames: list[FrameRecord]) -> None:
        """Frames are on a disk."""
        if self.trace.open:
            for watcher in self.watchers:
                watcher(host, frames)

    def agent_ended(self, task: asyncio.Task[Any]) -> None:
        """An agent returned or failed; who fails is judged."""
        error = None if task.cancelled() else task.exception()
        if error is None or isinstance(error, Escaped | Livelock):  # which the whole run ends by
            return
        where = traceback.extract_tb(error.__traceback__)[-1]
        self.loop.faults.append(
            f"{task.get_name()} failed at {where.filename}:{where.lineno}: {error!r}"
        )

    def machine(self, name: str) -> Host:
        """The host, or the clone of one, that is called so."""
        return self.clones.get(name) or self.hosts[name]

    def clone(self, name: str) -> Host:
        """Another machine, with a copy of this host's folder: it answers to the same name, at an
        address of its own, from now until it is given away.
        """
        clone = clone_name(name)
        host = Host(self, clone, self.chance("host", clone), self.hosts[name])
        self.clones[clone] = host
        host.tell("disk.restored")
        host.start()
        return host

    def give_away(self, clone: Host) -> None:
        """A clone is ended, and its disk with it."""
        if self.clones.pop(clone.name, None) is not None:
            clone.crash(power=False)
            clone.tell("disk.lost")

    def heal(self) -> None:
        """End every fault there may be, and have every replica run; no agent does any more."""
        self.agents.clear()
        self.network.mend_all()
        self.network.conditions = self.fair_weather
        self.services.heal()
        for clone in list(self.clones.values()):
            self.give_away(clone)
        for host in self.hosts.values():
            host.disk.slow, host.disk.full, host.disk.broken = 1.0, False, False
            host.disk.on_sync = None
            host.seeds.blind = False
            if host.run is not None and not host.run.over:
                self.loop.resume(host.run.life)
                for agent in host.run.agents:
                    agent.cancel()
            host.start()

    def run(self, scenario: Callable[[World], Awaitable[T]]) -> T:
        """Run a scenario to its end, and the world with it. Raises Escaped, Livelock, Deadlock."""
        with walls(self.loop, self.true_clock.wall_ms), _uncollected(), short_streams():
            try:
                return self.loop.run_until_complete(_as_coroutine(scenario(self)))
            finally:
                self._bury()

    def _bury(self) -> None:
        """End all tasks, those of crashed processes too: what they do now, nobody sees."""
        self.trace.open = False
        for host in (*self.hosts.values(), *self.clones.values()):
            host.crash(power=True)
        for run in self.dead:
            self.loop.resume(run.life)
        self.loop.drain()
        self.loop.close()


async def _as_coroutine(work: Awaitable[T]) -> T:
    return await work


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without the cyclic garbage collector, whose rounds would fall anywhere."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
