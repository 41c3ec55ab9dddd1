"""The outbox of one shard: what this session wrote and is not in a frame yet.

Rules of this file: pure. An own transaction is in the lattice as soon as it is committed; here it
waits for the next cut. A cut takes everything: afterwards frontier, digest and snapshot of the
shard contain nothing that is in no frame, which is what makes them worth capturing at that instant.

A transaction is never split; a frame holds as many as fit in `target_bytes`, at least one.
"""

from __future__ import annotations

from dataclasses import dataclass

from crdt.limits import MAX_OPERATIONS
from crdt.operation import Transaction, bytes_of, operations_bytes
from persistence.limits import MAX_BODY_BYTES

MAX_TARGET_BYTES = MAX_BODY_BYTES // 2
"""No frame is filled beyond this; one transaction alone may be, by what its first text edit takes.
"""
_PER_TRANSACTION = 32


@dataclass(frozen=True, slots=True)
class Cut:
    """What goes into one frame: transactions with seqs first..last, and the newest of their
    stamps.
    """

    first: int
    last: int
    stamp: int
    transactions: tuple[Transaction, ...]


def transaction_bytes(transaction: Transaction) -> int:
    """What a transaction takes in a frame at most, before compression."""
    type_, actor, _, caused_by, operations = transaction
    labels = bytes_of(type_) + bytes_of(actor) + bytes_of(caused_by)
    return _PER_TRANSACTION + labels + operations_bytes(operations)


class Outbox:
    """Own transactions of one shard between commit and cut."""

    def __init__(self, target_bytes: int) -> None:
        self._target = min(target_bytes, MAX_TARGET_BYTES)
        self._pending: list[tuple[int, Transaction]] = []
        self.bytes = 0
        self.written = 0
        self.framed = 0

    def __repr__(self) -> str:
        return (
            f"<Outbox {len(self._pending)} transactions, {self.bytes} bytes, {self.framed} framed>"
        )

    def __len__(self) -> int:
        return len(self._pending)

    def add(self, transaction: Transaction, *, alone: bool = False) -> int:
        """Take a committed transaction, whose seqs follow those of the one before: its size.

        `alone`: it gets a frame of its own.
        """
        size = transaction_bytes(transaction)
        self._pending.append((self._target + 1 if alone else size, transaction))
        self.bytes += size
        self.written += len(transaction.operations)
        return size

    def cut(self) -> list[Cut]:
        """Everything pending, as the contents of one frame or more; the outbox is empty
        afterwards.
        """
        cuts: list[Cut] = []
        group: list[Transaction] = []
        size = operations = 0
        for one, transaction in self._pending:
            count = len(transaction.operations)
            full = size + one > self._target or operations + count > MAX_OPERATIONS
            if group and full:
                cuts.append(self._close(group))
                group, size, operations = [], 0, 0
            group.append(transaction)
            size += one
            operations += count
        if group:
            cuts.append(self._close(group))
        self._pending.clear()
        self.bytes = 0
        return cuts

    def _close(self, group: list[Transaction]) -> Cut:
        first = self.framed + 1
        self.framed += sum(len(transaction.operations) for transaction in group)
        stamp = max(transaction.stamp for transaction in group)
        return Cut(first, self.framed, stamp, tuple(group))
