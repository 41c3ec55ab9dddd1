"""The causal inbox: frames come out in causal order, whatever order they arrive in, within
bounds.
"""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from mesh.inbox import Arrival, Inbox, Verdict
from persistence.frame import Header


def frame(
    session: int,
    first: int,
    last: int = 0,
    deps: tuple[tuple[int, int], ...] = (),
    size: int = 10,
    since: float = 0.0,
    source: str = "peer",
) -> Arrival:
    last = last or first
    header = Header(1, b"m" * 16, 0, session, first, last, deps, 0, 0, 0, b"", {})
    return Arrival(header, b"hash", b"r" * size, source, since)


class Applied:
    """A stand-in for the lattice: only its frontier."""

    def __init__(self) -> None:
        self.frontier: dict[int, int] = {}
        self.order: list[tuple[int, int]] = []

    def seen(self, session: int, seq: int) -> bool:
        return seq <= self.frontier.get(session, 0)

    def drain(self, inbox: Inbox) -> None:
        while (arrival := inbox.take()) is not None:
            header = arrival.header
            assert self.frontier.get(header.session, 0) >= header.first - 1
            assert all(self.seen(*dep) for dep in header.deps)
            assert not self.seen(header.session, header.last)
            self.frontier[header.session] = header.last
            self.order.append((header.session, header.last))
            inbox.advanced(header.session, header.last)


def test_a_frame_without_causes_is_ready() -> None:
    applied = Applied()
    inbox = Inbox(applied.seen)
    assert inbox.offer(frame(1, 1)) is Verdict.READY
    applied.drain(inbox)
    assert inbox.offer(frame(1, 1)) is Verdict.DUPLICATE
    assert inbox.frames == inbox.bytes == 0


def test_frames_wait_for_predecessor_and_deps() -> None:
    applied = Applied()
    inbox = Inbox(applied.seen)
    assert inbox.offer(frame(1, 2, deps=((2, 1),))) is Verdict.WAITING
    assert inbox.offer(frame(1, 2)) is Verdict.DUPLICATE
    assert inbox.offer(frame(1, 1)) is Verdict.READY
    applied.drain(inbox)
    assert applied.order == [(1, 1)]
    assert inbox.offer(frame(2, 1)) is Verdict.READY
    applied.drain(inbox)
    assert applied.order == [(1, 1), (2, 1), (1, 2)]
    assert inbox.frames == inbox.bytes == 0


def test_an_overlap_with_a_joined_snapshot_comes_out() -> None:
    applied = Applied()
    inbox = Inbox(applied.seen)
    inbox.offer(frame(1, 5, 9))
    applied.frontier[1] = 6
    inbox.rescan()
    taken = inbox.take()
    assert taken is not None
    assert (taken.first, taken.last) == (5, 9)


def test_what_a_join_brought_is_dropped_at_a_rescan() -> None:
    applied = Applied()
    inbox = Inbox(applied.seen)
    inbox.offer(frame(1, 5, 9))
    applied.frontier[1] = 9
    inbox.rescan()
    assert inbox.take() is None
    assert inbox.frames == 0


def test_overflow_drops_the_newest() -> None:
    applied = Applied()
    inbox = Inbox(applied.seen, max_frames=4)
    for first in (2, 3, 4, 5):
        assert inbox.offer(frame(1, first)) is Verdict.WAITING
    assert inbox.offer(frame(1, 6)) is Verdict.DROPPED
    # Another session gets its share: the newest of the heaviest gives way.
    assert inbox.offer(frame(2, 2)) is Verdict.WAITING
    assert inbox.frames == 4
    inbox.offer(frame(1, 1))
    applied.drain(inbox)
    assert applied.frontier == {1: 4}
    # What was dropped is taken again when it comes again.
    inbox.offer(frame(1, 5))
    inbox.offer(frame(2, 1))
    applied.drain(inbox)
    assert applied.frontier == {1: 5, 2: 2}


def test_ready_frames_that_nobody_takes_are_bounded_too() -> None:
    applied = Applied()
    inbox = Inbox(applied.seen, max_frames=4, max_bytes=100)
    assert [inbox.offer(frame(session, 1)) for session in range(1, 5)] == [Verdict.READY] * 4
    assert inbox.offer(frame(5, 1)) is Verdict.DROPPED
    assert inbox.offer(frame(5, 2)) is Verdict.DROPPED
    assert (inbox.frames, inbox.bytes) == (4, 40)
    applied.drain(inbox)
    assert (inbox.frames, inbox.bytes) == (0, 0)
    # One that is taken at once needs no room, however full it is with others that wait.
    for first in (2, 3, 4, 5):
        inbox.offer(frame(9, first))
    assert inbox.offer(frame(9, 1)) is Verdict.READY
    applied.drain(inbox)
    assert applied.frontier[9] == 5


def test_overflow_by_bytes() -> None:
    inbox = Inbox(Applied().seen, max_bytes=100)
    assert inbox.offer(frame(1, 2, size=60)) is Verdict.WAITING
    assert inbox.offer(frame(1, 3, size=60)) is Verdict.DROPPED
    assert inbox.offer(frame(9, 2, size=101)) is Verdict.DROPPED
    assert inbox.bytes == 60


def test_what_is_missing_names_ranges_and_who_knows() -> None:
    applied = Applied()
    applied.frontier = {1: 3}
    inbox = Inbox(applied.seen)
    inbox.offer(frame(1, 6, since=1.0, source="b"))
    inbox.offer(frame(2, 1, deps=((3, 4),), since=1.0, source="c"))
    inbox.offer(frame(4, 9, since=5.0))
    assert inbox.missing(applied.frontier, before=2.0) == {1: (3, 5, "b"), 3: (0, 4, "c")}
    assert set(inbox.missing(applied.frontier, before=9.0)) == {1, 3, 4}


def test_what_joins_on_to_the_frontier_and_waits_is_here() -> None:
    applied = Applied()
    applied.frontier = {1: 3}
    inbox = Inbox(applied.seen)
    inbox.offer(frame(1, 4, 6, deps=((3, 4),), since=5.0))
    inbox.offer(frame(1, 7, since=5.0))
    inbox.offer(frame(1, 9, since=5.0))
    inbox.offer(frame(2, 1, deps=((3, 4),), since=1.0))
    assert inbox.reached(applied.frontier, after=0.0) == {1: 7, 2: 1}
    assert inbox.reached(applied.frontier, after=1.0) == {1: 7}, "the other has waited for too long"
    assert applied.frontier == {1: 3}


def test_hooks_of_dropped_frames_stay_bounded() -> None:
    inbox = Inbox(Applied().seen, max_frames=8)
    for round_ in range(200):
        for session in range(2, 12):
            inbox.offer(frame(session, 2 + round_ % 5, deps=((1, 7),)))
    assert inbox.frames <= 8
    assert inbox._hooks <= 2 * 8 + 17


@given(st.integers(0, 2**32))
def test_any_order_of_arrival_applies_everything_in_causal_order(seed: int) -> None:
    rng = random.Random(seed)
    sessions = range(1, rng.randrange(2, 6))
    frontiers: dict[int, dict[int, int]] = {one: {} for one in sessions}
    history: list[Arrival] = []
    for _ in range(rng.randrange(1, 40)):
        author = rng.choice(list(sessions))
        seen = frontiers[author]
        for other in sessions:  # it has heard from some
            if rng.random() < 0.3:
                for session, seq in frontiers[other].items():
                    seen[session] = max(seen.get(session, 0), seq)
        first = seen.get(author, 0) + 1
        deps = tuple(sorted((one, seq) for one, seq in seen.items() if one != author))
        history.append(frame(author, first, first + rng.randrange(3), deps))
        seen[author] = history[-1].last
    arrivals = history + rng.sample(history, len(history) // 2)
    rng.shuffle(arrivals)
    applied = Applied()
    inbox = Inbox(applied.seen)
    for arrival in arrivals:
        inbox.offer(arrival)
        applied.drain(inbox)
    assert len(applied.order) == len(history)
    assert inbox.frames == inbox.bytes == 0
    small = Inbox((again := Applied()).seen, max_frames=3)
    for _ in range(len(history)):  # dropped ones are offered again, as repair does
        for arrival in arrivals:
            small.offer(arrival)
            again.drain(small)
    assert again.frontier == applied.frontier
