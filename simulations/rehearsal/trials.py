"""The rehearsals: what goes wrong in a round of each, while everybody writes.

A trial disturbs and repairs; when it returns every writer is up. What has to hold then is
`rehearsal`'s to say.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from redis.asyncio import Redis

from mesh.stack import Stack
from persistence import folder as layout
from simulations.rehearsal.points import POINTS
from simulations.rehearsal.proxy import Cut
from simulations.rehearsal.troupe import Troupe

_POINT_SECONDS: Final = 2.0
_FLAPS: Final = 6


@dataclass(frozen=True, slots=True)
class Scene:
    """What a trial works on. `seconds`: how long its fault lasts."""

    troupe: Troupe
    stack: Stack | None
    seconds: float

    async def pause(self, least: float, most: float) -> None:
        """Let the writers write for a drawn time."""
        await asyncio.sleep(self.troupe.draw.uniform(least, most))


async def kill9(scene: Scene) -> str:
    """SIGKILL to one writer, at a random moment or at a named point; it starts again."""
    troupe = scene.troupe
    victim = troupe.draw.choice(troupe.names)
    point = troupe.draw.choice(("", *POINTS))
    await scene.pause(0.2, 0.5)
    if point:
        delay = troupe.draw.uniform(0.000_1, 0.002)
        point = await troupe.blow(victim, point, delay, _POINT_SECONDS)
    else:
        await troupe.fall(victim)
    await troupe.raise_up(victim)
    troupe.tell_go(victim)
    await scene.pause(0.1, 0.2)
    return f"{victim} died at {point or 'random'}"


async def storm(scene: Scene) -> str:
    """SIGKILL to all at once; all start at once."""
    troupe = scene.troupe
    await scene.pause(0.5, 1.5)
    await asyncio.gather(*(troupe.fall(name) for name in troupe.names))
    await asyncio.gather(*(troupe.raise_up(name) for name in troupe.names))
    for name in troupe.names:
        troupe.tell_go(name)
    await scene.pause(0.2, 0.5)
    return "all were killed and started again"


async def slow(scene: Scene) -> str:
    """One writer is stopped (SIGSTOP) while the others write on, and goes on later."""
    troupe = scene.troupe
    victim = troupe.draw.choice(troupe.names)
    await scene.pause(0.2, 0.5)
    troupe.halt(victim)
    try:
        await asyncio.sleep(scene.seconds)
    finally:
        troupe.resume(victim)
    await scene.pause(0.1, 0.3)
    return f"{victim} stood still for {scene.seconds:g} s"


async def partition(scene: Scene) -> str:
    """Links are cut: between two halves, in one direction, or again and again."""
    troupe, proxy = scene.troupe, scene.troupe.proxy
    draw = troupe.draw
    kind = draw.choice(("halves", "one-way", "flapping"))
    side = draw.sample(troupe.names, max(1, len(troupe.names) // 2))
    pairs = proxy.crossing(side)
    await scene.pause(0.2, 0.5)
    try:
        if kind == "halves":
            for pair in pairs:
                proxy.cut(pair, draw.choice(tuple(Cut)))
            await asyncio.sleep(scene.seconds)
        elif kind == "one-way":  # nothing reaches that side; what it says gets through
            for dialler, listener in pairs:
                proxy.silence_one_way((dialler, listener), answers=dialler in side)
            await asyncio.sleep(scene.seconds)
        else:
            for _ in range(_FLAPS):
                for pair in pairs:
                    proxy.cut(pair, draw.choice(tuple(Cut)))
                await asyncio.sleep(scene.seconds / _FLAPS / 2)
                proxy.heal()
                await asyncio.sleep(scene.seconds / _FLAPS / 2)
    finally:
        proxy.heal()
    return f"{kind}: {', '.join(sorted(side))} apart"


async def disk(scene: Scene) -> str:
    """A killed writer's folder is deleted, its journal torn, or one byte of it flipped."""
    troupe = scene.troupe
    victim = troupe.draw.choice(troupe.names)
    kind = troupe.draw.choice(("deleted", "torn", "flipped"))
    await scene.pause(0.5, 1.0)
    await troupe.fall(victim)
    before = troupe.members[victim].rebuilt
    if kind == "deleted":
        await asyncio.to_thread(troupe.delete, victim)
    else:
        files = [
            file
            for file in sorted(troupe.place(victim).glob(f"{layout.JOURNAL}*"))
            if file.suffix.endswith(("sqlite", "-wal")) and file.stat().st_size
        ]
        file = troupe.draw.choice(files)
        (_tear if kind == "torn" else _flip)(file, troupe.draw.random())
        kind += f" ({file.name})"
        troupe.pledges.forget(victim)
    await troupe.raise_up(victim)
    troupe.tell_go(victim)
    await scene.pause(0.2, 0.4)
    found = ", found and rebuilt" if troupe.members[victim].rebuilt > before else ""
    return f"{victim}'s disk was {kind}{found}"


def _tear(file: Path, where: float) -> None:
    size = file.stat().st_size
    os.truncate(file, max(1, size - 1 - int(where * min(size // 2, 65_536))))


def _flip(file: Path, where: float) -> None:
    place = int(where * file.stat().st_size)
    with file.open("r+b") as opened:
        opened.seek(place)
        byte = opened.read(1)[0]
        opened.seek(place)
        opened.write(bytes([byte ^ 0x10]))


async def redis(scene: Scene) -> str:
    """The bus is killed, flushed, restarted empty, or paused."""
    assert scene.stack is not None, "this one needs a server"
    stack, draw = scene.stack, scene.troupe.draw
    server = stack.services["redis"]
    kind = draw.choice(("killed", "flushed", "emptied", "paused"))
    await scene.pause(0.3, 0.8)
    if kind == "flushed":
        client = Redis.from_url(server.address)
        try:
            await client.flushall()
        finally:
            await client.aclose()
    elif kind == "paused":
        pid = server.pid
        assert pid is not None, "it runs"
        os.kill(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(scene.seconds)
        finally:
            os.kill(pid, signal.SIGCONT)
    else:
        await stack.kill("redis")
        await asyncio.sleep(scene.seconds)
        if kind == "emptied":
            await asyncio.to_thread(shutil.rmtree, server.place.folder / "appendonlydir")
        await stack.start("redis")
    await scene.pause(0.3, 0.6)
    return f"redis was {kind}"


Trial = Callable[[Scene], Awaitable[str]]

TRIALS: Final[Mapping[str, tuple[Trial, float]]] = {
    "kill9": (kill9, 0.0),
    "storm": (storm, 0.0),
    "slow": (slow, 20.0),
    "partition": (partition, 3.0),
    "disk": (disk, 0.0),
    "redis": (redis, 2.0),
}
"""{name: (a round of it, seconds its fault lasts)}"""
