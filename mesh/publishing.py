"""Telling a running replica what the authority says: a link to it, a roster, keys, and goodbye.

The authority dials as any peer does, with a certificate of its own role, and says four words. One
replica is enough: rosters spread over links.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any, Final

from crdt.errors import CallerError
from mesh.admission import authority_identity
from mesh.environment import Link, LinkClosed, PeerRefused
from mesh.instrumentation import LoggingProbe
from mesh.settings import PeersSettings
from mesh.transports.tcp import TcpTransport
from mesh.wire import (
    WIRE_NEWEST,
    WIRE_OLDEST,
    Bye,
    Hello,
    MeshKeys,
    RosterNews,
    RosterVersion,
    decode,
    encode,
)
from persistence.identity import Authority, Identity, open_identity, write_identity
from persistence.office import Office
from persistence.system import SystemClock, SystemEntropy

__all__ = ("publish",)

CONFIRM_S: Final = 10.0
ROSTER_WIRE: Final = 2


async def publish(office: Office, authority: Authority, address: str) -> str:
    """Bring the newest roster, and the keys in it, to the replica at `address`; its name.

    Returns once that replica has it on disk. Raises CallerError (there is nothing to tell yet),
    ServiceError (nobody there, or no confirmation in time), PeerRefused.
    """
    _, roster = office.roster()
    if not roster:
        raise CallerError("the authority has said nothing yet: nobody is revoked, no key was made")
    with tempfile.TemporaryDirectory(prefix="statemesh-") as place:
        made = authority_identity(authority, SystemClock(), SystemEntropy())
        await asyncio.to_thread(write_identity, Path(place), made)
        own = await asyncio.to_thread(open_identity, Path(place))
        transport = TcpTransport(own, PeersSettings(listen=""), LoggingProbe())
        try:
            link = await transport.dial(address)
            async with asyncio.timeout(CONFIRM_S):
                await _tell(link, own, roster, office.keys())
        except TimeoutError:
            raise LinkClosed(f"{address} did not confirm the roster in {CONFIRM_S:g} s") from None
        else:
            return link.peer
        finally:
            await transport.close()


async def _tell(link: Link, own: Identity, roster: bytes, keys: dict[int, bytes]) -> None:
    session = own.new_session(SystemClock(), SystemEntropy())
    hello = Hello(
        WIRE_OLDEST, WIRE_NEWEST, own.mesh.id, own.replica, session.session, session.certificate, ()
    )
    await link.send(encode(hello))
    answer = decode(await link.receive())
    if isinstance(answer, Bye):
        raise PeerRefused(f"{link.peer} says: {answer.reason}")
    if not isinstance(answer, Hello):
        raise PeerRefused(f"{link.peer} does not start with a hello")
    if min(answer.newest, WIRE_NEWEST) < ROSTER_WIRE:
        raise PeerRefused(f"{link.peer} is too old for rosters: run a newer statemesh there")
    # The last word says "I have nothing", so that the peer answers with what it has by then.
    words: list[Any] = [
        RosterNews(roster), MeshKeys(tuple(sorted(keys.items()))), RosterVersion(0, tuple(keys))
    ]  # fmt: skip
    for word in words:
        await link.send(encode(word))
    while True:
        message = decode(await link.receive())
        if isinstance(message, Bye):
            raise LinkClosed(f"{link.peer} says: {message.reason}")
        if isinstance(message, RosterNews):
            break
    if message.roster != roster:
        raise CallerError(
            f"{link.peer} has a newer roster than this folder: it is an old copy of the authority's"
        )
    await link.send(encode(Bye("told")))
