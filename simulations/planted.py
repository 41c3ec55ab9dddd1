"""Bugs planted on purpose, to see that the simulator finds them: each patches one thing of the
production code for as long as a run lasts.

    mesh simulate swarm --plant ack-before-fsync --seeds 0:100

A simulator that finds nothing proves nothing until it has found these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from crdt import Counter
from crdt.clock import COUNTER_BITS, HybridClock
from crdt.errors import CallerError
from crdt.operation import Transaction
from crdt.snapshot import decode_snapshot, encode_snapshot
from crdt.types.bounded import BoundedEditor
from mesh import exchange, recovery
from mesh.committer import Committer
from mesh.core import Core
from mesh.exchange import Exchange
from mesh.heartbeats import Heartbeats
from mesh.inbox import Arrival, Inbox
from mesh.repair import Comparison
from mesh.replica import Replica
from mesh.services.bus import BusFeed
from mesh.services.checkpoints import CheckpointFeed
from mesh.services.delivery import Delivery
from mesh.services.registry import Registry
from mesh.services.shared import Services
from mesh.shards import ShardHost, TakenSnapshot
from persistence.base import FrameRecord
from persistence.certificates import Trust
from persistence.checkpointer import Capture
from persistence.identity import Identity
from persistence.sealing import Opener
from simulations.clients import Ledger
from simulations.hosts import SimEntropy
from simulations.planted_decisions import (
    acts_first,
    forgets_answers,
    ignores_tokens,
    needs_no_right,
    never_fences,
)
from workflows import claims, machine
from workflows.decider import Decider

__all__ = ("PLANTS", "Plant", "planted")


@dataclass(frozen=True, slots=True)
class Plant:
    """A bug: what is wrong, which checkers may be the first to notice, the patches [(class or
    module, name, made from what was there)], and the scenario that shows it.
    """

    meaning: str
    found_by: tuple[str, ...]
    patches: Sequence[tuple[Any, str, Callable[[Any], Any]]]
    scenario: str = "swarm"


@contextmanager
def planted(name: str) -> Iterator[None]:
    """The production code with this bug, "" for none. Raises CallerError for one there is not."""
    if name and name not in PLANTS:
        raise CallerError(f"{name!r} is no planted bug; there are {', '.join(PLANTS)}")
    undo = []
    try:
        for owner, attribute, make in PLANTS[name].patches if name else ():
            real = getattr(owner, attribute)
            undo.append((owner, attribute, real))
            setattr(owner, attribute, make(real))
        yield
    finally:
        for owner, attribute, real in reversed(undo):
            setattr(owner, attribute, real)


def _always_on_disk(real: Any) -> Any:
    del real

    def on_disk(self: Core, written: Mapping[int, int]) -> bool:
        del self, written
        return True

    return on_disk


def _tells_at_the_cut(real: Any) -> Any:
    def cut(self: Committer) -> Any:
        work = real(self)
        self._outlet.durable([record for record in work.records if record.own])
        return work

    return cut


def _acknowledges_on_receipt(real: Any) -> Any:
    def received(self: Committer, record: FrameRecord) -> None:
        real(self, record)
        self._outlet.durable([record])

    return received


def _same_session(real: Any) -> Any:
    del real

    def fresh(environment: Any, identity: Identity, recovered: Any) -> Any:
        del recovered
        return identity.new_session(environment.clock, SimEntropy(0, identity.replica, 0))

    return fresh


def _goes_on_counting(real: Any) -> Any:
    def init(self: ShardHost, index: int, session: int, lattice: Any, **bounds: Any) -> None:
        real(self, index, session, lattice, **bounds)
        self.outbox.written = self.outbox.framed = lattice.frontier.get(session, 0)

    return init


def _own_past_is_enough(real: Any) -> Any:
    del real

    def unmet(self: Inbox, arrival: Arrival) -> Any:
        before = arrival.session, arrival.first - 1
        return before if arrival.first > 1 and not self._seen(*before) else None

    return unmet


def _adds_only(real: Any) -> Any:
    def apply(self: ShardHost, arrival: Arrival, transactions: Any) -> Any:
        kept = transactions and [_without_removals(one) for one in transactions]
        return real(self, arrival, kept)

    return apply


def _without_removals(transaction: Transaction) -> Transaction:
    operations = tuple(one._replace(removals=()) for one in transaction.operations)
    return transaction._replace(operations=operations)


def _one_operation_ahead(real: Any) -> Any:
    def snapshot(self: ShardHost, certificates: Sequence[bytes], stamp: int) -> TakenSnapshot:
        taken: TakenSnapshot = real(self, certificates, stamp)
        session, last = max(taken.state.frontier.items(), default=(0, 0))
        if last < 2:
            return taken
        frontier = {**taken.state.frontier, session: last + 1}
        state = replace(taken.state, frontier=frontier)
        return replace(taken, state=state)

    return snapshot


def _never_compares(real: Any) -> Any:
    del real

    def compare(self: Exchange, link: Any, row: Any) -> None:
        del self, link, row

    return compare


def _looks_at_frontiers(real: Any) -> Any:
    def compare(mine: Any, theirs: Any) -> Comparison:
        found: Comparison = real(mine, theirs)
        return Comparison.EQUAL if found is Comparison.CORRUPT else found

    return compare


def _counts_before_it_sends(real: Any) -> Any:
    async def deliver(
        self: Delivery, epoch: int, position: int, records: Sequence[FrameRecord]
    ) -> None:
        if self._epoch == epoch:
            self.cursor = max(self.cursor, position)
            self._delivered(records)
        await real(self, epoch, position, records)

    return deliver


def _forgets_for_services(real: Any) -> Any:
    del real

    def keep(
        self: Services, shard: int, upto: Mapping[int, int], *, pressed: bool
    ) -> dict[int, int]:
        del self, shard, pressed
        return dict(upto)

    return keep


def _knows_no_log(real: Any) -> Any:
    def init(self: Registry, core: Core, feed: BusFeed, beats: Heartbeats, logged: Any) -> None:
        del logged
        real(self, core, feed, beats, None)

    return init


def _knows_no_generation(real: Any) -> Any:
    del real

    def changed(self: BusFeed, generation: str) -> bool:
        self._generation = generation
        return False

    return changed


def _claims_one_more(real: Any) -> Any:
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


def _takes_any_history(real: Any) -> Any:
    def apply(self: ShardHost, arrival: Arrival, transactions: Any) -> Any:
        return replace(real(self, arrival, transactions), forked=False)

    return apply


def _adds_twice(real: Any) -> Any:
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


def _answers_from_before(real: Any) -> Any:
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


def _shows_the_wall(real: Any) -> Any:
    del real

    def now(self: HybridClock) -> int:
        return self._wall_ms() << COUNTER_BITS

    return now


PLANTS: Mapping[str, Plant] = {
    "ack-before-fsync": Plant(
        "flush returns before the journal has what was written.",
        ("Acknowledgements", "NothingLost"),
        [(Core, "on_disk", _always_on_disk)],
    ),
    "gossip-before-fsync": Plant(
        "Peers get a frame before the journal has it.",
        ("OnDiskFirst",),
        [(Committer, "_cut", _tells_at_the_cut)],
    ),
    "peer-ack-before-fsync": Plant(
        "A replica tells the author that it has a frame on disk when it is only in memory.",
        ("Acknowledgements", "OnDiskFirst"),
        [(Committer, "received", _acknowledges_on_receipt)],
    ),
    "session-reused": Plant(
        "A replica goes on under its old session after a restart.",
        (
            "UniqueIds",
            "NothingRefused",
            "OnDiskFirst",
            "StrongConvergence",
            "CausalDelivery",
            "CounterBounds",
        ),
        [(recovery, "_fresh_session", _same_session), (ShardHost, "__init__", _goes_on_counting)],
        "crash",
    ),
    "inbox-out-of-order": Plant(
        "A frame is applied before what it depends on.",
        ("CausalDelivery", "StrongConvergence"),
        [(Inbox, "_unmet", _own_past_is_enough)],
    ),
    "equivocation-unnoticed": Plant(
        "Nobody looks whether a frame follows the one before it.",
        ("LiesNamed",),
        [(ShardHost, "apply", _takes_any_history)],
    ),
    "lost-remove": Plant(
        "What others removed stays.",
        ("StrongConvergence", "NothingRefused"),
        [(ShardHost, "apply", _adds_only)],
    ),
    "cut-not-closed": Plant(
        "A snapshot claims an operation more than it holds.",
        (
            "Acknowledgements",
            "Converged",
            "Monotone",
            "NothingRefused",
            "StrongConvergence",
            "UniqueIds",
        ),
        [(ShardHost, "snapshot", _one_operation_ahead)],
    ),
    "no-anti-entropy": Plant(
        "Nobody looks whether a peer has more.",
        ("Converged",),
        [(Exchange, "_compare", _never_compares)],
    ),
    "cursor-before-ack": Plant(
        "What is sent to the log counts as being there before the log has said so.",
        ("LogComplete",),
        [(Delivery, "_deliver", _counts_before_it_sends)],
        "services",
    ),
    "prune-before-log": Plant(
        "The journal forgets what is owed to the log.",
        ("LogFirst",),
        [(Services, "keep", _forgets_for_services)],
        "services",
    ),
    "trim-before-log": Plant(
        "A replica trims the bus before the log has it.",
        ("LogFirst",),
        [(Registry, "__init__", _knows_no_log)],
        "behind",
    ),
    "flush-unnoticed": Plant(
        "That the bus lost its data, or a part of it, is not noticed.",
        ("Served",),
        [(BusFeed, "_changed", _knows_no_generation)],
        "services",
    ),
    "checkpoint-cut-not-closed": Plant(
        "A checkpoint claims an operation more than it holds.",
        ("CheckpointsWhole",),
        [(CheckpointFeed, "_capture", _claims_one_more)],
        "services",
    ),
    "claim-unfenced": Plant(
        "A token is accepted when it is out of date.",
        ("Fencing", "Linearizable"),
        [(claims, "fenced", never_fences), (machine, "_check_owner", ignores_tokens)],
        "services",
    ),
    "transition-decided-twice": Plant(
        "A request that comes again is decided again.",
        ("OneWinner", "Linearizable"),
        [(Decider, "fire", forgets_answers)],
        "services",
    ),
    "effect-before-commit": Plant(
        "Actions are performed before the decision stands, and where it never does.",
        ("NoEffectBeforeCommit",),
        [(Decider, "_decide", acts_first)],
        "services",
    ),
    "budget-without-rights": Plant(
        "Sessions spend from a budget what others have the right to.",
        ("NeverOverdrawn",),
        [(BoundedEditor, "_need", needs_no_right)],
        "services",
    ),
    "counted-twice": Plant(
        "What is added to a counter is added twice.",
        ("CounterBounds", "NoDuplicateEffect"),
        [(Counter, "assign", _adds_twice)],
    ),
    "stale-read": Plant(
        "Every other read is answered with what the one before saw.",
        ("SessionGuarantees",),
        [(Replica, "get", _answers_from_before)],
    ),
    "clock-not-hybrid": Plant(
        "Stamps are what the wall clock shows.",
        ("HybridClocks",),
        [(HybridClock, "now", _shows_the_wall)],
    ),
    "frontiers-only": Plant(
        "Anti-entropy compares frontiers, and no digests.",
        ("Converged",),
        [(exchange, "compare", _looks_at_frontiers)],
        "rot",
    ),
}
"""All there are, by name."""
