"""Sites: replicas of one shard without a network, a disk or a clock, to try how documents merge.

    left, right = Site(1), Site(2)
    with left.edit(Task) as task:
        task.title = "mine"
    exchange(left, right)
    assert right.view(Task).title == "mine"

For tests and documentation. What a site writes is encoded, decoded and applied as a replica does
it; nothing is journaled, signed or sent.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from crdt import Document
from crdt.access import Overlay, ShardView, commit
from crdt.clock import HybridClock
from crdt.document import delete_document, document_id, validate_document
from crdt.ids import new_session
from crdt.lattice import Shard
from crdt.operation import Transaction, decode_body, encode_body, operation_count

D = TypeVar("D", bound=Document)

START_MS = 1_780_000_000_000


class Site:
    """One replica's shard. Its wall clock stands at `wall_ms` (Unix milliseconds) until it is set.

    `number` makes its session id: give every site another one.
    """

    def __init__(self, number: int, wall_ms: int = START_MS) -> None:
        self.wall_ms = wall_ms
        self.session = new_session(START_MS, number)
        self.shard = Shard(b"key")
        self.clock = HybridClock(lambda: self.wall_ms)
        self.written: list[Transaction] = []

    def __repr__(self) -> str:
        return f"<Site of session {self.session}, {self.shard!r}>"

    def overlay(self) -> Overlay:
        """A transaction, to be committed with `commit`."""
        return Overlay(self.shard, self.session, self.clock)

    @contextmanager
    def edit(self, cls: type[D], name: str = "1") -> Iterator[D]:
        """What a replica's edit() does: commit if the body returned, forget it if it raised."""
        overlay = self.overlay()
        try:
            document = cls.bind(overlay, document_id(cls, name))
            yield document
            validate_document(document, overlay)
            self.commit(overlay)
        finally:
            overlay.close()

    def delete(self, cls: type[Document], name: str = "1") -> bool:
        """What a replica's delete() does; False if there is nothing to delete."""
        with self.edit(cls, name) as document:
            return delete_document(document._access, cls, document.id)

    def commit(self, overlay: Overlay) -> Transaction | None:
        """Make an overlay part of the shard; None if nothing was written in it."""
        transaction = commit(self.shard, overlay, "test", "tester", "")
        if transaction is not None:
            self.written.append(transaction)
        return transaction

    def view(self, cls: type[D], name: str = "1") -> D:
        """A live, read-only view of a document, whether it exists or not."""
        return cls.bind(ShardView(self.shard, self.session), document_id(cls, name))

    def operations(self) -> int:
        """How many operations this site has written."""
        return self.shard.frontier.get(self.session, 0)

    def send(self, other: "Site", through_bytes: bool = True) -> None:
        """Deliver everything written here that the other has not; everything it rests on must be
        there.
        """
        have = other.shard.frontier.get(self.session, 0)
        transactions = self.written
        if through_bytes:
            transactions = decode_body(encode_body(transactions))
        assert operation_count(transactions) == self.operations()
        other.shard.apply_transactions(self.session, 1, transactions, skip_upto=have)


def exchange(*sites: Site) -> None:
    """Join every site's state into every other; they must agree afterwards."""
    for each in sites:
        for other in sites:
            if other is not each:
                each.shard.join(other.shard.snapshot())
    for other in sites[1:]:
        assert other.shard.frontier == sites[0].shard.frontier
        assert other.shard.digest() == sites[0].shard.digest()
