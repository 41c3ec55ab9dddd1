"""Programs of earlier wire versions, as far as anybody can tell by what they say and are told.

What runs is today's replica; its links greet as a program would that speaks versions up to `wire`,
so that both sides agree on that one. A word that is newer than a link's version must not be said
there, by either side: it is an event (`wire.newer`), and, as by an old program, passed over.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable

from mesh.environment import Link, Transport
from mesh.wire import VOCABULARY, WIRE_NEWEST, Hello, decode, encode
from simulations.network import SimTransport

__all__ = ("speaking",)

Tell = Callable[..., None]

_SINCE = {kind: word.since for kind, word in VOCABULARY._by_kind.items()}


def speaking(wire: int, transport: SimTransport, tell: Tell) -> Transport:
    """The transport of a program that speaks wire versions up to `wire`."""
    return transport if wire >= WIRE_NEWEST else _OldTransport(wire, transport, tell)


class _OldTransport:
    """See `speaking`."""

    def __init__(self, wire: int, transport: SimTransport, tell: Tell) -> None:
        self._wire = wire
        self._transport = transport
        self._tell = tell

    async def listen(self, accept: Callable[[Link], Awaitable[None]]) -> str:
        """See `Transport.listen`."""
        return await self._transport.listen(lambda link: accept(self._of(link)))

    async def dial(self, address: str) -> Link:
        """See `Transport.dial`."""
        return self._of(await self._transport.dial(address))

    async def close(self) -> None:
        """See `Transport.close`."""
        await self._transport.close()

    def _of(self, link: Link) -> Link:
        return _OldLink(self._wire, link, self._tell)


class _OldLink:
    """A link to or from an old program: greetings name the versions that it speaks."""

    def __init__(self, wire: int, link: Link, tell: Tell) -> None:
        self._wire = wire
        self._link = link
        self._tell = tell

    @property
    def peer(self) -> str:
        """See `Link.peer`."""
        return self._link.peer

    @property
    def initiated(self) -> bool:
        """See `Link.initiated`."""
        return self._link.initiated

    @property
    def address(self) -> str:
        """See `Link.address`."""
        return self._link.address

    @property
    def certificate(self) -> bytes:
        """See `Link.certificate`."""
        return self._link.certificate

    @property
    def received_bytes(self) -> int:
        """See `Link.received_bytes`."""
        return self._link.received_bytes

    async def send(self, message: bytes) -> None:
        """See `Link.send`."""
        if self._known(message, "said"):
            await self._link.send(self._as_greeted(message))

    async def receive(self) -> bytes:
        """See `Link.receive`."""
        while not self._known(message := await self._link.receive(), "heard"):
            pass
        return self._as_greeted(message)

    async def close(self) -> None:
        """See `Link.close`."""
        await self._link.close()

    def _known(self, message: bytes, way: str) -> bool:
        # A short list, and its first item a small number: its kind.
        since = _SINCE.get(message[1], WIRE_NEWEST + 1)
        if since > self._wire:
            self._tell("wire.newer", peer=self.peer, kind=message[1], way=way, wire=self._wire)
        return since <= self._wire

    def _as_greeted(self, message: bytes) -> bytes:
        if message[1] != _HELLO:
            return message
        hello = decode(message)
        return encode(dataclasses.replace(hello, newest=min(hello.newest, self._wire)))


_HELLO = next(kind for kind, word in VOCABULARY._by_kind.items() if word.cls is Hello)
