"""A machine of a simulated world: its clock, its disk, and the replica that runs on it or not.

A run ends by a crash, in order, or because its start failed; whoever looks after the machine then
starts the next, and repairs the disk where it needs that.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from contextvars import Context, copy_context
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from crdt.errors import MeshError
from crdt.lattice import Shard
from mesh.durability import Durability
from mesh.environment import Environment
from mesh.replica import Replica
from mesh.transports.discovery import Combined, Learned, StaticSeeds
from mesh.wire import WIRE_NEWEST
from persistence.base import JournalDamaged
from simulations.faults.liars import Liar
from simulations.faults.translated import Translated
from simulations.faults.versions import speaking
from simulations.loop import LIFE, Life, SimLoop
from simulations.ports.damage import Platter
from simulations.ports.disk import Disk, SimJournal
from simulations.ports.hosts import SimClock, SimEntropy
from simulations.ports.network import PORT, SimTransport

if TYPE_CHECKING:
    from simulations.world import World

__all__ = ("Host", "Run")

HURRY_S = 0.5
"""How long somebody who stops a replica waits before he stops it again."""
CLONE_PORT = PORT + 1
RESTART_S = 1.0
"""How soon a start that failed is tried again."""


class SimProbe:
    """`persistence.base.Probe` of one run of a replica: into the trace, and to who listens."""

    def __init__(self, world: World, name: str) -> None:
        self._world = world
        self._name = name

    def event(self, kind: str, **fields: object) -> None:
        """See `Probe.event`."""
        self._world.happened(self._name, kind, fields)

    def sometimes(self, name: str) -> None:
        """See `Probe.sometimes`."""
        self._world.marks[name] += 1


class Seeds:
    """`mesh.environment.Discovery` that a fault can blind."""

    def __init__(self, addresses: list[str]) -> None:
        self._addresses = StaticSeeds(addresses)
        self.blind = False

    def addresses(self) -> list[str]:
        """All, or none."""
        return [] if self.blind else self._addresses.addresses()


class Run:
    """One run of the replica on a host: from its start to its crash."""

    def __init__(self, world: World, host: Host, number: int) -> None:
        self.number = number
        self.life = Life(f"{host.name}.{number}")
        self.context = copy_context()
        self.context.run(LIFE.set, self.life)
        self.journal = SimJournal(host.disk)
        identity = host.identity
        name = identity.replica
        probe = SimProbe(world, host.name)
        self.transport: SimTransport = world.network.transport(
            name, identity.certificate, host.port
        )
        transport = speaking(host.wire, self.transport, host.tell)
        self.liar: Liar | None = None
        if host.lies:
            chance = world.chance("liar", host.name, number)
            self.liar = Liar(lambda: self.replica._started().core, chance, host.tell)
            transport = Translated(transport, self.liar)
        environment = Environment(
            host.clock,
            SimEntropy(world.seed, host.name, number),
            probe,
            self.journal,
            transport,
            Combined(host.seeds, Learned(host.clock.monotonic)),
            world.services.coordinator(name, host.clock, probe, world.settings.temporal.timeout_s),
            bus=world.services.bus(name),
            log=world.services.log(name),
            checkpoints=world.services.checkpoints(name),
        )
        self.replica: Replica = Replica(world.settings, environment, identity)
        self.agents: list[asyncio.Task[Any]] = []
        self.up = False
        self.over = False

    def spawn(self, loop: SimLoop, work: Any, name: str) -> asyncio.Task[Any]:
        """A task of this run: it stops where the run does."""
        return loop.create_task(work, name=f"{self.life.name}: {name}", context=self.context.copy())


class Host:
    """A machine with a name, clocks and a disk; a replica runs on it, or not. `original`: the host
    that it is a clone of, as that one's folder is now; see `World.clone`.
    """

    def __init__(
        self, world: World, name: str, rng: random.Random, original: Host | None = None
    ) -> None:
        self._world = world
        self.name = name
        skew, drift = int(rng.gauss(0, 200)), rng.gauss(0, 50e-6)
        self.clock = SimClock(world.loop, skew, drift)
        self.disk = Disk(name, world.loop, world.trace, rng)
        self.disk.on_append = lambda frames: world.journaled(self, frames)
        if original is None:
            entropy = SimEntropy(world.seed, name, 0)
            self.identity = world.authority.issue(name, world.true_clock, entropy)
        else:
            self.identity = original.identity
            self.disk.restore(original.disk.copy())
        self.port = PORT if original is None else CLONE_PORT
        self.wire: int = WIRE_NEWEST if original is None else original.wire
        """The newest wire version that the program here speaks."""
        self.lies = False
        """Whether who runs here may lie, from when a fault says so."""
        known = [other for other in world.names if other != self.identity.replica]
        self.seeds: Seeds = Seeds([f"{other}:{PORT}" for other in known])
        self.services = world.services.names
        self.run: Run | None = None
        self.runs = self.losses = 0
        self._wanted = False

    def __repr__(self) -> str:
        return f"<Host {self.name}, {'up' if self.replica else 'down'}>"

    @property
    def world(self) -> World:
        """The world it is in."""
        return self._world

    @property
    def replica(self) -> Replica | None:
        """The replica that runs here now and is started; None while there is none."""
        run = self.run
        return run.replica if run is not None and run.up and not run.over else None

    @property
    def lattices(self) -> Mapping[int, Shard]:
        """What its replica holds in memory, by shard."""
        replica = self.replica
        assert replica is not None, f"{self.name} is down"
        return {host.index: host.lattice for host in replica._started().core.hosts}

    def tell(self, kind: str, **fields: object) -> None:
        """Something of the world's own happened here."""
        self._world.happened(self.name, kind, fields)

    def start(self) -> None:
        """Have a replica run here from now on: at once, or when the one that stops has stopped. A
        start that fails is tried again, as a supervisor does.
        """
        self._wanted = True
        if self.run is not None:
            return
        self.runs += 1
        run = self.run = Run(self._world, self, self.runs)
        self._world.trace.add("start", run.life.name)
        run.spawn(self._world.loop, self._live(run), "start")

    async def _live(self, run: Run) -> None:
        world = self._world
        try:
            await run.replica.start()
        except JournalDamaged as damage:
            # Of a sound disk nobody may say so.
            sound = not self.disk.platter.damaged
            self.tell("start.failed" if sound else "start.refused", reason=repr(damage))
            rebuilds = world.settings.replica.on_damage == "rebuild"
            # What a rebuild can't mend fails again, and not at the same instant.
            self._over(run, after_s=0.0 if rebuilds and not sound else RESTART_S)
            return
        except Exception as error:  # noqa: BLE001 - whatever it is, the world judges it
            self.tell("start.failed", reason=repr(error))
            self._over(run)
            return
        run.up = True
        for index, agent in enumerate(world.agents):
            task = run.spawn(world.loop, agent(self, run.replica), f"agent {index}")
            task.add_done_callback(world.agent_ended, context=Context())
            run.agents.append(task)

    def stop(self) -> None:
        """Close the replica, in order: one asks for durability first, another can't wait."""
        self._wanted = False
        run = self.run
        if run is not None and run.up:
            run.up = False
            loop = self._world.loop
            run.spawn(loop, self._close(run, Durability.PEERS(1)), "stop")
            loop.call_later(HURRY_S, self._hurry, run, context=Context())

    def _hurry(self, run: Run) -> None:
        if not run.over:
            run.spawn(self._world.loop, self._close(run, None), "stop at once")

    async def _close(self, run: Run, level: Durability | None) -> None:
        try:
            await run.replica.close(level, timeout=HURRY_S * 4)
        except MeshError as error:
            self.tell("close.failed", reason=repr(error))
        self._over(run)

    def _over(self, run: Run, after_s: float = RESTART_S) -> None:
        """A run ended by itself."""
        if run.over:
            return
        self._end(run, silently=False)
        if self._wanted:
            self._world.loop.call_later(after_s, self._again, context=Context())

    def _again(self) -> None:
        if self._wanted:
            self._repair()
            self.start()

    def _repair(self) -> None:
        """What a start that may rebuild does, and else somebody with `mesh repair`."""
        disk = self.disk
        if not disk.platter.damaged:
            return
        shards = disk.platter.damaged_shards
        disk.platter, report = disk.platter.rebuilt(self.identity, disk.name, "damaged")
        self.losses += 1
        self.tell("disk.damaged", shards=",".join(map(str, shards)))
        self.tell("journal.rebuilt", **report.plain())

    def _end(self, run: Run, *, silently: bool) -> None:
        world = self._world
        world.loop.suspend(run.life)
        run.over = run.journal.dead = True
        world.network.vanish(run.transport, silently=silently)
        world.dead.append(run)
        self.run = None

    def crash(self, *, power: bool) -> None:
        """Its process ends at this instant; with `power`, the host goes dark and tells nobody."""
        self._wanted = False
        if self.run is not None:
            run = self.run
            self._world.trace.add("crash", run.life.name, "power" if power else "kill")
            self._end(run, silently=power)
            self.disk.busy_until = self._world.loop.now_ns

    def crash_in_sync(self, moment: str) -> None:
        """Go dark at the next write: "before" or "after" it is on disk."""

        def strike(now: str) -> None:
            if now == moment:
                self.disk.on_sync = None
                self.crash(power=True)

        self.disk.on_sync = strike

    def lose_disk(self) -> None:
        """A crash that takes everything on the disk along."""
        self.crash(power=True)
        self.disk.lose()
        self.losses += 1
        self.tell("disk.lost")

    def rot(self, rng: random.Random) -> None:
        """In memory, one document's value takes the place of another's."""
        if self.replica is None:
            return
        for shard in self.replica._started().core.hosts:
            held: dict[bytes, list[tuple[str, int, int, bytes]]] = {}
            for document in sorted(shard.lattice.documents()):
                for path, entries in sorted(shard.lattice.under(document, b"")):
                    held.setdefault(path, []).extend((document, *entry) for entry in entries)
            pairs = [
                (one, other)
                for same in held.values()
                for one, other in pairwise(same)
                if one[3] != other[3]
            ]
            if pairs:
                (document, session, seq, _), other = rng.choice(pairs)
                path = next(path for path, same in held.items() if other in same)
                shard.lattice._store.overwrite(document, path, session, seq, other[3])
                shard._changed = True
                self.tell("memory.rotten", document=document, session=session, seq=seq)
                return

    def restore(self, backup: Platter) -> None:
        """A crash after which the disk is an old copy of itself."""
        self.crash(power=True)
        self.disk.restore(backup)
        self.losses += 1
        self.tell("disk.restored")
