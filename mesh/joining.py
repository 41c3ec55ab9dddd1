"""Whole shards from others, on their way in: decoded and built in a thread, joined at a cut.

A snapshot of a million entries takes seconds to decode and to hash. So that the event loop goes on
meanwhile, that is done in a thread, one snapshot at a time; where nothing was applied here yet, the
thread builds the whole shard, and the cut only has to adopt it. Where something was, the cut joins
the two, which takes one comparison a document and what differs; one such join a cut.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

from crdt.errors import CodecError
from crdt.lattice import Shard
from crdt.snapshot import ShardSnapshot, decode_snapshot
from mesh.committer import Committer
from mesh.core import Core
from mesh.ingest import Ingest
from persistence.base import FrameError
from persistence.frame import UnknownSession
from persistence.journal import uncollected
from persistence.sealing import OpenedSnapshot

LARGE_BYTES = 256 << 10
"""A decoded body of this size makes so many objects that the garbage collector is kept from walking
through them while they are made."""


@dataclass(frozen=True, slots=True)
class Incoming:
    """A snapshot that was verified and decoded. `fresh` is the shard it amounts to, where nothing
    was applied here when that was built.
    """

    opened: OpenedSnapshot
    snapshot: ShardSnapshot
    fresh: Shard | None


@dataclass(frozen=True, slots=True)
class _Waiting:
    raw: bytes
    source: str
    refused: Callable[[], None]


class Joining:
    """See the module. `run` is one task."""

    def __init__(self, core: Core, ingest: Ingest, committer: Committer) -> None:
        self._core = core
        self._ingest = ingest
        self._committer = committer
        self._waiting: dict[int, _Waiting] = {}  # at most one a shard
        self._wake = asyncio.Event()
        self._one = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<Joining, {len(self._waiting)} snapshots wait>"

    def waits(self, shard: int) -> bool:
        """Whether a snapshot of this shard is here already and not joined yet."""
        return shard in self._waiting

    def offer(self, shard: int, raw: bytes, source: str, refused: Callable[[], None]) -> None:
        """Take a peer's snapshot in, soon; `refused` is called if it is not what it should be."""
        self._waiting[shard] = _Waiting(raw, source, refused)
        self._wake.set()

    async def run(self) -> None:
        """Take in what is offered, one after the other. Only cancelling ends it."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                shard, waiting = next(iter(self._waiting.items()))
                taken = await self.take(shard, waiting.raw, waiting.source)
                if self._waiting.get(shard) is waiting:
                    del self._waiting[shard]
                if not taken:
                    waiting.refused()

    async def take(self, shard: int, raw: bytes, source: str) -> bool:
        """Have a snapshot of this shard joined at the next cut; False if it is refused."""
        incoming = await self.incoming(raw, source)
        if incoming is None:
            return False
        if incoming.opened.shard != shard:
            self._core.refuse(
                "snapshot.refused", "OtherShard", peer=source,
                detail=f"of shard {incoming.opened.shard}, where {shard} was asked for",
            )  # fmt: skip
            return False
        host = self._core.hosts[shard]
        await self._core.waiters.until(lambda: host.loaded)
        self._committer.join(host, incoming.snapshot, incoming.opened, source, incoming.fresh)
        return True

    async def incoming(self, raw: bytes, source: str) -> Incoming | None:
        """Verify and decode a snapshot; None if it is refused. Nothing is joined yet."""
        core = self._core
        opened = self._ingest.open_snapshot(raw, source)
        if opened is None:
            return None
        empty = core.hosts[opened.shard].lattice.is_empty
        key = core.identity.mesh.digest_key if empty else None
        large = len(opened.body) >= LARGE_BYTES and core.settings.replica.gc_freeze
        try:
            async with self._one:
                with uncollected() if large else nullcontext():
                    return await asyncio.to_thread(_built, opened, key)
        except (FrameError, CodecError) as error:
            core.refuse("snapshot.refused", type(error).__name__, peer=source, detail=str(error))
            return None


def _built(opened: OpenedSnapshot, key: bytes | None) -> Incoming:
    """Decoded; with a digest key, as a shard of its own, too. Raises FrameError, CodecError."""
    snapshot = decode_snapshot(opened.body)
    if not opened.certificates.keys() >= snapshot.frontier.keys():
        # What we journal on top of it could not be verified when it is read back.
        raise UnknownSession("a snapshot without the certificates of all its sessions")
    fresh = None
    if key is not None:
        fresh = Shard(key)
        fresh.join(snapshot)
        fresh.digest()  # computed here, remembered there
    return Incoming(opened, snapshot, fresh)
