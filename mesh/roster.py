"""How the roster and the mesh keys spread, and how links end that it forbids.

At link-up both sides say which roster and which keys they have; whoever has the newer one sends it,
and keys go to whoever lacks them. What is new here is passed on to all links at once, so a roster
reaches every replica that is connected with one that has it. Every `LOOK_S` seconds links are
judged anew, since time passes and certificates expire.

A peer that speaks only wire version 1 takes no part: it hears of no revocation and gets no key.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from mesh.core import Core
from mesh.exchange import Exchange
from mesh.health import DEGRADED, DOWN, IDENTITY, OK
from mesh.ingest import Ingest
from mesh.links import PeerLink
from mesh.wire import MeshKeys, RosterNews, RosterVersion, WantKeys
from persistence.base import FrameError, StorageError
from persistence.certificates import AUTHORITY

W = TypeVar("W")

LOOK_S = 1.0
ROSTER_WIRE = 2
WARN_DAYS = 30.0


class RosterSpread:
    """See the module. `run` is one task."""

    def __init__(self, core: Core, exchange: Exchange, ingest: Ingest) -> None:
        self._core = core
        self._roll = core.roll
        self._exchange = exchange
        self._ingest = ingest
        exchange.on_up(self._up)
        exchange.on_down(self._down)
        self._hear(RosterVersion, self._version)
        self._hear(RosterNews, self._news)
        self._hear(MeshKeys, self._keys)
        self._hear(WantKeys, self._want)
        self.judge_health()

    def __repr__(self) -> str:
        return f"<RosterSpread of {self._roll!r}>"

    def _hear(self, word: type[W], handler: Callable[[PeerLink, W], None]) -> None:
        """Have this word handled, if the peer speaks a version that has it."""

        def checked(link: PeerLink, message: W) -> None:
            if link.wire >= ROSTER_WIRE:
                handler(link, message)
            else:
                link.refused()

        self._exchange.hear(word, checked)

    async def run(self) -> None:
        """Judge links and ask for keys, again and again. Only cancelling ends it."""
        while True:
            await asyncio.sleep(LOOK_S)
            self.tick()

    def tick(self) -> None:
        """End links that may not be held any more, and ask for what is missing."""
        self._judge_links()
        self.ask()
        self.judge_health()

    def ask(self) -> None:
        """Ask every peer for the mesh keys that are missing."""
        if missing := self._roll.missing:
            for link in self._linked():
                link.send(WantKeys(missing))

    def judge_health(self) -> None:
        """Say how this replica itself stands with its mesh."""
        roll, health = self._roll, self._core.health
        days = roll.days_left()
        if reason := roll.refusal(roll.own):
            health.set(IDENTITY, DOWN, reason, "join again: mesh join TOKEN DIR")
        elif missing := roll.missing:
            health.set(
                IDENTITY, DEGRADED, f"mesh keys {list(missing)} are not here yet",
                "link to a peer that has them; what is sealed with them waits",
            )  # fmt: skip
        elif days < WARN_DAYS:
            health.set(
                IDENTITY, DEGRADED, f"the certificate expires in {days:.0f} days",
                "join again with a new invitation: mesh join TOKEN DIR",
            )  # fmt: skip
        elif latest := roll.refusals.latest:
            who, why, count = latest
            health.set(IDENTITY, OK, f"links refused, the last: {who} ({why}), {count} times")
        else:
            health.set(IDENTITY, OK)

    def _linked(self) -> list[PeerLink]:
        links = self._exchange.links
        return [link for _, link in sorted(links.items()) if link.wire >= ROSTER_WIRE]

    def _up(self, link: PeerLink) -> None:
        if link.wire >= ROSTER_WIRE:
            link.send(RosterVersion(self._roll.roster.version, self._roll.held))

    def _down(self, link: PeerLink) -> None:
        """Keep nothing for who does not come back: the revoked, the expired, the authority."""
        member = link.member
        if member is None or link.name in self._exchange.links:
            return
        if member.role == AUTHORITY or self._roll.refusal(member):
            self._core.book.drop(link.name)

    def _version(self, link: PeerLink, message: RosterVersion) -> None:
        roll = self._roll
        if message.version < roll.roster.version:
            link.send(RosterNews(roll.blob), asked=True)
        lacking = set(roll.held) - set(message.keys)
        if keys := roll.keys(sorted(lacking)):
            link.send(MeshKeys(keys), asked=True)

    def _news(self, link: PeerLink, message: RosterNews) -> None:
        try:
            fresh = self._roll.adopt(message.roster)
        except FrameError as error:
            self._core.refuse(
                "roster.refused", type(error).__name__, peer=link.name, detail=str(error)
            )
            link.refused()
            return
        except StorageError as error:
            self._core.probe.event("journal.failed", reason=str(error))
            return
        if not fresh:
            return
        roster = self._roll.roster
        self._core.probe.event(
            "roster.adopted", version=roster.version, revoked=len(roster.revoked),
            seals=roster.seals, peer=link.name,
        )  # fmt: skip
        self._judge_links()
        for other in self._linked():
            if other is not link:
                other.send(message)
        self.tick()

    def _keys(self, link: PeerLink, message: MeshKeys) -> None:
        roll = self._roll
        try:
            taken = [key_id for key_id, key in message.keys if roll.take_key(key_id, key)]
        except StorageError as error:
            self._core.probe.event("journal.failed", reason=str(error))
            return
        if not taken:
            return
        self._core.probe.event("keys.taken", keys=taken, peer=link.name)
        for other in self._linked():
            if other is not link:
                other.send(MeshKeys(roll.keys(taken)))
        for raw, source in roll.keyless.take(taken):
            self._ingest.frame(raw, source)
        self.judge_health()

    def _want(self, link: PeerLink, message: WantKeys) -> None:
        if keys := self._roll.keys(message.keys):
            link.send(MeshKeys(keys), asked=True)

    def _judge_links(self) -> None:
        roll = self._roll
        for link in list(self._exchange.links.values()):
            if link.member is not None and (reason := roll.refusal(link.member)):
                self._core.turn_away(link.name, reason)
                link.end(reason)
