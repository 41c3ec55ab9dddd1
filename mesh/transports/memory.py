"""A network in memory that can be cut: for tests, examples and one-process meshes.

    network = MemoryNetwork()
    a, b = network.transport("a"), network.transport("b")
    network.cut("a", "b")        # links between them break, dialling fails
    network.heal()

It proves nothing cryptographically: a transport is whoever it was made for. Everything else a link
promises it keeps: whole messages, in order, at most once, bounded buffers.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator

from crdt.errors import CallerError, ServiceError
from mesh.environment import Link, LinkClosed

__all__ = ("MemoryLink", "MemoryNetwork", "MemoryTransport", "Nowhere")

BUFFER_BYTES = 1 << 20


class Nowhere(ServiceError):
    """Nobody listens at that address, or the way there is cut."""


class MemoryLink:
    """One end of a link. See `mesh.environment.Link`."""

    def __init__(self, owner: MemoryTransport, peer: str, address: str, initiated: bool) -> None:
        self._owner = owner
        self.peer = peer
        self.address = address
        self.initiated = initiated
        self._inbox: deque[bytes] = deque()
        self._bytes = 0
        self._changed = asyncio.Event()
        self._closed = ""
        self.certificate = b""
        self.received_bytes = 0
        self.other: MemoryLink

    @property
    def ends(self) -> frozenset[str]:
        """The names at both ends."""
        return frozenset((self.peer, self._owner.name))

    async def send(self, message: bytes) -> None:
        """See `Link.send`: waits while `BUFFER_BYTES` have not been received."""
        other = self.other
        while not self._closed and other._bytes >= BUFFER_BYTES:
            other._changed.clear()
            await other._changed.wait()
        if self._closed:
            raise LinkClosed(f"link to {self.peer}: {self._closed}")
        other._inbox.append(bytes(message))
        other._bytes += len(message)
        other._changed.set()
        # A real socket gives others a turn now and then; so does this one, always.
        await asyncio.sleep(0)

    async def receive(self) -> bytes:
        """See `Link.receive`. What was sent before an orderly close still arrives."""
        while not self._inbox:
            if self._closed:
                raise LinkClosed(f"link to {self.peer}: {self._closed}")
            self._changed.clear()
            await self._changed.wait()
        message = self._inbox.popleft()
        self._bytes -= len(message)
        self.received_bytes += len(message)
        self._changed.set()
        return message

    async def close(self) -> None:
        """See `Link.close`."""
        self.end("closed here", "closed by the peer")
        await asyncio.sleep(0)

    def end(self, reason: str, others: str = "", *, lose: bool = False) -> None:
        """End both ends at once; `lose`: what is on the way is lost."""
        for link, why in ((self, reason), (self.other, others or reason)):
            if not link._closed:
                link._closed = why
            if lose:
                link._inbox.clear()
            link._changed.set()
            link._owner.links.discard(link)

    def __repr__(self) -> str:
        return f"MemoryLink({self._owner.name} to {self.peer}, {self._closed or 'open'})"


class MemoryTransport:
    """`mesh.environment.Transport` of one replica in a `MemoryNetwork`."""

    def __init__(self, network: MemoryNetwork, name: str, address: str) -> None:
        self._network = network
        self._accept: Callable[[Link], Awaitable[None]] | None = None
        self._serving: set[asyncio.Task[None]] = set()
        self.name = name
        self.address = address
        # A dict for its order: what is closed first must not depend on hashes.
        self.links: _Ordered = _Ordered()

    async def listen(self, accept: Callable[[Link], Awaitable[None]]) -> str:
        """See `Transport.listen`."""
        self._network.bind(self)
        self._accept = accept
        return self.address

    async def dial(self, address: str) -> Link:
        """See `Transport.dial`. Raises Nowhere."""
        await asyncio.sleep(0)
        target = self._network.find(self, address)
        mine = MemoryLink(self, target.name, address, initiated=True)
        theirs = MemoryLink(target, self.name, self.address, initiated=False)
        mine.other, theirs.other = theirs, mine
        self.links.add(mine)
        target.links.add(theirs)
        target.accepted(theirs)
        return mine

    def accepted(self, link: MemoryLink) -> None:
        """Somebody dialled us."""
        assert self._accept is not None
        task = asyncio.ensure_future(self._serve(self._accept, link))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def close(self) -> None:
        """See `Transport.close`."""
        self._network.unbind(self)
        self._accept = None
        for link in self.links:
            link.end("closed here", "closed by the peer")
        serving = self._serving - {asyncio.current_task()}
        if serving:
            await asyncio.wait(serving)

    @staticmethod
    async def _serve(accept: Callable[[Link], Awaitable[None]], link: Link) -> None:
        await accept(link)

    def __repr__(self) -> str:
        return f"MemoryTransport({self.name} at {self.address}, {len(list(self.links))} links)"


class _Ordered:
    """A set that is walked in the order things came in."""

    def __init__(self) -> None:
        self._links: dict[MemoryLink, None] = {}

    def add(self, link: MemoryLink) -> None:
        self._links[link] = None

    def discard(self, link: MemoryLink) -> None:
        self._links.pop(link, None)

    def __iter__(self) -> Iterator[MemoryLink]:
        return iter(list(self._links))


class MemoryNetwork:
    """Who listens where, and which ways are cut."""

    def __init__(self) -> None:
        self._listening: dict[str, MemoryTransport] = {}
        self._cut: set[frozenset[str]] = set()

    def transport(self, name: str, address: str = "") -> MemoryTransport:
        """A transport for the replica `name`, reachable at `address` (its name, if none is
        given).
        """
        return MemoryTransport(self, name, address or name)

    def cut(self, a: str, b: str) -> None:
        """Break the links between two replicas, losing what is on the way; dialling fails from now
        on.
        """
        pair = frozenset((a, b))
        self._cut.add(pair)
        for transport in list(self._listening.values()):
            for link in transport.links:
                if link.ends == pair:
                    link.end("the network was cut", lose=True)

    def heal(self) -> None:
        """All ways are open again."""
        self._cut.clear()

    def bind(self, transport: MemoryTransport) -> None:
        """Listen. Raises CallerError if somebody does there."""
        if transport.address in self._listening:
            raise CallerError(f"{transport.address} is in use")
        self._listening[transport.address] = transport

    def unbind(self, transport: MemoryTransport) -> None:
        """Stop listening. Idempotent."""
        if self._listening.get(transport.address) is transport:
            del self._listening[transport.address]

    def find(self, caller: MemoryTransport, address: str) -> MemoryTransport:
        """Who listens there. Raises Nowhere."""
        target = self._listening.get(address)
        if target is None:
            raise Nowhere(f"nobody listens at {address}")
        if frozenset((caller.name, target.name)) in self._cut:
            raise Nowhere(f"the way from {caller.name} to {address} is cut")
        return target

    def __repr__(self) -> str:
        return f"MemoryNetwork({sorted(self._listening)}, {len(self._cut)} cuts)"
