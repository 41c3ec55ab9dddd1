"""How far a stream was read: no position is passed before what lies there is safe."""

from __future__ import annotations

import random

import pytest

from mesh.services import tail as module
from mesh.services.tail import Fate, Frame, Tail


class Judgement:
    """What became of frames, as a test says it; of those not named, `other`."""

    def __init__(self, other: Fate = Fate.APPLIED) -> None:
        self.other = other
        self.of: dict[int, Fate] = {}

    def __call__(self, frame: Frame) -> Fate:
        return self.of.get(frame.last, self.other)


def took(tail: Tail[int], *lasts: int, now: float = 0.0) -> None:
    for last in lasts:
        tail.took(last, Frame(0, 7, last, last), now)


def test_the_safe_position_is_before_the_oldest_frame_not_on_disk() -> None:
    tail, judge = Tail({0: 0, 1: 0}), Judgement()
    took(tail, 1, 2, 3)
    tail.passed(0, 4)
    assert (tail.positions()[0], tail.safe()[0]) == (4, 0)
    judge.of[2] = Fate.SETTLED
    tail.settle(judge)
    assert tail.safe()[0] == 0, "the first one is not on disk"
    judge.of[1] = Fate.SETTLED
    tail.settle(judge)
    assert tail.safe() == {0: 2, 1: 0}
    judge.of[3] = Fate.SETTLED
    tail.settle(judge)
    assert (tail.safe(), tail.waiting) == ({0: 4, 1: 0}, 0)


def test_what_is_held_is_not_read_again_and_what_is_lost_is() -> None:
    tail, judge = Tail({0: 0}), Judgement(Fate.HELD)
    took(tail, 1, 2, 3, 4)
    assert tail.review(1e6, judge) == []
    judge.of[3] = Fate.LOST
    moves = tail.moves
    assert tail.review(2e6, judge) == [0]
    assert (tail.positions()[0], tail.safe()[0], tail.waiting) == (2, 0, 2)
    assert tail.moves > moves, "what was asked for before must not be counted"


@pytest.mark.parametrize("behind", [False, True], ids=["the first", "behind one that is held"])
def test_what_stays_lost_is_read_again_less_and_less_often(behind: bool) -> None:
    tail, judge = Tail({0: 0}), Judgement(Fate.LOST)
    now = 0.0
    times: list[float] = []
    if behind:
        judge.of[1] = Fate.HELD
        took(tail, 1)
    took(tail, 2)
    while len(times) < 8:
        now += 0.5
        if tail.review(now, judge):
            times.append(now)
            took(tail, 2, now=now)
    gaps = [after - before for before, after in zip([0.0, *times], times, strict=False)]
    assert gaps[0] == module.FIRST_PATIENCE_S, "soon at first"
    assert gaps == sorted(gaps)
    assert gaps[-1] == module.LAST_PATIENCE_S
    judge.of[1] = judge.of[2] = Fate.SETTLED
    tail.settle(judge)
    took(tail, 3, now=now)
    assert tail.review(now + module.FIRST_PATIENCE_S, judge) == [0], "what comes next is new"


def test_a_cause_behind_more_than_can_be_remembered_is_reached(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 3)
    tail, judge = Tail({0: 0}), Judgement(Fate.HELD)
    took(tail, 1, 2, 3, 4, 5)
    assert tail.waiting == 3
    assert tail.reading(judge) == {0: 5}, "what they wait for may come behind them"
    tail.passed(0, 6)
    assert tail.safe()[0] == 0
    for last in (1, 2, 3):
        judge.of[last] = Fate.SETTLED
    moves = tail.moves
    tail.settle(judge)
    assert (tail.reading(judge), tail.safe()[0]) == ({0: 3}, 3), "4 and 5 were not remembered"
    assert tail.moves > moves


def test_what_the_disk_is_slow_with_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 3)
    tail, judge = Tail({0: 0, 1: 0}), Judgement(Fate.APPLIED)
    took(tail, 1, 2, 3)
    assert tail.reading(judge) == {1: 0}
    judge.of[1] = judge.of[2] = Fate.SETTLED
    tail.settle(judge)
    assert tail.reading(judge) == {0: 3, 1: 0}


def test_one_that_never_settles_does_not_keep_others_from_being_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 3)
    tail, judge = Tail({0: 0}), Judgement(Fate.SETTLED)
    judge.of[1] = Fate.HELD
    for last in range(1, 50):
        took(tail, last)
        tail.settle(judge)
        assert tail.reading(judge) == {0: last}
    assert tail.safe()[0] == 0


def test_taken_is_what_needs_no_more_waiting() -> None:
    tail, judge = Tail({0: 0, 1: 0}), Judgement(Fate.HELD)
    took(tail, 1, 2)
    assert tail.taken(judge) == {0: 2, 1: 0}
    judge.of[2] = Fate.APPLIED
    assert tail.taken(judge) == {1: 0}


class Reader:
    """Reads one shard's frames 1..n in the order of `stream`, with an inbox of three."""

    def __init__(self, stream: list[int], disk: int, start: int) -> None:
        self.stream, self.disk, self.applied = stream, disk, disk
        self.inbox: set[int] = set()
        self.tail = Tail({0: start})

    def judge(self, frame: Frame) -> Fate:
        if frame.last <= self.disk:
            return Fate.SETTLED
        if frame.last <= self.applied:
            return Fate.APPLIED
        return Fate.HELD if frame.last in self.inbox else Fate.LOST

    def step(self, now: float, count: int) -> None:
        self.tail.settle(self.judge)
        self.tail.review(now, self.judge)
        at = self.tail.reading(self.judge).get(0, len(self.stream))
        for number in self.stream[at : at + count]:
            at += 1
            if number > self.applied and (len(self.inbox) < 3 or number == self.applied + 1):
                self.inbox.add(number)
            while self.applied + 1 in self.inbox:
                self.applied += 1
                self.inbox.discard(self.applied)
            frame = Frame(0, 7, number, number)
            if self.judge(frame) is Fate.SETTLED:
                self.tail.passed(0, at)
            else:
                self.tail.took(at, frame, now)


@pytest.mark.parametrize("seed", range(30))
def test_whatever_the_order_nothing_is_skipped(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 4)
    rng = random.Random(seed)
    stream = list(range(1, 41))
    for _ in range(rng.randrange(60)):
        at = rng.randrange(len(stream))
        to = min(len(stream) - 1, at + rng.randrange(8))
        stream[at], stream[to] = stream[to], stream[at]
    reader, now = Reader(stream, 0, 0), 0.0
    for _ in range(3_000):
        now += 0.3
        reader.step(now, rng.randrange(1, 6))
        if rng.random() < 0.5:
            reader.disk = rng.randint(reader.disk, reader.applied)
        safe = reader.tail.safe()[0]
        assert all(number <= reader.disk for number in stream[:safe])
        if rng.random() < 0.01:
            reader = Reader(stream, reader.disk, safe)
    assert (reader.applied, reader.disk) == (40, 40)
