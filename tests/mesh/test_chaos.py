"""Everything at once, from a seed: cuts, restarts, lost folders, tiny buffers. Nothing acknowledged
is lost.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from mesh import Durability, FlushTimeout, Replica
from tests.mesh.test_convergence import scribble
from tests.mesh.world import Task, World, converged

NAMES = ("a", "b", "c", "d")
TIGHT: dict[str, Any] = {
    "replica__inbox_frames_max": 16,
    "replica__snapshot_every_frames": 15,
    "peers__send_buffer_bytes": 4096,
}


class Chaos:
    """One run: a mesh, what was acknowledged, and the dice."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.rng = random.Random(seed)
        self.running: dict[str, Replica] = {}
        self.acknowledged: list[str] = []
        self.count = 0
        self.forgotten = 0

    async def start(self, name: str) -> None:
        seeds = [other for other in NAMES if other != name]
        replica = self.world.replica(name, *seeds, replica__close_timeout_s=0.01, **TIGHT)
        await replica.start()
        self.running[name] = replica

    async def restart(self, *, forget: bool) -> None:
        if forget:
            # Three disks have what was acknowledged: two may be lost before the rest must catch up.
            if self.forgotten == 2:
                self.world.network.heal()
                await converged(*self.running.values())
                self.forgotten = 0
            self.forgotten += 1
        name = self.rng.choice(NAMES)
        await self.running.pop(name).close()
        if forget:
            await self.world.forget(name)
        else:
            await self.world.reopen(name)
        await self.start(name)

    async def write(self) -> None:
        """A write that is acknowledged by two others' disks must never be lost."""
        replica = self.rng.choice(list(self.running.values()))
        scribble(replica, self.rng, self.rng.randrange(1, 30))
        self.count += 1
        mark = f"mark {self.count}"
        with replica.edit(Task, f"marks/{self.count % 5}") as task:
            task.log.append(mark)
        try:
            await replica.flush(Durability.PEERS(2), timeout=0.05)
        except FlushTimeout:
            return
        self.acknowledged.append(mark)

    async def step(self) -> None:
        match self.rng.randrange(12):
            case 0 | 1:
                a, b = self.rng.sample(NAMES, 2)
                self.world.network.cut(a, b)
            case 2:
                self.world.isolate(self.rng.choice(NAMES))
            case 3 | 4:
                self.world.network.heal()
            case 5:
                await self.restart(forget=False)
            case 6 if self.rng.random() < 0.5:
                await self.restart(forget=True)
            case _:
                await self.write()

    def lost(self) -> list[str]:
        """Acknowledged marks that some replica does not have."""
        return [
            mark
            for replica in self.running.values()
            for mark in self.acknowledged
            if not any(mark in list(view.log) for view in replica.documents(Task))
        ]


@pytest.mark.parametrize("seed", range(4))
async def test_nothing_acknowledged_is_lost(memory_world: World, seed: int) -> None:
    chaos = Chaos(memory_world, seed)
    try:
        for name in NAMES:
            await chaos.start(name)
        for _ in range(60):
            await chaos.step()
        memory_world.network.heal()
        await converged(*chaos.running.values())
        assert chaos.acknowledged
        assert chaos.lost() == []
    finally:
        await asyncio.gather(*(replica.close() for replica in chaos.running.values()))
    for probe in memory_world.probes.values():
        for alarm in ("link.error", "digest.mismatch", "frame.forked", "lattice.conflict"):
            assert probe.counts[alarm] == 0, (alarm, probe.latest[alarm])
        assert probe.counts["replica.failed"] == 0
