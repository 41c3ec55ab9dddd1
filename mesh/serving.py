"""Answering peers that ask: frames of a range from the journal, or a whole shard as a snapshot.

One request of a link is served at a time, and only as fast as the peer reads; memory is one page
per session asked for. What a peer is given a second time over one link is charged to its account.
Frames of several sessions are merged by their stamps, which respect causality, so that the peer's
inbox seldom has to wait.
"""

from __future__ import annotations

import heapq
from collections import deque

from crdt.errors import CallerError
from mesh.committer import Committer
from mesh.core import Core
from mesh.links import PeerLink
from mesh.transfers import KEPT_BYTES, KEPT_S, RESUMES_SINCE, Shelf, Transfer, split_snapshot
from mesh.wire import Certificates, Range, Request, Served, Want, WantRest, WantSnapshot
from persistence.base import FrameError, FrameRecord, StorageError

PAGE_BYTES = 1 << 20
MAX_PAGE = 256
MAX_MERGED = 16
"""Sessions merged at once; more are served in groups, one after the other."""
MAX_GIVEN = 65_536
"""Sessions and shards remembered as given to a peer; the one asked for longest ago is forgotten."""
_SNAPSHOT = 0
"""No session has this number."""


class _Run:
    """The frames of one session in a range, a page at a time, with the stamp of the next.
    `given`: up to where the peer was given them before.
    """

    def __init__(self, core: Core, shard: int, wanted: Range, given: int) -> None:
        self.given = given
        self._core = core
        self._shard = shard
        self._wanted = wanted
        self._page: deque[FrameRecord] = deque()
        self._limit = 2
        self._reached = wanted.after
        self._more = True
        self.hole = False

    async def next(self) -> tuple[int, FrameRecord] | None:
        """The next frame and its stamp; None at the end of the range or at a hole (`hole`)."""
        wanted = self._wanted
        if not self._page and self._more and self._reached < wanted.upto:
            records = await self._core.environment.journal.frames(
                self._shard, wanted.session, self._reached, wanted.upto, self._limit
            )
            self._page.extend(records)
            self._more = len(records) == self._limit
            if records:
                # How large frames are is known now: the next page takes about PAGE_BYTES.
                size = sum(len(record.data) for record in records) // len(records)
                self._limit = max(1, min(MAX_PAGE, PAGE_BYTES // size))
        if not self._page:
            # Missing ones are a hole only if they were here once.
            had = self._core.hosts[self._shard].journaled.get(wanted.session, 0)
            self.hole = self._reached < min(wanted.upto, had)
            return None
        record = self._page.popleft()
        if record.first > self._reached + 1:
            self.hole = True
            return None
        self._reached = max(self._reached, record.last)
        try:
            return self._core.opener.header(record.data).stamp, record
        except (
            FrameError
        ) as error:  # the journal's checksum held: this is our bug or a tampered disk
            raise StorageError(f"a journaled frame is no frame: {error}") from error


class Serving:
    """See the module."""

    def __init__(self, core: Core, committer: Committer) -> None:
        self._core = core
        self._committer = committer
        self._transfers = 0
        self._kept: Shelf[int, Transfer] = Shelf(KEPT_BYTES, KEPT_S)

    async def serve(self, link: PeerLink, request: Request) -> None:
        """Answer one request. A disk that can't be read leaves it unanswered: the peer asks
        others.
        """
        try:
            if isinstance(request, Want):
                await self._frames(link, request)
            elif self._core.roll.own.gives_snapshots:  # else the peer would refuse it
                await self._snapshot(link, request)
        except (StorageError, CallerError) as error:
            self._core.probe.event("journal.failed", reason=str(error))

    async def _frames(self, link: PeerLink, request: Want) -> None:
        holes, count, size = False, 0, 0
        journaled = self._core.hosts[request.shard].journaled
        # Of what was never here nothing is looked for.
        ranges = [one for one in request.ranges if journaled.get(one.session, 0) > one.after]
        for start in range(0, len(ranges), MAX_MERGED):
            group = ranges[start : start + MAX_MERGED]
            self._certify(link, [wanted.session for wanted in group])
            runs = [
                _Run(self._core, request.shard, wanted, self._give(link, request.shard, wanted))
                for wanted in group
            ]
            merged = await self._merge(link, runs)
            count, size = count + merged[0], size + merged[1]
            holes = holes or any(run.hole for run in runs)
        link.send(Served(request.shard, holes))
        self._core.probe.event(
            "repair.served", peer=link.name, shard=request.shard, bytes=size, frames=count,
            holes=holes,
        )  # fmt: skip
        if holes:
            self._core.probe.event("repair.pruned", peer=link.name, shard=request.shard)

    async def _merge(self, link: PeerLink, runs: list[_Run]) -> tuple[int, int]:
        """Send the frames of all runs; how many, and their bytes."""
        heap: list[tuple[int, int, FrameRecord]] = []
        for index, run in enumerate(runs):
            if (found := await run.next()) is not None:
                heapq.heappush(heap, (found[0], index, found[1]))
        count, size = 0, 0
        while heap:
            _, index, record = heapq.heappop(heap)
            await link.room()
            link.push(record.data, asked=True)
            if record.last <= runs[index].given:
                link.account.again(len(record.data), self._core.now())
            count, size = count + 1, size + len(record.data)
            if (found := await runs[index].next()) is not None:
                heapq.heappush(heap, (found[0], index, found[1]))
        return count, size

    def _certify(self, link: PeerLink, sessions: list[int]) -> None:
        fresh = [session for session in sessions if session not in link.certified]
        certificates = self._core.trust.certificates(fresh)
        if certificates:
            link.send(Certificates(tuple(certificates)))
        link.certify(one for one in fresh if self._core.trust.get(one) is not None)

    def _give(self, link: PeerLink, shard: int, wanted: Range) -> int:
        """Note what the peer is given; up to where it was given this session before."""
        before = link.given.pop((shard, wanted.session), 0)
        link.given[shard, wanted.session] = max(before, wanted.upto)
        if len(link.given) > MAX_GIVEN:
            del link.given[next(iter(link.given))]
        if wanted.after < before:
            link.account.again(0, self._core.now())  # Whether frames of it are still here or not.
        return before

    async def _snapshot(self, link: PeerLink, request: WantSnapshot | WantRest) -> None:
        shard, kept, first = request.shard, self._kept.get(request.shard), 0
        if isinstance(request, WantRest) and kept and kept.number == request.transfer:
            transfer, first = kept, request.index
        else:
            data = await self._committer.snapshot(self._core.hosts[shard])
            self._transfers += 1
            transfer = Transfer(self._transfers, data)
            if link.wire >= RESUMES_SINCE:
                self._kept.put(shard, transfer, len(data), self._core.now())
                self.trim()
        again = self._give(link, shard, Range(_SNAPSHOT, 0, 1))
        parts, size = 0, 0
        for part in split_snapshot(shard, transfer, first):
            await link.room()
            link.send(part)
            self._kept.touch(shard, self._core.now())
            parts, size = parts + 1, size + len(part.data)
        if again:
            link.account.snapshot_again(size, self._core.now())
        self._core.probe.sometimes("a snapshot is served")
        self._core.probe.event(
            "repair.served", peer=link.name, shard=shard, bytes=size, parts=parts
        )

    def trim(self) -> None:
        """Give up sealed snapshots that nobody came back for. To be called now and then."""
        for shard, size in self._kept.trim(self._core.now()):
            self._core.probe.event("snapshot.dropped", shard=shard, bytes=size)
