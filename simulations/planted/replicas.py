"""Bugs planted in replicas: for `planted.plants`, each made from what is really there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from crdt import Counter
from crdt.clock import COUNTER_BITS, HybridClock
from crdt.operation import Transaction
from crdt.snapshot import decode_snapshot, encode_snapshot
from mesh.committer import Committer
from mesh.core import Core
from mesh.exchange import Exchange
from mesh.forks import Forks
from mesh.heartbeats import Heartbeats
from mesh.inbox import Arrival, Inbox
from mesh.repair import Comparison, Plan
from mesh.replica import Replica
from mesh.services.bus import BusFeed
from mesh.services.checkpoints import CheckpointFeed
from mesh.services.delivery import Delivery
from mesh.services.log import LogFeed
from mesh.services.registry import Registry
from mesh.services.shared import Services
from mesh.shards import ShardHost, TakenSnapshot
from mesh.wire import Frontier
from persistence.base import FrameRecord
from persistence.certificates import Trust
from persistence.checkpointer import Capture
from persistence.identity import Identity
from persistence.sealing import Opener, VerifiedFrame
from simulations.agents.clients import Ledger
from simulations.ports.hosts import SimEntropy


def always_on_disk(real: Any) -> Any:
    del real

    def on_disk(self: Core, written: Mapping[int, int]) -> bool:
        del self, written
        return True

    return on_disk


def tells_at_the_cut(real: Any) -> Any:
    def cut(self: Committer) -> Any:
        work = real(self)
        self._outlet.durable([record for record in work.records if record.own])
        return work

    return cut


def acknowledges_on_receipt(real: Any) -> Any:
    def received(self: Committer, record: FrameRecord) -> None:
        real(self, record)
        self._outlet.durable([record])

    return received


def same_session(real: Any) -> Any:
    del real

    def fresh(environment: Any, identity: Identity, recovered: Any) -> Any:
        del recovered
        return identity.new_session(environment.clock, SimEntropy(0, identity.replica, 0))

    return fresh


def goes_on_counting(real: Any) -> Any:
    def init(self: ShardHost, index: int, session: int, lattice: Any, **bounds: Any) -> None:
        real(self, index, session, lattice, **bounds)
        self.outbox.written = self.outbox.framed = lattice.frontier.get(session, 0)

    return init


def own_past_is_enough(real: Any) -> Any:
    del real

    def unmet(self: Inbox, arrival: Arrival) -> Any:
        before = arrival.session, arrival.first - 1
        return before if arrival.first > 1 and not self._seen(*before) else None

    return unmet


def adds_only(real: Any) -> Any:
    def apply(self: ShardHost, arrival: Arrival, transactions: Any) -> Any:
        kept = transactions and [without_removals(one) for one in transactions]
        return real(self, arrival, kept)

    return apply


def without_removals(transaction: Transaction) -> Transaction:
    operations = tuple(one._replace(removals=()) for one in transaction.operations)
    return transaction._replace(operations=operations)


def one_operation_ahead(real: Any) -> Any:
    def snapshot(self: ShardHost, certificates: Sequence[bytes], stamp: int) -> TakenSnapshot:
        taken: TakenSnapshot = real(self, certificates, stamp)
        session, last = max(taken.state.frontier.items(), default=(0, 0))
        if last < 2:
            return taken
        frontier = {**taken.state.frontier, session: last + 1}
        state = replace(taken.state, frontier=frontier)
        return replace(taken, state=state)

    return snapshot


def never_compares(real: Any) -> Any:
    del real

    def compare(self: Exchange, link: Any, row: Any) -> None:
        del self, link, row

    return compare


def looks_at_frontiers(real: Any) -> Any:
    def compare(mine: Any, theirs: Any) -> Comparison:
        found: Comparison = real(mine, theirs)
        return Comparison.EQUAL if found is Comparison.CORRUPT else found

    return compare


def wants_whole_shards(real: Any) -> Any:
    def plan(live: Mapping[int, int], floor: int, theirs: Frontier) -> Plan:
        found: Plan = real(live, floor, theirs)
        return replace(found, ranges=(), snapshot=True) if found.missing else found

    return plan


def counts_before_it_sends(real: Any) -> Any:
    async def deliver(
        self: Delivery, epoch: int, position: int, records: Sequence[FrameRecord]
    ) -> None:
        if self._epoch == epoch:
            self.cursor = max(self.cursor, position)
            self._delivered(records)
        await real(self, epoch, position, records)

    return deliver


def forgets_for_services(real: Any) -> Any:
    del real

    def keep(
        self: Services, shard: int, upto: Mapping[int, int], *, pressed: bool
    ) -> dict[int, int]:
        del self, shard, pressed
        return dict(upto)

    return keep


def knows_no_log(real: Any) -> Any:
    def init(self: Registry, core: Core, feed: BusFeed, beats: Heartbeats, logged: Any) -> None:
        del logged
        real(self, core, feed, beats, None)

    return init


def knows_no_generation(real: Any) -> Any:
    del real

    def changed(self: BusFeed, generation: str) -> bool:
        self._generation = generation
        return False

    return changed


def looks_at_offsets(real: Any) -> Any:
    async def meet(self: LogFeed) -> None:
        self._last.clear()
        await real(self)

    return meet


def claims_one_more(real: Any) -> Any:
    async def capture(self: CheckpointFeed, shard: int) -> Capture:
        taken: Capture = await real(self, shard)
        mesh, sealer = self._core.identity.mesh, self._core.sealer
        opened = Opener(mesh, Trust(mesh)).open_snapshot(taken.data)
        state = decode_snapshot(opened.body)
        session, last = max(state.frontier.items())
        body = encode_snapshot(replace(state, frontier={**state.frontier, session: last + 1}))
        certificates = list(opened.certificates.values())
        data = sealer.seal_snapshot(shard, body, certificates, opened.chain, opened.stamp)
        return replace(taken, data=data)

    return capture


def takes_any_history(real: Any) -> Any:
    def apply(self: ShardHost, arrival: Arrival, transactions: Any) -> Any:
        return replace(real(self, arrival, transactions), forked=False)

    return apply


def never_looks(real: Any) -> Any:
    del real

    def meet(self: Forks, frame: VerifiedFrame, raw: bytes, source: str) -> None:
        del self, frame, raw, source

    return meet


def adds_twice(real: Any) -> Any:
    def assign(self: Counter, access: Any, document: str, path: bytes, value: int) -> None:
        change = value - self.view(access, document, path)
        real(self, access, document, path, value + change)

    return assign


class _Old:
    """A document as it was."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def snapshot(self) -> Mapping[str, Any]:
        return self._values


def answers_from_before(real: Any) -> Any:
    def get(self: Replica, cls: Any, name: str) -> Any:
        view = real(self, cls, name)
        if cls is not Ledger:
            return view
        kept = self.__dict__.setdefault("kept reads", {})
        old = kept.pop(name, None)
        if view is None or old is not None:
            return old and _Old(old)
        kept[name] = view.snapshot()
        return view

    return get


def shows_the_wall(real: Any) -> Any:
    del real

    def now(self: HybridClock) -> int:
        return self._wall_ms() << COUNTER_BITS

    return now
