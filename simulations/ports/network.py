"""A simulated network: links that behave as TCP does over ways that don't.

A link is an ordered stream, so what happens to packets shows as time: a lost packet is a wait for
its retransmission, and all behind it wait too. A way that is cut swallows nothing at first: what is
on it is held, and comes in a flood when the way is open again, unless the link was given up
meanwhile. What ends links is a reset, at any point of a message, a process that ends, and a host
that forgot them: a power cut says nothing to anybody.

Ways are directed: `cut(a, b)` lets nothing from a to b through, b to a goes on. Cuts are counted,
so that faults that overlap don't heal each other.
"""

from __future__ import annotations

import asyncio
import random
import zlib
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable
from contextvars import Context, copy_context
from dataclasses import dataclass
from typing import Annotated, Protocol

from pydantic import Field, NonNegativeFloat, PositiveInt

from crdt.errors import CallerError, ServiceError
from mesh.environment import Link, LinkClosed
from simulations.loop import SECOND, SimLoop
from simulations.trace import Trace

__all__ = ("Conditions", "Network", "Observer", "SimLink", "SimTransport", "Unreachable")

Share = Annotated[float, Field(ge=0, lt=1)]
CONNECT_S = 5.0
"""How long a dial waits for an answer that never comes."""
PORT = 7400


class Unreachable(ServiceError):
    """Nobody answers at that address."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """How a network is: `latency_ms` one way at least, `jitter_ms` more on average, a `tail` share
    of messages ten times that; `loss` share of messages that wait for a retransmission; bandwidth
    in bytes per second; `buffer` bytes of a link may be on their way, or unread.
    """

    latency_ms: NonNegativeFloat = 0.3
    jitter_ms: NonNegativeFloat = 0.2
    tail: Share = 0.01
    loss: Share = 0.0
    bandwidth: PositiveInt = 100_000_000
    buffer: PositiveInt = 1 << 20


class SimLink:
    """One end of a link. See `mesh.environment.Link`."""

    def __init__(
        self, owner: SimTransport, peer: SimTransport, address: str, initiated: bool
    ) -> None:
        self.owner = owner
        self.peer = peer.name
        self.certificate = peer.certificate
        self.address = address
        self.initiated = initiated
        self._inbox: deque[bytes] = deque()
        self._waiting = 0
        self._flying = 0
        self._came = asyncio.Event()
        self._room = asyncio.Event()
        self.closed = ""
        self.received_bytes = 0
        self.arrives = 0
        self.held: list[bytes | None] = []
        """What would have arrived here, but for a cut; None is the end of the stream."""
        self.other: SimLink

    async def send(self, message: bytes) -> None:
        """See `Link.send`: waits while too much is on its way or not received."""
        other, network = self.other, self.owner.network
        most = network.conditions.buffer
        while not self.closed and other._waiting + other._flying >= most:
            self._room.clear()
            await self._room.wait()
        if self.closed:
            raise LinkClosed(f"link to {self.peer}: {self.closed}")
        other._flying += len(message)
        network.carry(self, message)
        if network.yields():
            await asyncio.sleep(0)

    async def receive(self) -> bytes:
        """See `Link.receive`. What was sent before an orderly close still arrives."""
        while not self._inbox:
            if self.closed:
                raise LinkClosed(f"link to {self.peer}: {self.closed}")
            self._came.clear()
            await self._came.wait()
        message = self._inbox.popleft()
        self._waiting -= len(message)
        self.received_bytes += len(message)
        self.other._room.set()
        return message

    async def close(self) -> None:
        """See `Link.close`."""
        if not self.closed:
            self.end("closed here")
            self.owner.network.carry(self, None)
        await asyncio.sleep(0)

    def arrive(self, message: bytes | None) -> None:
        """The network brings a message, or the end of the stream."""
        if message is None:
            self.end("closed by the peer")
        elif not self.closed:
            self._flying -= len(message)
            self._waiting += len(message)
            self._inbox.append(message)
            self._came.set()

    def end(self, reason: str, *, lose: bool = False) -> None:
        """This end is over; `lose`: with what it had not read yet."""
        self.closed = self.closed or reason
        if lose:
            self._inbox.clear()
        self._came.set()
        self._room.set()
        self.owner.links.pop(self, None)

    def __repr__(self) -> str:
        return f"<SimLink {self.owner.name} to {self.peer}, {self.closed or 'open'}>"


class SimTransport:
    """`mesh.environment.Transport` of one run of a replica."""

    def __init__(self, network: Network, name: str, certificate: bytes, port: int) -> None:
        self.network = network
        self.name = name
        self.address = f"{name}:{port}"
        self.certificate = certificate
        self.links: dict[SimLink, None] = {}
        self.alive = True
        self._accept: Callable[[Link], Awaitable[None]] | None = None
        self._context = Context()
        self._serving: dict[asyncio.Task[None], None] = {}

    async def listen(self, accept: Callable[[Link], Awaitable[None]]) -> str:
        """See `Transport.listen`."""
        self.network.bind(self)
        self._accept = accept
        self._context = copy_context()
        return self.address

    async def dial(self, address: str) -> Link:
        """See `Transport.dial`. Raises Unreachable, at once or when it has waited long enough."""
        return await self.network.dial(self, address)

    def accepted(self, link: SimLink) -> None:
        """Somebody dialled us."""
        assert self._accept is not None
        task = self.network.loop.create_task(
            _serve(self._accept, link), name=f"accept {link.peer}", context=self._context.copy()
        )
        self._serving[task] = None
        task.add_done_callback(self._served, context=self._context)

    def _served(self, task: asyncio.Task[None]) -> None:
        self._serving.pop(task, None)

    async def close(self) -> None:
        """See `Transport.close`."""
        self.network.unbind(self)
        for link in list(self.links):
            await link.close()
        serving = [task for task in self._serving if task is not asyncio.current_task()]
        if serving:
            await asyncio.wait(serving)

    def __repr__(self) -> str:
        return f"<SimTransport {self.name}, {len(self.links)} links>"


async def _serve(accept: Callable[[Link], Awaitable[None]], link: Link) -> None:
    await accept(link)


class Observer(Protocol):
    """Somebody who is told what is on its way, and must change nothing."""

    def carried(self, link: SimLink, message: bytes | None) -> None:
        """A message is on its way to this end of a link; None: the end of the stream."""

    def held(self, link: SimLink) -> None:
        """What was the first on its way to this end came to a cut, and waits."""

    def arrived(self, link: SimLink) -> None:
        """What was the first that waited, or was on its way to this end, is there, or lost."""


class Network:
    """Who listens where, how long everything takes, and which ways are cut."""

    def __init__(
        self,
        loop: SimLoop,
        trace: Trace,
        rng: random.Random,
        conditions: Conditions | None = None,
    ) -> None:
        self.loop = loop
        self.trace = trace
        self.conditions = conditions or Conditions()
        self._rng = rng
        self._listening: dict[str, SimTransport] = {}
        self._transports: list[SimTransport] = []
        self._cuts: Counter[tuple[str, str]] = Counter()
        self._context = Context()
        self.observer: Observer | None = None
        self.messages = 0
        self.bytes = 0

    def __repr__(self) -> str:
        cut = [f"{a}→{b}" for (a, b), count in self._cuts.items() if count]
        return f"<Network of {sorted(self._listening)}, cut: {', '.join(cut) or 'nothing'}>"

    def transport(self, name: str, certificate: bytes = b"", port: int = PORT) -> SimTransport:
        """A transport for one run of the replica `name`. Two of one name have two ports."""
        made = SimTransport(self, name, certificate, port)
        self._transports.append(made)
        return made

    # ------------------------------------------------------------------ listening and dialling

    def bind(self, transport: SimTransport) -> None:
        """Listen. Raises CallerError if somebody does there."""
        if transport.address in self._listening:
            raise CallerError(f"{transport.address} is in use")
        self._listening[transport.address] = transport

    def unbind(self, transport: SimTransport) -> None:
        """Stop listening. Idempotent."""
        if self._listening.get(transport.address) is transport:
            del self._listening[transport.address]

    async def dial(self, caller: SimTransport, address: str) -> SimLink:
        """A new link, after two round trips. Raises Unreachable."""
        host = address.partition(":")[0]
        await self.travel(2)
        if self.is_cut(caller.name, host) or self.is_cut(host, caller.name):
            # Some networks say so, others say nothing.
            await asyncio.sleep(0 if self._rng.random() < 0.3 else CONNECT_S)
            raise Unreachable(f"no way to {address}")
        target = self._listening.get(address)
        if target is None or not target.alive:
            raise Unreachable(f"nobody listens at {address}")
        await self.travel(2)
        if not (self._listening.get(address) is target and caller.alive):
            raise Unreachable(f"nobody listens at {address} any more")
        mine = SimLink(caller, target, address, initiated=True)
        theirs = SimLink(target, caller, caller.address, initiated=False)
        mine.other, theirs.other = theirs, mine
        caller.links[mine] = None
        target.links[theirs] = None
        target.accepted(theirs)
        return mine

    async def travel(self, times: int) -> None:
        """Wait as long as so many small messages take, one after the other."""
        await asyncio.sleep(sum(self._latency_ns(0) for _ in range(times)) / SECOND)

    # ------------------------------------------------------------------ carrying

    def yields(self) -> bool:
        """Whether a sender lets others run before it goes on."""
        return self._rng.random() < 0.1

    def carry(self, link: SimLink, message: bytes | None) -> None:
        """Bring a message (None: the end of the stream) to the other end, in its time."""
        target = link.other
        at = self.loop.now_ns + self._latency_ns(0 if message is None else len(message))
        # In order: what is ready earlier waits for what was sent before it.
        target.arrives = at = max(at, target.arrives)
        self.messages += 1
        self.bytes += 0 if message is None else len(message)
        if self.observer is not None:
            self.observer.carried(target, message)
        self.loop.call_at_ns(at, self._arrive, target, message, context=self._context)

    def _arrive(self, link: SimLink, message: bytes | None) -> None:
        here, there = link.owner, link.other.owner
        if not here.alive:
            if message is not None and there.alive and self._is_up(here.name):
                self._reset(link.other, "the peer has forgotten this link")
            return
        if self._cuts[there.name, here.name] or link.held:
            link.held.append(message)
            if self.observer is not None:
                self.observer.held(link)
            return
        if self.observer is not None:
            self.observer.arrived(link)
        if link.closed:
            return
        if message is None:
            self.trace.add("end", there.name, here.name)
        else:
            self.trace.add("message", there.name, here.name, len(message), zlib.crc32(message))
        link.arrive(message)

    def _latency_ns(self, size: int) -> int:
        now, draw = self.conditions, self._rng.random
        ms = now.latency_ms + now.jitter_ms * 2 * draw()
        if draw() < now.tail:
            ms *= 10
        if now.loss and draw() < now.loss:
            ms += 200.0
            while draw() < now.loss:
                ms *= 2
        return int(ms * 1_000_000) + size * SECOND // now.bandwidth

    def _is_up(self, name: str) -> bool:
        return any(one.alive and one.name == name for one in self._listening.values())

    # ------------------------------------------------------------------ faults

    def is_cut(self, source: str, target: str) -> bool:
        """Whether nothing from `source` reaches `target`."""
        return self._cuts[source, target] > 0

    @property
    def cuts(self) -> list[tuple[str, str]]:
        """The ways that are cut: from a to b."""
        return list(self._cuts)

    def cut(self, ways: Iterable[tuple[str, str]]) -> None:
        """From now on nothing goes these ways."""
        for way in ways:
            self._cuts[way] += 1

    def mend(self, ways: Iterable[tuple[str, str]]) -> None:
        """Take back one cut of each of these ways; what was held comes, after a while."""
        for way in ways:
            self._cuts[way] -= 1
            if self._cuts[way] <= 0:
                del self._cuts[way]
                self._release(*way)

    def mend_all(self) -> None:
        """All ways are open."""
        ways = list(self._cuts)
        self._cuts.clear()
        for way in ways:
            self._release(*way)

    def _release(self, source: str, target: str) -> None:
        for link in self._links_of(target):
            if link.peer == source and link.held:
                # The sender tries again when its timer says so.
                wait = int(self._rng.random() * SECOND)
                self.loop.call_later(wait / SECOND, self._flood, link, context=self._context)

    def _flood(self, link: SimLink) -> None:
        here, there = link.owner, link.other.owner
        if not here.alive or self._cuts[there.name, here.name]:
            return
        held, link.held = link.held, []
        for message in held:
            self._arrive(link, message)

    def reset(self, a: str, b: str) -> int:
        """Break every link between two hosts at once, with all that is on the way; how many."""
        links = [link for link in self._links_of(a) if link.peer == b]
        for link in links:
            self._reset(link, "connection reset")
        return len(links)

    def vanish(self, transport: SimTransport, *, silently: bool) -> None:
        """A process ended. Its peers hear of it soon, unless `silently`, as in a power cut: then
        only when its host is up again and they say something.
        """
        transport.alive = False
        self.unbind(transport)
        self._transports.remove(transport)
        for link in list(transport.links):
            if not silently and not link.other.closed:
                self.loop.call_at_ns(
                    self.loop.now_ns + self._latency_ns(0), self._reset, link.other,
                    "connection reset by the peer", context=self._context,
                )  # fmt: skip

    def _reset(self, link: SimLink, reason: str) -> None:
        if link.closed and link.other.closed:
            return
        self.trace.add("reset", link.owner.name, link.peer)
        for end in (link, link.other):
            if end.owner.alive:
                end.end(reason, lose=self._rng.random() < 0.5)

    def _links_of(self, name: str) -> list[SimLink]:
        found: list[SimLink] = []
        for transport in self._transports:
            if transport.alive and transport.name == name:
                found.extend(transport.links)
        return found
