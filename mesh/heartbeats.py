"""Presence at work: our own row is renewed, news is passed on, and who wants to know is told.

Every replica renews its row about once in `replica.presence_interval_s`. What is new since then
goes to every link but the one it came by, all of it in one message; a row whose *content* changed
does not wait for the next beat. So each row crosses each link at most once a beat, whoever it came
from, and a new link is told everything. A peer that does not read is told the newest when it does:
nothing queues up.

A flush that waits for a majority says so in our row; every replica that reads it says in its own
row how far our writes are on its disk. That needs no link between the two.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from crdt.errors import CodecError
from mesh.core import Core
from mesh.dissemination import chosen, jittered
from mesh.environment import LearningDiscovery
from mesh.exchange import Exchange
from mesh.links import PeerLink
from mesh.presence import (
    GONE,
    News,
    PresenceTable,
    Present,
    Said,
    answers,
    encode_data,
    encode_said,
)
from mesh.wire.presence import MAX_PRESENCE_BYTES, MAX_ROWS, PresenceRow
from mesh.wire.presence import Presence as PresenceWord

BEATS = 8
"""A row counts for so many intervals without a new one."""
TTL_MAX_S = 600.0
PROMPT_S, PROMPT_MAX_S = 0.02, 0.2
"""How long changes are gathered before they are sent: longer, the more replicas there are."""
TURNS = 4
"""Of the loop that links get to send the last row."""


@dataclass(frozen=True, slots=True)
class PresenceChange:
    """`present` is what a replica says of itself now; None: it left, or was silent for too long."""

    name: str
    present: Present | None


class PresenceWatcher:
    """An async iterator of `PresenceChange`. Holds at most one a replica: the newest."""

    def __init__(self) -> None:
        self._pending: dict[str, PresenceChange] = {}
        self._wake = asyncio.Event()
        self._closed = False

    def __repr__(self) -> str:
        return f"<PresenceWatcher, {len(self._pending)} waiting>"

    def put(self, change: PresenceChange) -> None:
        """Tell it; what was not read yet of this replica is replaced. Never waits."""
        self._pending[change.name] = change
        self._wake.set()

    def close(self) -> None:
        """End the iteration after what is waiting. Idempotent."""
        self._closed = True
        self._wake.set()

    def __aiter__(self) -> AsyncIterator[PresenceChange]:
        return self

    async def __anext__(self) -> PresenceChange:
        while not self._pending:
            if self._closed:
                raise StopAsyncIteration
            self._wake.clear()
            await self._wake.wait()
        return self._pending.pop(next(iter(self._pending)))


class Majority:
    """Who counts for one `flush`, and who of them has what it waits for. `close` it afterwards."""

    def __init__(
        self,
        table: PresenceTable,
        names: frozenset[str],
        written: Mapping[int, int],
        close: Callable[[], None],
    ) -> None:
        self._table = table
        self._names = names
        self._written = written
        self.of = len(names)
        self.close = close

    def __repr__(self) -> str:
        return f"<Majority of {self.of}>"

    def holders(self, direct: Sequence[str]) -> tuple[str, ...]:
        """The other replicas that have it, sorted; `direct` told so over a link of their own."""
        return tuple(sorted({*direct, *self._table.holders(self._written)} & self._names))

    def reached(self, direct: Sequence[str]) -> bool:
        """Whether more than half of them have it: this replica, and its holders."""
        return 2 * (len(self.holders(direct)) + 1) > self.of


class Heartbeats:
    """See the module. `address`: where others can dial this replica, once it listens."""

    def __init__(self, core: Core, exchange: Exchange, address: Callable[[], str]) -> None:
        self._core = core
        self._exchange = exchange
        self._address = address
        self._interval = core.settings.replica.presence_interval_s
        self._ttl = min(TTL_MAX_S, self._interval * BEATS)
        self._since = core.environment.clock.wall_ms()
        self._rng = core.environment.entropy.stream("mesh.presence")
        self._data = encode_data({})
        shards = core.subscription.shards
        self._keeps = None if shards is None else tuple(sorted(shards))
        self._waits: dict[int, dict[int, int]] = {}
        self._version = self._waiters = 0
        self._renewed = 0.0
        self._owed: dict[PeerLink, dict[str, None]] = {}
        self._wake = asyncio.Event()
        self._watchers: list[weakref.ref[PresenceWatcher]] = []
        self._closed = self._full = False
        self.table = PresenceTable(core.name, core.session)
        self._renew()
        exchange.hear(PresenceWord, self._heard)
        exchange.on_up(self._up)
        exchange.on_down(self._down)

    def __repr__(self) -> str:
        return f"<Heartbeats {self.table!r}, version {self._version}>"

    # ------------------------------------------------------------------ life

    async def run(self) -> None:
        """Beat for as long as the replica lives. Only cancelling ends it."""
        self._renew()  # with the address, now that there is one
        wait = jittered(self._interval, self._rng)
        while True:
            now = self._core.now()
            self._expire(now)
            if now >= self._renewed + wait:
                self._renew()
                self._introduce()
                wait = jittered(self._interval, self._rng)
            self._send(now)
            try:
                async with asyncio.timeout(max(0.0, self._renewed + wait - self._core.now())):
                    await self._wake.wait()
                await asyncio.sleep(self._gather)
            except TimeoutError:
                continue
            self._wake.clear()

    async def answer(self) -> None:
        """Renew our row whenever somebody's wait can be answered with more. Only cancelling ends
        it.
        """
        while True:
            await self._core.waiters.until(self._owes_answers)
            self._renew()
            self._wake.set()
            await asyncio.sleep(self._gather)

    @property
    def _gather(self) -> float:
        return min(PROMPT_MAX_S, PROMPT_S * max(1.0, len(self.table) / 10))

    async def leave(self) -> None:
        """The replica closes: tell everybody who is linked, as far as they read at once."""
        for watcher in self._living():
            watcher.close()
        self._watchers.clear()
        self._closed = True
        self._version += 1
        self._put(GONE)
        self._send(self._core.now())
        for _ in range(TURNS):
            await asyncio.sleep(0)

    # ------------------------------------------------------------------ for the API

    def set(self, data: Mapping[str, Any]) -> None:
        """Say this of ourselves from now on, instead of what was said before."""
        encoded = encode_data(data)
        if encoded != self._data:
            self._data = encoded
            self._renew()
            self._wake.set()

    def get(self, name: str) -> Present | None:
        """The replica of this name, if it is there."""
        return self.table.get(name, self._core.now())

    def all(self) -> list[Present]:
        """Every replica that is there, this one included, by name."""
        now = self._core.now()
        return [one for name in self.table if (one := self.table.get(name, now)) is not None]

    def watch(self) -> PresenceWatcher:
        """Changes from now on."""
        watcher = PresenceWatcher()
        if self._closed:
            watcher.close()
        else:
            self._watchers.append(weakref.ref(watcher, self._watchers.remove))
        return watcher

    # ------------------------------------------------------------------ durability

    def majority(self, written: Mapping[int, int]) -> Majority:
        """Count who is there, and let them know what is waited for until that is closed."""
        core = self._core
        # A peer that is linked and too old to have a row tells directly what it has.
        linked = (
            name
            for name, link in self._exchange.links.items()
            if link.wire < 2 and core.holds(name, written)
        )
        names = {core.name, *linked, *self.table.registered(core.now(), written)}
        self._waiters += 1
        waiter = self._waiters
        if written:
            self._waits[waiter] = dict(written)
            self._renew()
            self._wake.set()

        def close() -> None:
            if self._waits.pop(waiter, None) is not None:
                self._renew()

        return Majority(self.table, frozenset(names), written, close)

    # ------------------------------------------------------------------ rows

    def merge(self, row: PresenceRow, link: PeerLink | None = None) -> None:
        """Take in a row that came by a link, or by the registry. Raises CodecError."""
        news = self.table.merge(row, self._core.now())
        if news is News.NOTHING:
            if link in self._owed and self.table.version(row.replica) == row[2:4]:
                self._owed[link].pop(row.replica, None)  # It has just that row.
            return
        if news is News.NO_ROOM:
            if not self._full:
                self._full = True
                self._core.probe.event("presence.full", replicas=len(self.table))
            return
        for other, owed in self._owed.items():
            if other is not link:
                owed[row.replica] = None
        if news is News.CHANGED:
            self._wake.set()
            self._tell(row.replica)
            self._core.waiters.progress()

    def own(self) -> PresenceRow | None:
        """Our row, for the registry."""
        return self.table.row(self._core.name, self._core.now())

    def _renew(self) -> None:
        if self._closed:
            return
        waits: dict[int, int] = {}
        for written in self._waits.values():
            for shard, seq in written.items():
                waits[shard] = max(seq, waits.get(shard, 0))
        self._said = Said(
            int(self._ttl * 1000), self._address(), self._keeps, waits, self._answers(), self._data
        )
        body = encode_said(self._said)
        if len(body) > MAX_PRESENCE_BYTES:
            # So many shards are waited for at once: those who wait are answered by links.
            body = encode_said(replace(self._said, waits={}, holds={}))
        self._version += 1
        self._renewed = self._core.now()
        self._put(body)

    def _put(self, body: bytes) -> None:
        core = self._core
        before = self.table.row(core.name, core.now())
        left = int(self._ttl * 1000)
        self.table.put(PresenceRow(core.name, self._since, core.session, self._version, left, body))
        for owed in self._owed.values():
            owed[core.name] = None
        if before is None or before.body != body:
            self._tell(core.name)

    def _introduce(self) -> None:
        """Let a few of those who are there be dialled, whoever told us of them."""
        core = self._core
        peers, discovery = core.settings.peers, core.environment.discovery
        if peers.introductions and isinstance(discovery, LearningDiscovery):
            others = (one.address for one in self.all() if one.name != core.name)
            found = chosen(core.name, filter(None, others), peers.dial_max)
            discovery.learn(found, self._ttl)

    def _owes_answers(self) -> bool:
        # Asked at every commit, and nearly always nobody waits.
        waiting = self.table.waiting or bool(self._said.holds)
        return waiting and self._answers() != self._said.holds

    def _answers(self) -> dict[int, dict[int, int]]:
        return answers(self.table.awaited(), [host.journaled for host in self._core.hosts])

    def _expire(self, now: float) -> None:
        for name in self.table.expire(now):
            self._core.probe.event("presence.expired", replica=name)
            self._tell(name)
        self._full = False

    def _send(self, now: float) -> None:
        for link, owed in self._owed.items():
            if not owed or not link.queue.room:
                continue
            rows = [row for name in owed if (row := self.table.row(name, now)) is not None]
            owed.clear()
            for start in range(0, len(rows), MAX_ROWS):
                link.send(PresenceWord(tuple(rows[start : start + MAX_ROWS])))

    # ------------------------------------------------------------------ what links say

    def _up(self, link: PeerLink) -> None:
        if link.wire >= 2:
            self._owed[link] = dict.fromkeys(self.table)
            self._wake.set()

    def _down(self, link: PeerLink) -> None:
        self._owed.pop(link, None)

    def _heard(self, link: PeerLink, message: PresenceWord) -> None:
        for row in message.rows:
            try:
                self.merge(row, link)
            except CodecError as error:
                self._core.refuse(
                    "message.refused", "CodecError", peer=link.name, detail=str(error)
                )
                link.refused()

    # ------------------------------------------------------------------ watchers

    def _tell(self, name: str) -> None:
        living = self._living()
        if living:
            change = PresenceChange(name, self.get(name))
            for watcher in living:
                watcher.put(change)

    def _living(self) -> list[PresenceWatcher]:
        return [watcher for known in self._watchers if (watcher := known()) is not None]


class Presence:
    """`replica.presence`: what replicas say of themselves while they are there, and only then.

    For what matters now and to nobody later: a status, a cursor, free capacity. Nothing of it is
    journaled, none of it survives its replica. News arrives within a fraction of a second per hop;
    a replica that vanishes counts as present for 8 × `replica.presence_interval_s` more. What is
    said of a replica is what it, or a member that passed it on, claims: no proof.
    """

    def __init__(self, beats: Callable[[], Heartbeats]) -> None:
        self._beats = beats

    def __repr__(self) -> str:
        return f"<Presence {self.all()}>"

    def set(self, **data: Any) -> None:
        """Say this instead of what was said before: `replica.presence.set(status="busy")`.

        Values are plain, as in a Register: None, bool, int, float, str, bytes, aware datetime,
        lists and dicts of those. At most 32 fields and 4 KiB. Raises CallerError, InvalidValue;
        nothing changed then.
        """
        self._beats().set(data)

    def clear(self) -> None:
        """Say nothing any more but that this replica is there."""
        self._beats().set({})

    def get(self, name: str) -> Present | None:
        """The replica of this name, if it is there as far as is known here."""
        return self._beats().get(name)

    def all(self) -> list[Present]:
        """Every replica that is known to be there, this one included, by name."""
        return self._beats().all()

    def watch(self) -> PresenceWatcher:
        """An async iterator of `PresenceChange`, from now on; heartbeats that say nothing new are
        none. A reader that lags gets only the newest of each replica. Ends when the replica closes.
        """
        return self._beats().watch()
