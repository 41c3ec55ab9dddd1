"""Deciding what is missing and whom to ask; queues, backoff, link choice."""

from __future__ import annotations

import random

import pytest

from mesh.dissemination import (
    FRAMES_PER_TURN_BYTES,
    Backoff,
    Limiter,
    SendQueue,
    keeps_new,
    pick,
    slices,
)
from mesh.peers import PeerBook
from mesh.repair import (
    FEW_OPERATIONS,
    MAX_ASKED_ABOUT,
    Capture,
    Comparison,
    Comparisons,
    Requests,
    compare,
    plan,
)
from mesh.wire import MAX_MESSAGE_BYTES, Frontier, Range, SummaryRow


def capture(frontier: dict[int, int], digest: bytes = b"d", floor: int = 0) -> Capture:
    return Capture(0, floor, frontier, repr(sorted(frontier.items())).encode(), digest, 10)


def frontier(seqs: dict[int, int], entries: int = 0, floor: int = 0) -> Frontier:
    return Frontier(0, floor, 0, entries, False, b"d", seqs)


def test_comparing() -> None:
    mine = capture({1: 5})
    assert compare(mine, capture({1: 5}).row()) is Comparison.EQUAL
    assert compare(mine, capture({1: 6}).row()) is Comparison.DIFFERENT
    assert compare(mine, capture({1: 5}, floor=3).row()) is Comparison.DIFFERENT
    assert compare(mine, capture({1: 5}, digest=b"e").row()) is Comparison.CORRUPT


def row(shard: int, digest: bytes = b"d") -> SummaryRow:
    return SummaryRow(shard, 0, b"f", digest, 0)


def test_all_shards_are_compared_in_turn_some_at_a_time() -> None:
    comparisons = Comparisons(patience=5)
    shards = range(3 * MAX_ASKED_ABOUT)
    comparisons.hear(map(row, shards))
    turns: list[int] = []

    def ask(now: float) -> int:
        count = 0
        while (found := comparisons.next(now)) is not None:
            comparisons.asked(found.shard, now)
            turns.append(found.shard)
            count += 1
        return count

    assert ask(0.0) == MAX_ASKED_ABOUT
    assert ask(4.0) == 0
    comparisons.answered(turns[0])
    # Who was compared waits for its next turn behind all others.
    comparisons.hear(map(row, shards))
    assert ask(4.0) == 1
    assert ask(6.0) == MAX_ASKED_ABOUT - 1, "what nobody answered has lapsed"
    while len(turns) < len(shards):
        comparisons.answered(turns[-1])
        assert ask(6.0) == 1
    assert sorted(turns) == list(shards)


def test_what_is_asked_about_is_not_compared_until_the_answer_comes() -> None:
    comparisons = Comparisons(patience=5)
    comparisons.asked(1, now=0)
    comparisons.hear([row(1), row(2, b"old"), row(2, b"new")])
    assert comparisons.next(1) == row(2, b"new")
    assert comparisons.next(1) is None
    comparisons.answered(1)
    comparisons.hear([row(1)])
    assert comparisons.next(1) == row(1)
    comparisons.asked(1, now=1)
    comparisons.hear([row(1)])
    assert comparisons.next(6) == row(1), "it has lapsed"


def test_missing_ranges_are_asked_for() -> None:
    wanted = plan({1: 5, 2: 9}, 0, frontier({1: 7, 2: 8, 3: 2}))
    assert wanted.ranges == (Range(1, 5, 7), Range(3, 0, 2))
    assert (wanted.missing, wanted.snapshot) == (4, False)
    assert plan({1: 5}, 0, frontier({1: 5})).ranges == ()


def test_a_snapshot_is_taken_where_it_is_cheaper_or_the_only_way() -> None:
    many = FEW_OPERATIONS + 1
    assert plan({}, 0, frontier({1: many}, entries=10)).snapshot
    assert not plan({}, 0, frontier({1: many}, entries=many)).snapshot
    assert not plan({}, 0, frontier({1: 100}, entries=10)).snapshot
    assert plan({1: 5}, 3, frontier({1: 5}, floor=4)).snapshot
    assert not plan({1: 5}, 4, frontier({1: 5}, floor=3)).snapshot


def test_nobody_is_asked_twice_until_it_lapses() -> None:
    requests = Requests(patience=5)
    assert requests.ranges(0, (Range(1, 0, 10),), "a", now=0) == (Range(1, 0, 10),)
    assert requests.ranges(0, (Range(1, 0, 10),), "b", now=1) == ()
    # More became known meanwhile: only the rest is asked for.
    assert requests.ranges(0, (Range(1, 0, 15),), "b", now=1) == (Range(1, 10, 15),)
    assert requests.ranges(1, (Range(1, 0, 10),), "b", now=1) == (Range(1, 0, 10),)
    assert requests.ranges(0, (Range(1, 0, 15),), "c", now=7) == (Range(1, 0, 15),)
    requests.answered(0, "c")
    assert requests.ranges(0, (Range(1, 3, 15),), "c", now=7) == (Range(1, 3, 15),)
    requests.gone("c")
    assert requests.ranges(0, (Range(1, 3, 15),), "a", now=7) == (Range(1, 3, 15),)


def test_a_request_lapses_however_much_is_asked_for_on_top_of_it() -> None:
    requests = Requests(patience=5)
    for now in range(6):
        (wanted,) = requests.ranges(0, (Range(1, 0, 10 + now),), "a", now)
    assert wanted == Range(1, 0, 15)


def test_a_peer_that_works_through_its_queue_keeps_what_it_was_asked_for() -> None:
    requests = Requests(patience=5)
    assert requests.snapshot(0, "a", now=0)
    assert requests.snapshot(1, "a", now=0)
    requests.progress("a", now=4)
    assert not requests.snapshot(1, "b", now=8)
    assert requests.snapshot(1, "b", now=9)


def test_one_snapshot_of_a_shard_at_a_time() -> None:
    requests = Requests(patience=5)
    assert requests.snapshot(0, "a", now=0)
    assert requests.expects(0, "a")
    assert not requests.expects(0, "b")
    assert not requests.snapshot(0, "b", now=4)
    requests.progress("a", now=4)
    assert not requests.snapshot(0, "b", now=8)
    assert requests.snapshot(0, "b", now=10)
    requests.gone("b")
    assert requests.snapshot(0, "a", now=10)
    requests.joined(0)
    assert requests.snapshot(0, "a", now=10)


def test_a_send_queue_keeps_order_and_its_bound() -> None:
    queue = SendQueue(100)
    assert queue.push(b"a" * 40)
    assert queue.push(b"b" * 40)
    assert queue.offer(b"control")
    assert not queue.push(b"c" * 40)
    assert queue.behind
    assert not queue.room
    assert queue.take() == (b"a" * 40, b"b" * 40)
    assert queue.take() == b"control"
    assert not queue
    assert queue.bytes == 0
    assert queue.push(b"d" * 500), "a frame may always go alone"
    served = SendQueue(100)
    assert served.offer(b"certificates")
    assert served.push(b"e" * 500, asked=True), "and so may one that was asked for and has room"
    assert not served.push(b"f" * 50, asked=True)
    flood = SendQueue(100)
    assert not all(flood.offer(b"x") for _ in range(10_000))
    large = SendQueue(100)
    message = bytes(MAX_MESSAGE_BYTES)
    assert [large.offer(message) for _ in range(5)] == [True] * 4 + [False]
    large.take()
    assert large.offer(message), "what was read makes room"


def test_backoff_doubles_within_its_bounds() -> None:
    backoff = Backoff(0.1, 2.0, random.Random(1))
    waits = [backoff.wait() for _ in range(10)]
    assert all(0.05 <= waits[0] <= 0.1 for _ in (1,))
    assert all(1.0 <= wait <= 2.0 for wait in waits[5:])
    backoff.reset()
    assert backoff.wait() <= 0.1


def test_a_limiter_tells_a_flood_from_a_trickle() -> None:
    limiter = Limiter(burst=3, per_second=1)
    assert [limiter.allow(0.0) for _ in range(4)] == [True, True, True, False]
    assert limiter.allow(1.0)
    assert not limiter.allow(1.0)
    assert all(limiter.allow(10.0 + at) for at in range(20))


@pytest.mark.parametrize("first", [True, False])
def test_both_ends_keep_the_same_link(first: bool) -> None:
    """Two links: one dialled by "a", one by "b". Whatever order each end sees them in, a's
    stays.
    """
    for own, peer in (("a", "b"), ("b", "a")):
        old_dialled = first
        stays_new = keeps_new(own, peer, old_dialled, not old_dialled)
        dialled_by_a = (own == "a") == ((not old_dialled) if stays_new else old_dialled)
        assert dialled_by_a
    assert keeps_new("a", "b", True, True)


def test_picking_depends_on_names_only() -> None:
    assert pick([], random.Random(1)) is None
    one = [pick(["a", "b", "c"], random.Random(seed)) for seed in range(20)]
    other = [pick(["c", "a", "b"], random.Random(seed)) for seed in range(20)]
    assert one == other
    assert set(one) == {"a", "b", "c"}


def test_the_peer_book_knows_lag_and_what_everybody_has() -> None:
    book = PeerBook()
    book.met("b", 20, "b:1", now_ms=5).has(0, {1: 4, 2: 7})
    book.met("c", 30, "c:1", now_ms=6).has(0, {1: 9})
    ours = {0: {1: 6, 2: 2}}
    lag = book.lag(ours, ours)
    assert (lag["b"].lacks, lag["b"].ahead) == (2, 5)
    assert (lag["c"].lacks, lag["c"].ahead) == (2, 3)
    assert book.everywhere(0, ours[0], now=0.0) == {1: 4}
    book.left("c", now_ms=7, now=100.0)
    assert book.everywhere(0, ours[0], now=101.0) == {1: 4}
    assert book.everywhere(0, ours[0], now=1e6) == {1: 4, 2: 2}
    infos = {info.name: info for info in book.infos(ours)}
    assert (infos["b"].connected, infos["b"].behind, infos["b"].since) == (True, 2, 5)
    assert (infos["c"].connected, infos["c"].since) == (False, 7)
    # A new session may have lost its disk.
    assert book.met("b", 21, "b:1", now_ms=9).known == {}


def test_frames_are_dealt_with_in_small_parts_and_in_order() -> None:
    half = FRAMES_PER_TURN_BYTES // 2
    frames = tuple(bytes([number]) * size for number, size in enumerate([half, half, 1, 9 * half]))
    assert list(slices(frames)) == [frames[:2], frames[2:3], frames[3:]]
    assert list(slices(())) == [()], "a message of none is one, too"
