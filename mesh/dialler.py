"""Dialling: every address that discovery names is tried for ever, with jittered backoff.

An address is left alone while its peer is linked, whoever dialled; once the link is gone it is
dialled again, for a while also if nobody names it any more: two halves of a mesh that were cut off
for long forget each other, and have to find together again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from crdt.errors import PeerError, ServiceError
from mesh.core import Core
from mesh.dissemination import Backoff
from mesh.environment import Link
from mesh.exchange import Exchange
from mesh.links import LinkTimes, PeerLink
from mesh.wire import WIRE_NEWEST, WIRE_OLDEST, Hello

LOOK_S = 1.0
"""How often discovery is asked for addresses."""
SELF_S = 60.0
"""How soon an address that turned out to be this replica is tried again: it may be somebody else's
by then.
"""
LOST_S = 1_800.0
"""For how long the address of a peer that was linked is dialled when nobody names it."""
MAX_ADDRESSES = 1_000
MAX_KNOWN = 4_096


class Dialler:
    """Makes links and looks after them. Tasks live in the group that `run` is given."""

    def __init__(self, core: Core, exchange: Exchange, times: LinkTimes) -> None:
        self._core = core
        self._exchange = exchange
        self._times = times
        self._dialling: set[str] = set()
        self._tasks: set[asyncio.Task[object]] = set()
        self._closing = False
        self._group: asyncio.TaskGroup | None = None
        self.address = ""

    def __repr__(self) -> str:
        return f"<Dialler at {self.address or 'no address'}, dials {sorted(self._dialling)}>"

    async def listen(self, group: asyncio.TaskGroup) -> None:
        """Start accepting. Raises CallerError if the address is in use."""
        self._group = group
        self.address = await self._core.environment.transport.listen(self._accept)

    async def run(self) -> None:
        """Keep one task per address that discovery names."""
        assert self._group is not None
        discovery = self._core.environment.discovery
        while True:
            for address in discovery.addresses()[:MAX_ADDRESSES]:
                if address in self._dialling or address == self.address:
                    continue
                if len(self._dialling) < MAX_ADDRESSES:
                    self._dialling.add(address)
                    self._spawn(self._keep(address), f"dial {address}")
            await asyncio.sleep(LOOK_S)

    async def close(self) -> None:
        """Accept and dial no more, end every link, wait for all of it."""
        self._closing = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _keep(self, address: str) -> None:
        """Dial an address whenever its peer is not linked, for as long as discovery names it or it
        was lost only lately.
        """
        peers = self._core.settings.peers
        rng = self._core.environment.entropy.stream(f"dial {address}")
        backoff = Backoff(peers.redial_min_s, peers.redial_max_s, rng)
        peer, until = "", 0.0
        try:
            while self._is_worth_it(address, until):
                if peer and peer in self._exchange.links:
                    await self._exchange.until_unlinked(peer)
                    until = self._core.now() + LOST_S
                    await asyncio.sleep(backoff.wait())
                    continue
                wait = backoff.wait()
                try:
                    link = await self._core.environment.transport.dial(address)
                except (ServiceError, PeerError) as error:
                    self._core.probe.event("dial.failed", address=address, reason=str(error))
                else:
                    peer = link.peer
                    if await self._talk(link):
                        backoff.reset()
                        until = self._core.now() + LOST_S
                        wait = backoff.wait()
                    elif peer == self._core.name:
                        wait = SELF_S
                await asyncio.sleep(wait)
        finally:
            self._dialling.discard(address)

    def _is_worth_it(self, address: str, until: float) -> bool:
        if address in self._core.environment.discovery.addresses():
            return True
        return self._core.now() < until and len(self._dialling) < MAX_ADDRESSES

    async def _accept(self, link: Link) -> None:
        """A peer dialled us. The link's tasks are ours; the transport may wait for them."""
        if self._closing or self._group is None:
            await link.close()
            return
        await asyncio.wait([self._spawn(self._talk(link), f"link from {link.peer}")])

    def _spawn(self, work: Coroutine[Any, Any, object], name: str) -> asyncio.Task[object]:
        assert self._group is not None
        task: asyncio.Task[object] = self._group.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _talk(self, link: Link) -> bool:
        core = self._core
        hello = Hello(
            WIRE_OLDEST, WIRE_NEWEST, core.identity.mesh.id, core.name, core.session,
            core.certificate, self._known(),
        )  # fmt: skip
        return await PeerLink(link, core, self._exchange, hello, self._times).run()

    def _known(self) -> tuple[int, ...]:
        """Sessions whose certificates need not be sent to us; the newest, if there are many."""
        trust = self._core.trust
        sessions = {one for host in self._core.hosts for one in host.lattice.frontier}
        return tuple(one for one in sorted(sessions)[-MAX_KNOWN:] if trust.get(one) is not None)
