"""Links on which somebody else speaks: all that is said and heard passes a translator."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from mesh.environment import Link, Transport

__all__ = ("Translated", "Translator")


class Translator(Protocol):
    """What becomes of a message to or from a peer; None: it is left out."""

    def said(self, peer: str, message: bytes) -> bytes | None:
        """The replica says this."""

    def heard(self, peer: str, message: bytes) -> bytes | None:
        """The peer says this."""


class Translated:
    """`mesh.environment.Transport` whose links are translated."""

    def __init__(self, transport: Transport, translator: Translator) -> None:
        self._transport = transport
        self._translator = translator

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
        return _TranslatedLink(link, self._translator)


class _TranslatedLink:
    """`mesh.environment.Link`; see the module."""

    def __init__(self, link: Link, translator: Translator) -> None:
        self._link = link
        self._translator = translator

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
        translated = self._translator.said(self.peer, message)
        if translated is not None:
            await self._link.send(translated)

    async def receive(self) -> bytes:
        """See `Link.receive`."""
        while (message := self._translator.heard(self.peer, await self._link.receive())) is None:
            pass
        return message

    async def close(self) -> None:
        """See `Link.close`."""
        await self._link.close()
