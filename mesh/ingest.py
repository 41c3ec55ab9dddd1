"""What comes from peers, on its way in: verify, wait for causes, decode, apply, hand to the
committer.

Rules of this file: synchronous; whatever the bytes, a call returns. A frame that is refused changed
nothing; a frame that is accepted is applied exactly once on every replica, whatever order frames
arrive in.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple, Protocol

from crdt.operation import Transaction
from mesh.core import Core
from mesh.health import PEERS
from mesh.inbox import Arrival, Verdict
from mesh.shards import ShardHost
from persistence.base import FrameError, FrameRecord
from persistence.frame import Header, NotAllowed, UnknownKey, UnknownSession
from persistence.journal import claims, read_transactions
from persistence.sealing import OpenedFrame, OpenedSnapshot

STUCK_S = 60.0
"""A frame that has waited for its causes for this long is named in `health()`."""

Read = tuple[Arrival, Sequence[Transaction] | None]
"""A frame, and what was read in it."""


class Sink(Protocol):
    """Who brings applied frames to disk."""

    def received(self, record: FrameRecord) -> None:
        """A received frame was applied."""


class Reception(Enum):
    """What became of received bytes."""

    TAKEN = "taken"
    DUPLICATE = "duplicate"
    GAPPED = "gapped"
    DROPPED = "dropped"
    UNCERTIFIED = "uncertified"
    REFUSED = "refused"


class Received(NamedTuple):
    """What became of received bytes, and the header in them, if that could be read at all."""

    reception: Reception
    header: Header | None


class Ingest:
    """See the module."""

    def __init__(self, core: Core, sink: Sink) -> None:
        self._core = core
        self._sink = sink
        self._stuck: dict[int, tuple[int, int]] = {}

    def frame(self, raw: bytes, source: str) -> Received:
        """Take a frame in. Everything that it makes applicable is applied before this returns.

        The same frame may come by several ways: a duplicate is verified, and not decrypted again.
        """
        core = self._core
        try:
            verified = core.opener.verify(raw)
            if core.subscription.holds(verified.header.shard):
                core.forks.meet(verified, raw, source)
            if self._is_here(verified.header):
                return Received(Reception.DUPLICATE, verified.header)
            opened = core.opener.decrypt(verified)
        except UnknownSession as error:
            core.refuse("frame.uncertified", type(error).__name__, peer=source)
            return Received(Reception.UNCERTIFIED, error.header)
        except UnknownKey as error:
            core.roll.keyless.park(verified.header, raw, source)
            core.probe.event("frame.keyless", peer=source, key=error.key_id)
            return Received(Reception.GAPPED, verified.header)
        except FrameError as error:
            core.refuse("frame.refused", type(error).__name__, peer=source, detail=str(error))
            return Received(Reception.REFUSED, None)
        return Received(self._offer(opened, raw, source), opened.header)

    def _is_here(self, header: Header) -> bool:
        host = self._core.hosts[header.shard]
        if not self._core.subscription.holds(header.shard):
            return True  # of no use here: passed over as what is here already
        if header.session == self._core.session:
            return header.last <= host.outbox.framed
        if host.inbox.waits(header.session, header.first):
            return True
        return host.lattice.seen(header.session, header.last)

    def _offer(self, opened: OpenedFrame, raw: bytes, source: str) -> Reception:
        core, header = self._core, opened.header
        host = core.hosts[header.shard]
        if header.session == core.session and header.last > host.outbox.framed:
            # Signed with this session's key, yet not by us: this process or its memory was copied.
            core.refuse("frame.forked", "own session", peer=source, shard=host.index)
            return Reception.REFUSED
        transactions = read_transactions(header, opened.body)
        claimed = claims(header, transactions)
        arrival = Arrival(header, opened.hash, raw, source, core.now(), claimed)
        verdict = host.inbox.offer(arrival)
        if verdict is Verdict.READY:
            self.pump(host, (arrival, transactions))
            return Reception.TAKEN
        if verdict is Verdict.DUPLICATE:
            return Reception.DUPLICATE
        if verdict is Verdict.DROPPED:
            core.probe.event("frame.dropped", shard=host.index, session=header.session)
            return Reception.DROPPED
        return Reception.GAPPED

    def pump(self, host: ShardHost, read: Read | None = None) -> None:
        """Apply every frame of this shard whose causes are all here, until it is crowded with
        heads: the committer pumps again once they are absorbed.

        `read`: what was read just now. Frames that had to wait are opened and read again: what is
        in them takes many times their bytes.
        """
        while not host.crowded and (arrival := host.inbox.take()) is not None:
            if read is not None and arrival is read[0]:
                transactions = read[1]
            else:
                # It was verified, so this can't be refused; a session forgotten meanwhile is in no
                # frontier: this is its first frame then, which carries the certificate.
                opened = self._core.opener.unseal(arrival.raw)
                transactions = read_transactions(opened.header, opened.body)
            self._apply(host, arrival, transactions)
            host.inbox.advanced(arrival.session, arrival.last)

    def judge_waiting(self) -> None:
        """Name what has waited too long, in `health()` and as an event: whose frame it is, and what
        it lacks. Others than that session go on meanwhile.
        """
        core = self._core
        found = []
        for host in core.hosts:
            stuck = host.inbox.stuck(core.now() - STUCK_S) if host.inbox.frames else None
            if stuck is None:
                self._stuck.pop(host.index, None)
                continue
            count, arrival, (session, seq) = stuck
            known = core.trust.get(arrival.session)
            reason = (
                f"{count} frames wait in shard {host.index}, the first of session "
                f"{arrival.session}{f' ({known.replica})' if known else ''} at seq "
                f"{arrival.first} for seq {seq} of session {session}"
            )
            found.append(reason)
            if self._stuck.get(host.index) != (arrival.session, arrival.first):
                self._stuck[host.index] = arrival.session, arrival.first
                core.probe.event(
                    "frame.stuck", peer=arrival.source, shard=host.index, session=arrival.session,
                    first=arrival.first, frames=count, reason=reason,
                )  # fmt: skip
        core.health.remark(
            PEERS, "waiting", found[0] if found else "",
            "start the replica that wrote what is waited for; if nobody ever did, the waiting "
            "session's program is wrong or lies: revoke its replica",
        )  # fmt: skip

    def open_snapshot(self, raw: bytes, source: str) -> OpenedSnapshot | None:
        """Verify and open a snapshot that somebody sent; None if it is refused. What is in it is
        not decoded yet.
        """
        core = self._core
        try:
            opened = core.opener.open_snapshot(raw)
            if not opened.maker.snapshots:
                raise NotAllowed(f"{opened.replica} may not give snapshots")
            if reason := core.roll.revocation(opened.maker.certified):
                raise NotAllowed(reason)
        except FrameError as error:
            core.refuse("snapshot.refused", type(error).__name__, peer=source, detail=str(error))
            return None
        return opened

    def certificate(self, data: bytes, source: str) -> int | None:
        """Learn a session's certificate; its session, or None if it is refused."""
        core = self._core
        try:
            return core.trust.learn(data).session
        except FrameError as error:
            core.refuse("frame.refused", type(error).__name__, peer=source, detail=str(error))
            return None

    def _apply(
        self, host: ShardHost, arrival: Arrival, transactions: Sequence[Transaction] | None
    ) -> None:
        core, header = self._core, arrival.header
        if not core.trust.keep(header.session):
            # Forgotten since it was verified: as in `pump`, the frame carries the certificate.
            core.opener.unseal(arrival.raw)
            core.trust.keep(header.session)
        applied = host.apply(arrival, transactions)
        core.note_close(header)
        core.brought(arrival.source, header.last - header.first + 1)
        where = {"shard": host.index, "session": header.session, "first": header.first}
        if applied.forked:
            core.forks.broken(header, arrival.raw, arrival.source)
        if applied.transactions is None:
            core.probe.event("frame.void", peer=arrival.source, **where)
        if not core.clock.observe(header.stamp):
            core.probe.event("clock.drift", stamp=header.stamp, **where)
        for document, _, dot in host.new_conflicts():
            core.probe.event("lattice.conflict", document=document, session=dot[0], seq=dot[1])
        self._sink.received(
            FrameRecord(host.index, header.session, header.first, header.last, False, arrival.raw)
        )
        if core.watchers:
            for transaction in applied.transactions or ():
                core.watchers.transaction(transaction, header.session, mine=False)
