"""The registry on the bus: who is there and where, and how far each of its readers has read.

Rows are sealed with the mesh's key, so that whoever else reads or writes the server learns nothing
from them and can add none. They expire by themselves. What they are good for:

- presence reaches replicas that only the bus joins;
- addresses in the rows are hints for whom to dial;
- streams are trimmed below what every live reader has on its disk and, if there is a log, what the
  log has. A reader counts as live for `READER_S` after its last word. What it names is always some
  entries behind what it read, so that the bus keeps at least those (`KEPT`): that is how a reader
  who was thought dead is still told that entries were trimmed.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from crdt.errors import CodecError
from crdt.frontier import covers
from crdt.structure import pack, unpack
from mesh.core import Core
from mesh.dissemination import jittered
from mesh.heartbeats import Heartbeats
from mesh.services.bus import BusFeed
from mesh.wire.codec import blob, items, number, shard_index, text
from mesh.wire.presence import MAX_LEFT_MS, MAX_PRESENCE_BYTES
from mesh.wire.presence import row as presence_row
from persistence.base import Entropy, ServiceUnavailable
from persistence.genesis import Genesis, derive
from persistence.limits import MAX_KEY_ID, MAX_SHARDS

WORK = "registry"
READER_S = 600.0
"""For how long after its last word a reader counts as live."""
TRIM_S = 10.0
"""How often readers say how far they are."""
KEPT = 128
"""Entries of a stream that are left whoever has read them; more than `redis.KEPT_AT_LEAST`."""
AT_ONCE = 50
"""Replicas up to which the registry is read once a heartbeat; of more, more seldom."""
LEAVE_S = 1.0
READER = "reader/"
"""What no replica's name can start with."""
_KEY = b"statemesh presence"
_NONCE_BYTES = 12
_MAX_ROW_BYTES = MAX_PRESENCE_BYTES + 1024


class RowSealer:
    """Seals rows with the mesh's current key; opens those of any key there is."""

    def __init__(self, mesh: Genesis, entropy: Entropy) -> None:
        self._mesh = mesh
        self._entropy = entropy
        self._ciphers: dict[int, AESGCM] = {}

    def __repr__(self) -> str:
        return f"<RowSealer with key {self._mesh.key_id}>"

    def seal(self, name: str, row: bytes) -> bytes:
        """The row as the bus is given it; it opens under this name only."""
        key_id, nonce = self._mesh.key_id, self._entropy.token(_NONCE_BYTES)
        return pack([key_id, nonce, self._cipher(key_id).encrypt(nonce, row, name.encode())])

    def open(self, name: str, sealed: bytes) -> bytes:
        """What was sealed under this name. Raises CodecError: it is not of this mesh."""
        parts = unpack(sealed, max_bytes=_MAX_ROW_BYTES * 16)
        if type(parts) is not tuple or len(parts) != 3:
            raise CodecError("a sealed row has three parts")
        key_id, nonce = number(parts[0], MAX_KEY_ID), blob(parts[1], _NONCE_BYTES)
        if key_id not in self._mesh.keys or len(nonce) != _NONCE_BYTES:
            raise CodecError(f"a row sealed with key {key_id}, which is not here")
        try:
            return self._cipher(key_id).decrypt(nonce, blob(parts[2]), name.encode())
        except InvalidTag:
            raise CodecError("a row that no member sealed") from None

    def _cipher(self, key_id: int) -> AESGCM:
        if key_id not in self._ciphers:
            mesh = self._mesh
            self._ciphers[key_id] = AESGCM(derive(mesh.keys[key_id], mesh.id, _KEY))
        return self._ciphers[key_id]


@dataclass(frozen=True, slots=True)
class _Mark:
    """Where a shard's stream was read to, after how many entries, and what was on disk then."""

    position: str
    count: int
    frontier: Mapping[int, int]


class Registry:
    """See the module. `logged(shard)`: the log's frontier; None if there is no log."""

    def __init__(
        self,
        core: Core,
        feed: BusFeed,
        beats: Heartbeats,
        logged: Callable[[int], Mapping[int, int]] | None,
    ) -> None:
        self._core = core
        self._feed = feed
        self._beats = beats
        self._logged = logged
        self._sealer = RowSealer(core.identity.mesh, core.environment.entropy)
        self._rng = core.environment.entropy.stream("mesh.registry")
        self._marks: dict[int, _Mark] = {}
        self._places: dict[int, str] = {}
        self._era: tuple[str, int] = ("", 0)
        self._refused: set[str] = set()

    def __repr__(self) -> str:
        return f"<Registry of {len(self._beats.table)} replicas>"

    async def run(self) -> None:
        """Announce, look who else is there, trim. Only cancelling ends it."""
        base = self._core.settings.replica.presence_interval_s
        trim_at = 0.0
        while True:
            pause = base * max(1.0, len(self._beats.table) / AT_ONCE)
            await self._feed.condition.insist(WORK, functools.partial(self._meet, pause))
            if self._core.now() >= trim_at:
                await self._feed.condition.insist(WORK, self._trim)
                trim_at = self._core.now() + jittered(TRIM_S, self._rng)
            await asyncio.sleep(jittered(pause, self._rng))

    async def leave(self) -> None:
        """The replica closed: let the others know, if the bus is there."""
        if self._feed.condition.down:
            return
        try:
            async with asyncio.timeout(LEAVE_S):
                await self._announce(0.0)
                await self._feed.bus.announce(READER + self._core.name, b"", ttl_s=1.0)
        except (ServiceUnavailable, TimeoutError):
            self._core.probe.sometimes("left without a word on the bus")

    # ------------------------------------------------------------------ presence

    async def _announce(self, pause: float) -> None:
        own = self._beats.own()
        if own is None:
            return
        # It has to last until it is next announced, whatever else is slow.
        left = min(MAX_LEFT_MS, max(own.left_ms, int(4000 * pause)))
        sealed = self._sealer.seal(own.replica, pack(own._replace(left_ms=left)))
        await self._feed.bus.announce(own.replica, sealed, ttl_s=left / 1000)

    async def _meet(self, pause: float) -> None:
        await self._announce(pause)
        found = await self._feed.bus.announced("")
        for name, sealed in found.items():
            if name == self._core.name or name.startswith(READER):
                continue
            try:
                # A row opens only under the name that its writer sealed it for.
                self._beats.merge(presence_row(unpack(self._sealer.open(name, sealed))))
            except CodecError as error:
                self._refuse(name, str(error))
            else:
                self._refused.discard(name)

    def _refuse(self, name: str, reason: str) -> None:
        """Once for each name, until a good row comes; the server may be full of bad ones."""
        if name not in self._refused and len(self._refused) < AT_ONCE:
            self._refused.add(name)
            self._core.refuse("presence.refused", "CodecError", replica=name, detail=reason)

    # ------------------------------------------------------------------ trimming

    async def _trim(self) -> None:
        """Say how far we are; the first of the readers, by name, trims for all."""
        core, feed = self._core, self._feed
        self._advance()
        places = [[shard, self._places.get(shard, "")] for shard in sorted(feed.counts)]
        name = READER + core.name
        row = self._sealer.seal(name, pack([feed.generation, places]))
        await feed.bus.announce(name, row, ttl_s=READER_S)
        if not feed.generation:
            return
        readers: dict[str, dict[int, str]] = {}
        for name, sealed in (await feed.bus.announced(READER)).items():
            try:
                generation, places_read = _reading(self._sealer.open(name, sealed))
            except CodecError as error:
                self._refuse(name, str(error))
                continue
            # Whoever knows other data has not read any of this.
            same = generation == feed.generation
            readers[name] = places_read if same else dict.fromkeys(places_read, "")
        if not readers or min(readers) != READER + core.name:
            return
        below: dict[int, list[str]] = {}
        for shard in sorted(feed.counts):
            of_all = [read[shard] for read in readers.values() if shard in read]
            if all(of_all):
                below[shard] = of_all
        if below:
            await feed.bus.trim(below, generation=feed.generation)

    def _advance(self) -> None:
        """Move the places that entries before are not needed any more by us."""
        core, feed = self._core, self._feed
        if self._era != (feed.generation, feed.tail.moves):
            self._era = (feed.generation, feed.tail.moves)
            self._marks.clear()
            self._places.clear()
        safe = feed.tail.safe()
        for shard, count in feed.counts.items():
            mark = self._marks.get(shard)
            if mark is not None and count - mark.count >= KEPT:
                logged = None if self._logged is None else self._logged(shard)
                if logged is None or covers(logged, mark.frontier):
                    self._places[shard] = mark.position
                    mark = None
            if mark is None and safe[shard]:
                frontier = {} if self._logged is None else dict(core.hosts[shard].journaled)
                self._marks[shard] = _Mark(safe[shard], count, frontier)


def _reading(data: bytes) -> tuple[str, dict[int, str]]:
    """The generation a reader knows, and what it no longer needs anything before."""
    parts = unpack(data)
    if type(parts) is not tuple or len(parts) != 2:
        raise CodecError("a reader has two fields")
    places = [items(one, 2) for one in items(parts[1], MAX_SHARDS)]
    if any(len(one) != 2 for one in places):
        raise CodecError("a shard without its position")
    return text(parts[0]), {shard_index(shard): text(place) for shard, place in places}
