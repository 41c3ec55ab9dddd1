"""How the fleet's agents get into their mesh: founded, invited, joined, as operators do it.

What `mesh init`, `authority`, `invite`, `join` and `revoke` do, by the functions under them; the
authority answers on the loopback.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from mesh.admission import admitting, join
from mesh.publishing import publish
from persistence.identity import Authority, create_genesis, open_authority
from persistence.invitations import Token
from persistence.office import Office

LOOPBACK = "127.0.0.1:0"


class Door:
    """The authority of a fleet's mesh. Made by `open_door`."""

    def __init__(self, office: Office, authority: Authority, address: str) -> None:
        self._office = office
        self._authority = authority
        self._address = address

    def __repr__(self) -> str:
        return f"<Door of {self._office!r} at {self._address}>"

    async def admit(self, name: str, folder: Path) -> None:
        """Invite one replica and let it join, with `folder` as its own."""
        await join(await asyncio.to_thread(self._invite), folder, name)

    async def expel(self, name: str, told: str) -> None:
        """Revoke a replica, and tell the mesh through the member at the address `told`.

        The name can be admitted anew from then on.
        """
        await asyncio.to_thread(self._office.revoke, name, "its disk is lost", self._authority)
        await publish(self._office, self._authority, told)

    def _invite(self) -> Token:
        return self._office.invite(addresses=[self._address])


@contextlib.asynccontextmanager
async def open_door(folder: Path, mesh: str) -> AsyncIterator[Door]:
    """Found a mesh in `folder`, and answer who is invited while the block lasts."""
    await asyncio.to_thread(create_genesis, folder, mesh)
    authority = await asyncio.to_thread(open_authority, folder)
    office = Office(folder)
    async with admitting(office, authority, LOOPBACK, _unheard) as address:
        yield Door(office, authority, address)


def _unheard(what: str, who: str, detail: str) -> None:
    """Who is refused learns it from the answer, which ends the run."""
