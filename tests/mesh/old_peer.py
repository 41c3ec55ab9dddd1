"""A replica of wire version 1, as far as others can tell: all it says and understands goes through
the frozen codec. It keeps its state in memory and answers as programs of version 1 did.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

from crdt.frontier import flat, from_flat, frontier_hash, missing
from crdt.lattice import Shard
from crdt.operation import Operation, void
from crdt.snapshot import decode_snapshot
from mesh.environment import Link, LinkClosed
from persistence.base import FrameRecord
from persistence.sealing import Sealer
from tests.mesh import frozen_wire_1 as wire
from tests.mesh.frozen_wire_1 import NotVersion1, Word, decode, encode
from tests.mesh.world import World
from tests.persistence.world import Writer, transaction

PARTS = 3
"""Its snapshots travel in so many."""


class OldPeer:
    """See the module. `newest` is what it pretends to speak; what it understands is version 1."""

    def __init__(self, world: World, name: str, oldest: int = 1, newest: int = 1) -> None:
        identity = world.identity(name)
        key = identity.new_session(world.clock, world.entropy)
        shards = {index: Shard(identity.mesh.digest_key) for index in range(identity.mesh.shards)}
        self.name = name
        self.session = key.session
        self.writer = Writer(identity, Sealer(identity, key), shards)
        self.hello = wire.Hello(
            oldest, newest, identity.mesh.id, name, key.session, key.certificate, []
        )
        self.heard: Counter[str] = Counter()
        self.unknown: list[str] = []
        """What it was told and did not understand: nobody may say such a thing to it."""
        self.farewell = ""
        self.journaled: dict[int, dict[int, int]] = {}
        """{shard: {session: seq}} that the other side said to have on disk."""
        self._transport = world.network.transport(name)
        self._records: dict[int, list[FrameRecord]] = {index: [] for index in shards}
        self._parts: list[bytes] = []
        self._link: Link

    def frontier(self) -> dict[int, dict[int, int]]:
        return {index: dict(shard.frontier) for index, shard in self.writer.shards.items()}

    def digest(self) -> dict[int, str]:
        return {index: shard.digest().hex() for index, shard in self.writer.shards.items()}

    @asynccontextmanager
    async def linked(self, address: str) -> AsyncIterator[None]:
        """Dial, greet, and converse until the end of the block."""
        await self.greet(await self._transport.dial(address))
        conversing = asyncio.ensure_future(self._converse())
        try:
            yield
        finally:
            conversing.cancel()
            await asyncio.wait([conversing])
            await self._link.close()
            if not conversing.cancelled():
                conversing.result()

    async def greet(self, link: Link) -> None:
        self._link = link
        await self.say(self.hello)

    async def say(self, *words: Word) -> None:
        for word in words:
            await self._link.send(encode(word))

    def write(self, document: str, value: str, shard: int, nothings: int = 0) -> Word:
        """Write a frame; the word that tells it. `nothings`: operations in it without effect."""
        made = transaction(document, value)
        changes: tuple[Operation, ...] = (*made.operations, *[void(document)] * nothings)
        draft = self.writer.draft(shard, [made._replace(operations=changes)])
        (raw,) = self.writer.sealer.seal([draft])
        self._take(raw)
        return wire.Frames([raw])

    async def _converse(self) -> None:
        try:
            while not self.farewell:
                data = await self._link.receive()
                try:
                    word = decode(data)
                except NotVersion1 as fault:
                    self.unknown.append(str(fault))
                    continue
                self.heard[type(word).__name__] += 1
                await self.say(*self._answers(word))
        except LinkClosed:
            return

    def _answers(self, word: Word) -> Iterator[Word]:
        match word:
            case wire.Hello():
                rows = [self._row(shard) for shard in self.writer.shards]
                yield wire.Summary(rows)
            case wire.Bye():
                self.farewell = word.reason
            case wire.Certificates():
                for certificate in word.certificates:
                    self.writer.opener.trust.learn(certificate)
            case wire.WantCertificates():
                yield wire.Certificates([self.hello.certificate])
            case wire.Frames():
                for raw in word.frames:
                    self._take(raw)
                yield wire.Journaled([part for pair in self._flat() for part in pair])
            case wire.Journaled():
                pairs = zip(word.shards[::2], word.shards[1::2], strict=True)
                for shard, known in pairs:
                    self.journaled.setdefault(shard, {}).update(from_flat(known))
            case _:
                yield from self._repairs(word)

    def _repairs(self, word: Word) -> Iterator[Word]:
        match word:
            case wire.Summary():
                for row in word.rows:
                    if row != self._row(row[0]):
                        yield self._frontier(row[0], reply=True)
            case wire.Frontier():
                if word.reply:
                    yield self._frontier(word.shard, reply=False)
                have = self.writer.shards[word.shard].frontier
                if ranges := missing(have, from_flat(word.frontier)):
                    yield wire.Want(word.shard, [list(one) for one in ranges])
            case wire.Want():
                wanted = {session: (after, upto) for session, after, upto in word.ranges}
                yield wire.Frames([
                    record.data for record in self._records[word.shard]
                    if _within(record, wanted.get(record.session, (0, 0)))
                ])  # fmt: skip
                yield wire.Served(word.shard, False)
            case wire.Served() if word.pruned:
                yield wire.WantSnapshot(word.shard)
            case wire.WantSnapshot():
                yield from self._snapshot(word.shard)
            case wire.SnapshotPart():
                self._part(word)

    def _flat(self) -> Iterator[tuple[int, list[int]]]:
        for index, frontier in self.frontier().items():
            yield index, flat(frontier)

    def _row(self, shard: int) -> list[Any]:
        state = self.writer.shards[shard]
        return [shard, 0, frontier_hash(state.frontier, 0), state.digest(), 0]

    def _frontier(self, shard: int, *, reply: bool) -> Word:
        state = self.writer.shards[shard]
        return wire.Frontier(
            shard, 0, 0, state.entry_count, reply, state.digest(), flat(state.frontier)
        )

    def _take(self, raw: bytes) -> None:
        """Apply a frame whose causes are here; others are found again by comparing frontiers."""
        header = self.writer.opener.verify(raw).header
        state = self.writer.shards[header.shard]
        causes = (*header.deps, (header.session, header.first - 1))
        if state.seen(header.session, header.last):
            return
        if all(seq == 0 or state.seen(session, seq) for session, seq in causes):
            own = header.session == self.session
            record = FrameRecord(header.shard, header.session, header.first, header.last, own, raw)
            self._records[header.shard].append(self.writer.receive(record))

    def _snapshot(self, shard: int) -> Iterator[Word]:
        data = self.writer.snapshot(shard, 0).data
        size = -(-len(data) // PARTS)
        for index in range(PARTS):
            piece = data[index * size : (index + 1) * size]
            yield wire.SnapshotPart(shard, 1, index, PARTS, piece)

    def _part(self, part: Any) -> None:
        assert part.number == (len(self._parts) if part.number else 0)
        self._parts = [*self._parts[: part.number], part.data]
        if len(self._parts) == part.total:
            opened = self.writer.opener.open_snapshot(b"".join(self._parts))
            assert opened.shard == part.shard
            self.writer.shards[opened.shard].join(decode_snapshot(opened.body))
            self.writer.chain.setdefault(opened.shard, {}).update(opened.chain)


def _within(record: FrameRecord, wanted: tuple[int, int]) -> bool:
    after, upto = wanted
    return record.last > after and record.first <= upto
