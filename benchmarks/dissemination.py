"""What it costs that every frame reaches every replica: 200 replicas and no broker.

Real replicas in one process over the transport in memory (no TLS), each dialling as many others as
the settings say, chosen as introductions choose. Counted is what crosses the links: every frame in
every message, also those sent again or in answer to a request. A tenth of the replicas write.

- *first frame of a session*: it is flooded, and its copies make the session's tree;
- *later frames*: the tree is there;
- *while links fail*: a twentieth of all links break for good among those frames.

A round ends when all replicas have all operations; it fails if they do not in time.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Final

from benchmarks.harness import Aim, BenchmarkError, Figure, Measured, Run
from crdt import Document, Register
from mesh import Replica, Settings
from mesh.dissemination import chosen
from mesh.environment import Environment
from mesh.instrumentation import CountingProbe
from mesh.transports.discovery import StaticSeeds
from mesh.transports.memory import MemoryNetwork
from mesh.wire import Frames, decode
from persistence.identity import Authority, found_mesh
from persistence.memory import MemoryJournal
from persistence.system import SystemClock, SystemEntropy
from simulations.faults.translated import Translated

REPLICAS: Final = 200
BOUND: Final = 1.3
QUIET_S: Final = 60.0
PATIENCE_S: Final = 60.0
POLL_S: Final = 0.02
SETTLE_S: Final = 0.5
FIRST, LATER, FAILING = (
    f"sends per frame and replica, {when}"
    for when in ("first frame of a session", "later frames", "while links fail")
)
ASIDE: Final = "other messages per frame and replica, later frames"
SPREAD: Final = "until all have a later frame, median"


class Note(Document):
    """What is written."""

    text: Register[str]


@dataclass(slots=True)
class Traffic:
    """What crossed all links since it was last reset. A `Translator` that changes nothing."""

    frames: int = 0
    others: int = 0

    def said(self, peer: str, message: bytes) -> bytes:
        """A message was sent."""
        del peer
        found = decode(message)
        if isinstance(found, Frames):
            self.frames += len(found.frames)
        else:
            self.others += 1
        return message

    def heard(self, peer: str, message: bytes) -> bytes:
        """The other end has counted it."""
        del peer
        return message

    def reset(self) -> None:
        """Count from zero."""
        self.frames = self.others = 0


async def measure(run: Run) -> None:
    """One mesh a round."""
    figures = [
        Figure(FIRST, ""),
        Figure(LATER, "", Aim("ours", "<=", BOUND)),
        Figure(FAILING, ""),
        Figure(ASIDE, ""),
        Figure(SPREAD, "ms"),
    ]
    numbers = iter(range(1_000))

    async def ours() -> Measured:
        return await _round(run.size(REPLICAS, 24), run.size(10, 5), next(numbers))

    await run.compare(figures, ours=ours)


async def _round(size: int, frames: int, seed: int) -> Measured:
    """Frames, each by one of a tenth of the replicas, through the three phases."""
    rng = random.Random(seed)
    async with AsyncExitStack() as stack:
        mesh = _Mesh(size)
        await mesh.start(stack)
        writers = mesh.replicas[:: max(1, size // max(2, size // 10))]
        found = {}
        await mesh.phase(writers, 1)
        found[FIRST] = mesh.traffic.frames / len(writers) / size
        taken = await mesh.phase(writers, frames)
        written = frames * len(writers)
        found[LATER] = mesh.traffic.frames / written / size
        found[ASIDE] = mesh.traffic.others / written / size
        found[SPREAD] = sorted(taken)[len(taken) // 2] * 1000
        breaking = asyncio.create_task(mesh.break_links(rng))
        try:
            await mesh.phase(writers, frames)
        finally:
            await breaking
        found[FAILING] = mesh.traffic.frames / written / size
    return found


class _Mesh:
    """All replicas of a round, and what crosses their links."""

    def __init__(self, size: int) -> None:
        self.traffic = Traffic()
        self.network = MemoryNetwork()
        self.names = [f"r{number:03}" for number in range(size)]
        self.replicas: list[Replica] = []
        self._authority = found_mesh("benchmark", 1, SystemClock(), SystemEntropy())
        self._written = 0

    async def start(self, stack: AsyncExitStack) -> None:
        """Until every replica has as many links as it dials."""
        dialled = min(Settings().peers.dial_max, len(self.names) - 1)
        for name in self.names:
            replica = _replica(self, self._authority, name, dialled)
            self.replicas.append(await stack.enter_async_context(replica))
        await self._until(
            lambda: all(
                sum(peer.connected for peer in one.peers()) >= dialled for one in self.replicas
            ),
            "not all replicas found their links",
        )

    async def phase(self, writers: list[Replica], frames: int) -> list[float]:
        """So many frames by each writer; seconds until all had each."""
        await self._settled()
        self.traffic.reset()
        taken = []
        for _ in range(frames):
            for writer in writers:
                began = time.monotonic()
                self._written += 1
                with writer.edit(Note, str(self._written)) as note:
                    note.text = "x" * 60
                await writer.flush()
                await self._until(partial(self._have_all, writer), "a frame did not reach all")
                taken.append(time.monotonic() - began)
        return taken

    async def _settled(self) -> None:
        """Until no copy of an earlier frame is under way any more."""
        before = -1
        while before != self.traffic.frames:
            before = self.traffic.frames
            await asyncio.sleep(SETTLE_S)

    def _have_all(self, writer: Replica) -> bool:
        seqs = writer.frontier().get(0, {})
        upto = seqs.get(writer.session, 0)
        return all(
            one.frontier().get(0, {}).get(writer.session, 0) >= upto for one in self.replicas
        )

    async def break_links(self, rng: random.Random) -> None:
        """A twentieth of all links, one after the other, for good."""
        pairs = sorted(
            {
                (min(one.name, peer.name), max(one.name, peer.name))
                for one in self.replicas
                for peer in one.peers()
                if peer.connected
            }
        )
        for a, b in rng.sample(pairs, max(1, len(pairs) // 20)):
            self.network.cut(a, b)
            await asyncio.sleep(POLL_S)

    @staticmethod
    async def _until(condition: Callable[[], bool], what: str) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not condition():  # noqa: ASYNC110 - of replicas that tell nobody
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            raise BenchmarkError(what) from None


def _replica(mesh: _Mesh, authority: Authority, name: str, dialled: int) -> Replica:
    clock, entropy = SystemClock(), SystemEntropy()
    settings = Settings().override(replica__presence_interval_s=QUIET_S)
    seeds = chosen(name, [other for other in mesh.names if other != name], dialled)
    environment = Environment(
        clock, entropy, CountingProbe(), MemoryJournal(),
        Translated(mesh.network.transport(name), mesh.traffic), StaticSeeds(seeds),
    )  # fmt: skip
    return Replica(settings, environment, authority.issue(name, clock, entropy))
