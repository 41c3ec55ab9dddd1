"""What must hold once everybody has everything, as plain functions over what replicas have on disk.

They know nothing of how the run was made: processes and sockets, or a simulated world. Each returns
what is wrong, in words that name the replica, the shard and the difference; an empty list means it
holds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

from crdt.codec import decode_stamped
from crdt.errors import CodecError
from crdt.ids import week_of
from crdt.lattice import Shard
from crdt.operation import Transaction
from crdt.paths import TypeCode, leaf_code

_MAX_DIFFERENCES = 20


class Frame(Protocol):
    """What the checkers read of a frame's header."""

    @property
    def shard(self) -> int: ...
    @property
    def session(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Decision:
    """One outcome of a machine, as it was written into the mesh.

    `owner` holds the machine after it (empty: nobody), since the decision whose epoch is `token`.
    """

    document: str
    epoch: int
    owner: str
    token: int
    state: str

    @staticmethod
    def of(document: str, epoch: int, value: Mapping[str, Any]) -> Decision:
        """From what a Decided field or a history holds; what is missing reads as none."""
        token = value.get("token", 0)
        return Decision(
            document,
            epoch,
            str(value.get("owner", "")),
            token if isinstance(token, int) else 0,
            str(value.get("state", "")),
        )


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one replica's data folder proves. `documents`: the digest of each document it holds."""

    replica: str
    floors: Mapping[int, int]
    frontiers: Mapping[int, Mapping[int, int]]
    digests: Mapping[int, bytes]
    documents: Mapping[str, bytes]
    decisions: Sequence[Decision]

    @property
    def operations(self) -> int:
        """How many operations its state has come from."""
        return sum(sum(frontier.values()) for frontier in self.frontiers.values())

    def has(self, session: int, shard: int, seq: int) -> bool:
        """Whether that operation is in this replica's state."""
        floor = self.floors.get(shard, 0)
        return week_of(session) < floor or seq <= self.frontiers.get(shard, {}).get(session, 0)


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A promise: everything `session` wrote to `shard` up to `seq` will never be lost.

    `level` says where it is, so what can be lost with a disk: a `JOURNAL` of `replica` alone can.
    """

    session: int
    shard: int
    seq: int
    level: str = "JOURNAL"
    replica: str = ""


def evidence(
    replica: str,
    shards: Mapping[int, Shard],
    frames: Iterable[tuple[Frame, Sequence[Transaction]]],
) -> Evidence:
    """Collect what the checkers need of one replica: its state, and its journal's decisions."""
    return Evidence(
        replica,
        {number: shard.floor for number, shard in shards.items()},
        {number: dict(shard.frontier) for number, shard in shards.items()},
        {number: shard.digest() for number, shard in shards.items()},
        {
            document: shard.document_digest(document)
            for shard in shards.values()
            for document in shard.documents()
        },
        [
            decision
            for _, transactions in frames
            for transaction in transactions
            for decision in decisions_in(transaction)
        ],
    )


def decisions_in(transaction: Transaction) -> Iterable[Decision]:
    """The decisions a transaction wrote, whichever document type they belong to."""
    for operation in transaction.operations:
        if operation.payload is None:
            continue
        try:
            if leaf_code(operation.path) is not TypeCode.DECIDED:
                continue
            epoch, value = decode_stamped(operation.payload)
        except CodecError:
            continue  # void for every replica alike
        if isinstance(value, Mapping):
            yield Decision.of(operation.document, epoch, value)


def differences(replicas: Sequence[Evidence]) -> list[str]:
    """Where the replicas don't agree: frontiers, digests of every shard, and which documents.

    A session that ends signs off in each shard with one operation that touches nothing; who had
    left before lacks it. So one operation more is no difference where the digests are equal.
    """
    found: list[str] = []
    if not replicas:
        return found
    first = replicas[0]
    for other in replicas[1:]:
        for shard in sorted({*first.frontiers, *other.frontiers}):
            mine, theirs = first.frontiers.get(shard, {}), other.frontiers.get(shard, {})
            where = f"shard {shard}: {first.replica} and {other.replica}"
            same = first.digests.get(shard) == other.digests.get(shard)
            most = 1 if same else 0
            apart = {s for s in {*mine, *theirs} if abs(mine.get(s, 0) - theirs.get(s, 0)) > most}
            if apart:
                shown = ", ".join(
                    f"session {s}: {mine.get(s, 0)} and {theirs.get(s, 0)}" for s in sorted(apart)
                )
                found.append(f"{where} have different frontiers ({shown})")
            elif not same:
                found.append(f"{where} have equal frontiers and different digests")
        apart_documents = diverged([first.documents, other.documents])
        if apart_documents:
            shown = ", ".join(sorted(apart_documents)[:5])
            found.append(
                f"{len(apart_documents)} documents differ between {first.replica} and "
                f"{other.replica}: {shown}"
            )
    return found[:_MAX_DIFFERENCES]


def diverged(replicas: Sequence[Mapping[str, Any]]) -> set[str]:
    """Documents that are not the same (by digest, or missing) on all of these replicas."""
    everything = {document for digests in replicas for document in digests}
    return {
        document
        for document in everything
        if len({digests.get(document) for digests in replicas}) > 1
    }


@dataclass(frozen=True, slots=True)
class Lost:
    """Acknowledged operations that a replica does not have."""

    replica: str
    session: int
    shard: int
    after: int
    upto: int

    @property
    def count(self) -> int:
        """How many operations."""
        return self.upto - self.after

    def __str__(self) -> str:
        return (
            f"{self.replica} lacks acknowledged operations {self.after + 1} to {self.upto} of "
            f"session {self.session} in shard {self.shard}"
        )


def lost(replicas: Iterable[Evidence], promises: Iterable[Acknowledged]) -> list[Lost]:
    """Every acknowledged operation that is missing anywhere."""
    highest: dict[tuple[int, int], int] = defaultdict(int)
    for promise in promises:
        key = (promise.session, promise.shard)
        highest[key] = max(highest[key], promise.seq)
    return [
        Lost(
            replica.replica,
            session,
            shard,
            replica.frontiers.get(shard, {}).get(session, 0),
            seq,
        )
        for replica in replicas
        for (session, shard), seq in sorted(highest.items())
        if not replica.has(session, shard, seq)
    ]


def missing(replicas: Iterable[Evidence], documents: Iterable[str]) -> list[str]:
    """Documents whose making was acknowledged, that nobody deleted, and that a replica lacks."""
    expected = sorted(set(documents))
    return [
        f"{replica.replica} lacks the acknowledged document {document}"
        for replica in replicas
        for document in expected
        if document not in replica.documents
    ]


def resurrected(replicas: Iterable[Evidence], removed: Iterable[str]) -> list[str]:
    """Documents whose deletion was acknowledged, that nobody wrote again, and that are there."""
    gone = sorted(set(removed))
    return [
        f"{replica.replica} holds {document}, whose deletion was acknowledged"
        for replica in replicas
        for document in gone
        if document in replica.documents
    ]


def double_claims(decisions: Iterable[Decision]) -> list[str]:
    """Where two owners held one machine at once, or one epoch was decided twice.

    An owner who took a machine at epoch t (his token) holds it until the first decision after which
    nobody, or he under another token, does. So no decision between t and one that still names t may
    name anybody else.
    """
    machines: dict[str, dict[int, Decision]] = defaultdict(dict)
    found: list[str] = []
    for decision in decisions:
        known = machines[decision.document].setdefault(decision.epoch, decision)
        if known != decision:
            found.append(
                f"{decision.document}: epoch {decision.epoch} was decided twice: "
                f"{known.owner or 'nobody'} {known.state} and "
                f"{decision.owner or 'nobody'} {decision.state}"
            )
    for document, by_epoch in sorted(machines.items()):
        found.extend(_overlaps(document, [by_epoch[epoch] for epoch in sorted(by_epoch)]))
    return found


def _overlaps(document: str, history: Sequence[Decision]) -> Iterable[str]:
    for earlier, later in pairwise(history):
        if not (earlier.owner and later.owner) or earlier.owner == later.owner:
            continue
        # With a hole between them a release may lie in it: only what the token covers is proof.
        adjacent = later.epoch == earlier.epoch + 1
        if adjacent or (later.token and later.token <= earlier.epoch):
            yield (
                f"{document}: {earlier.owner} held it at epoch {earlier.epoch} and "
                f"{later.owner} at epoch {later.epoch}, with no release between them"
            )


def unfinished(states: Mapping[str, str], final: Iterable[str]) -> list[str]:
    """Machines that stopped short of a final state, from {document: state}."""
    ends = set(final)
    return [
        f"{document} ended in {state!r}, which is not final"
        for document, state in sorted(states.items())
        if state not in ends
    ]
