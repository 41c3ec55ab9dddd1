"""The outbox: everything pending goes into frames, in order, no transaction split."""

from __future__ import annotations

from crdt.limits import MAX_BODY_BYTES
from crdt.operation import Operation, Removal, Transaction, encode_body
from mesh.outbox import Outbox, transaction_bytes


def transaction(stamp: int, operations: int = 1, size: int = 10) -> Transaction:
    body = tuple(Operation("Task/1", b"path", b"x" * size, ()) for _ in range(operations))
    return Transaction("task.edited", "a", stamp, "", body)


def add(outbox: Outbox, *transactions: Transaction) -> None:
    for one in transactions:
        outbox.add(one)


def test_a_cut_takes_everything_as_one_frame() -> None:
    outbox = Outbox(10_000)
    add(outbox, transaction(5), transaction(9, 3), transaction(7))
    assert (outbox.written, outbox.framed, len(outbox)) == (5, 0, 3)
    assert outbox.bytes > 0
    (cut,) = outbox.cut()
    assert (cut.first, cut.last, cut.stamp, len(cut.transactions)) == (1, 5, 9, 3)
    assert (outbox.bytes, len(outbox), outbox.framed) == (0, 0, 5)
    assert outbox.cut() == []


def test_seqs_go_on_over_cuts() -> None:
    outbox = Outbox(10_000)
    add(outbox, transaction(1, 2))
    outbox.cut()
    add(outbox, transaction(2, 3))
    (cut,) = outbox.cut()
    assert (cut.first, cut.last) == (3, 5)


def test_large_cuts_are_split_between_transactions_only() -> None:
    outbox = Outbox(1_000)
    add(outbox, *(transaction(number, 2, 300) for number in range(10)), transaction(99, 1, 5_000))
    cuts = outbox.cut()
    assert len(cuts) > 5
    assert [cut.first for cut in cuts[1:]] == [cut.last + 1 for cut in cuts[:-1]]
    assert cuts[-1].last == outbox.written == 21
    assert sum(len(cut.transactions) for cut in cuts) == 11
    assert all(len(cut.transactions) == 1 for cut in cuts if cut.stamp == 99)


def test_sizes_are_never_too_low() -> None:
    removal = Removal(b"path", False, tuple((session << 42, 2**40) for session in range(1, 50)))
    operations = tuple(
        Operation(f"Task/{number}\N{GRINNING FACE}", b"path%d" % number, b"x" * number, (removal,))
        for number in range(100)
    )
    heavy = Transaction("t", "a", 1, "", operations)
    # Nearly nothing but labels, none of which was there before.
    light = [
        Transaction(f"{number:0254}ü", f"{number:0256}", 2**63, f"{number}", operations[:1])
        for number in range(100)
    ]
    for transactions in ([heavy], light):
        assert len(encode_body(transactions)) <= sum(map(transaction_bytes, transactions)) + 32


def test_a_burst_of_long_labels_fits_its_frames() -> None:
    outbox = Outbox(2 << 20)
    for number in range(20_000):
        outbox.add(transaction(number)._replace(caused_by=f"{number:0256}"))
    bodies = [encode_body(cut.transactions) for cut in outbox.cut()]
    assert len(bodies) > 2
    assert max(map(len, bodies)) <= MAX_BODY_BYTES
