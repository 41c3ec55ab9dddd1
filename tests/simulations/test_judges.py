"""Each judge refuses a history made by hand that breaks what it stands for, and takes one that does
not; and in a simulated world each has something to judge.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest

from crdt.clock import COUNTER_BITS, DRIFT_MS
from simulations import specification
from simulations.agents.clients import judges
from simulations.judges import (
    Availability,
    CounterBounds,
    HybridClocks,
    Intention,
    Judge,
    ListOrder,
    NoDuplicateEffect,
    OutOfThinAir,
    SessionGuarantees,
    SetFull,
    Specified,
)
from simulations.judges.history import History, Outcome, Read, Write
from simulations.run import simulate
from simulations.scenarios.ready import SCENARIOS

LEDGER = "Ledger/1"
ANN, BOB = 1, 2
NOTHING: Mapping[int, int] = {}


class Story:
    """A history told one line after the other; a second goes by with each."""

    def __init__(self) -> None:
        self.history = History()
        self.now = 0.0
        self._seqs = {ANN: 0, BOB: 0}

    def write(
        self,
        who: int,
        place: str | tuple[str, ...],
        action: str,
        value: Any = None,
        *,
        seen: Mapping[int, int] = NOTHING,
        outcome: Outcome = Outcome.INFO,
        **more: Any,
    ) -> Write:
        self.now += 1
        self._seqs[who] += 1
        place = (place,) if isinstance(place, str) else place
        rest: dict[str, Any] = {
            "run": f"client {who}.1",
            "document": LEDGER,
            "stamp": int(self.now),
        } | more
        return self.history.write(
            Write(
                f"client {who}", place=place, action=action, value=value, outcome=outcome,
                at=self.now, dot=(who, self._seqs[who]), seen=seen, replica=f"host {who}", **rest,
            )
        )  # fmt: skip

    def add(self, who: int, value: Any, **more: Any) -> Write:
        return self.write(who, "entries", "insert", value, **more)

    def read(self, who: int, outcome: Outcome = Outcome.OK, **more: Any) -> Read:
        """`more`: what a Read has, and else fields."""
        self.now += 1
        own: dict[str, Any] = {"run": f"client {who}.1"}
        own |= {name: more.pop(name) for name in ("seen", "final", "run", "reason") if name in more}
        return self.history.read(
            Read(
                f"client {who}", LEDGER, more, outcome, at=self.now, replica=f"host {who}",
                **own,
            )
        )  # fmt: skip


def wrong(judge: Judge, story: Story) -> list[str]:
    found = judge.judge(story.history)
    assert judge.checked > 0
    return found


# ------------------------------------------------------------------ sessions


def sessions() -> SessionGuarantees:
    return SessionGuarantees(("entries",))


def test_a_session_that_always_sees_more_is_good() -> None:
    story = Story()
    story.add(ANN, "a")
    story.read(ANN, entries=("a",))
    story.read(BOB)
    story.read(BOB, entries=("a",))
    story.add(BOB, "b")
    story.read(ANN, entries=("a", "b"))
    assert wrong(sessions(), story) == []


def test_who_does_not_read_what_it_wrote_is_found() -> None:
    story = Story()
    story.add(ANN, "a")
    story.read(ANN)
    assert wrong(sessions(), story) == [
        "read your writes: client 1 reading Ledger/1 at 2.000 s misses 'a'"
    ]


def test_a_read_that_goes_back_is_found() -> None:
    story = Story()
    story.add(ANN, "a")
    story.read(BOB, entries=("a",))
    story.read(BOB)
    assert wrong(sessions(), story)[0].startswith("monotonic reads: client 2")


def test_writes_of_one_session_that_are_seen_out_of_order_are_found() -> None:
    story = Story()
    story.add(ANN, "first")
    story.add(ANN, "second")
    story.read(BOB, entries=("second",))
    assert wrong(sessions(), story)[0].startswith("monotonic writes: client 2")


def test_an_answer_that_is_seen_without_its_question_is_found() -> None:
    story = Story()
    story.add(ANN, "question")
    story.read(BOB, entries=("question",))
    story.add(BOB, "answer")
    story.read(ANN, entries=("question", "answer"))
    story.history.read(Read("client 3", LEDGER, {"entries": ("answer",)}))
    assert wrong(sessions(), story)[0].startswith("writes follow reads: client 3")


def test_what_a_crash_took_nobody_is_owed_and_what_was_durable_everybody() -> None:
    story = Story()
    story.add(ANN, "lost")
    story.read(ANN, run="client 1.2")
    assert wrong(sessions(), story) == []
    story = Story()
    kept = story.add(ANN, "kept")
    story.history.acknowledge(ANN, {0: kept.dot[1]})
    story.read(ANN, run="client 1.2")
    assert wrong(sessions(), story) == [
        "read your writes: client 1 reading Ledger/1 at 2.000 s misses 'kept'"
    ]


def test_who_carries_what_it_saw_is_owed_it_at_another_replica() -> None:
    story = Story()
    story.write(ANN, "entries", "insert", "a", run="client 1")
    story.read(ANN, run="client 1").replica = "host 2"
    assert wrong(sessions(), story)[0].startswith("read your writes: client 1")


# ------------------------------------------------------------------ sets


def full(story: Story) -> tuple[list[str], SetFull]:
    judge = SetFull(("entries",))
    return judge.judge(story.history), judge


def test_what_stays_is_stable_and_how_long_it_took_is_told() -> None:
    story = Story()
    story.add(ANN, "a", outcome=Outcome.OK)
    story.read(BOB)
    story.read(BOB, entries=("a",))
    found, judge = full(story)
    result = judge.results[LEDGER, "entries"]
    assert found == []
    assert (result.stable, result.stale, result.valid) == (("a",), ("a",), True)
    assert result.latencies[1.0] == 1.0


def test_what_was_acknowledged_and_is_not_in_the_last_read_is_lost() -> None:
    story = Story()
    story.add(ANN, "a", outcome=Outcome.OK)
    story.read(ANN, entries=("a",))
    story.read(BOB)
    found, judge = full(story)
    assert len(found) == 1
    assert judge.results[LEDGER, "entries"].lost == ("a",)


def test_what_was_seen_once_counts_as_known_though_nobody_acknowledged_it() -> None:
    story = Story()
    story.add(ANN, "a")
    story.read(BOB, entries=("a",))
    story.read(BOB)
    assert full(story)[1].results[LEDGER, "entries"].lost == ("a",)


def test_what_nobody_knew_of_is_never_read_and_proves_nothing() -> None:
    story = Story()
    story.add(ANN, "a")
    story.read(BOB)
    found, judge = full(story)
    result = judge.results[LEDGER, "entries"]
    assert found == []
    assert (result.never_read, result.valid) == (("a",), None)


def test_an_absence_before_it_was_known_is_no_loss() -> None:
    story = Story()
    added = story.add(ANN, "a")
    story.read(BOB)
    story.history.acknowledge(ANN, {0: added.dot[1]}, story.now)
    assert full(story)[1].results[LEDGER, "entries"].never_read == ("a",)


def test_a_read_of_what_is_on_no_disk_yet_does_not_count() -> None:
    story = Story()
    story.add(ANN, "a")
    story.read(ANN, Outcome.INFO, entries=("a",))
    story.read(BOB)
    assert full(story)[0] == []


def test_what_was_on_a_lost_disk_alone_is_owed_to_nobody() -> None:
    for alone in (True, False):
        story = Story()
        added = story.add(ANN, "a")
        story.history.acknowledge(ANN, {0: added.dot[1]}, alone=alone)
        story.read(ANN, entries=("a",))
        story.history.disk_lost("host 1")
        story.read(BOB)
        assert len(full(story)[0]) == (0 if alone else 1)


def test_an_element_that_is_there_twice_is_found() -> None:
    story = Story()
    story.add(ANN, "a", outcome=Outcome.OK)
    story.read(ANN, entries=("a", "a"))
    found, judge = full(story)
    assert found == ["Ledger/1, entries: 'a' is there 2 times"]
    assert judge.results[LEDGER, "entries"].valid is False


# ------------------------------------------------------------------ effects


@pytest.mark.parametrize(
    ("final", "good"), [(5, True), (7, True), (3, True), (4, False), (0, False), (105, False)]
)
def test_a_counter_is_what_was_acknowledged_and_some_of_the_rest(final: int, good: bool) -> None:
    story = Story()
    story.write(ANN, "tally", "add", 5, outcome=Outcome.OK)
    story.write(ANN, "tally", "add", 2)
    story.write(BOB, "tally", "add", -2)
    story.write(BOB, "tally", "add", 100, outcome=Outcome.FAIL)
    story.read(BOB, tally=1)  # before the end it may be anything
    story.read(ANN, tally=final, final=True)
    assert (wrong(CounterBounds(("tally",)), story) == []) is good


def test_every_amount_counts_once() -> None:
    for tally, good in ((5, True), (10, False), (7, False)):
        story = Story()
        story.write(ANN, "tally", "add", 5)
        story.write(BOB, "tally", "add", 2)
        story.read(ANN, tally=tally, seen={ANN: 1})
        assert (wrong(NoDuplicateEffect((), ("tally",)), story) == []) is good


def test_every_element_shows_once() -> None:
    for log, good in ((("a", "b"), True), (("a", "b", "a"), False)):
        story = Story()
        story.read(ANN, log=log)
        assert (wrong(NoDuplicateEffect(("log",), ()), story) == []) is good


@pytest.mark.parametrize(
    ("values", "good"),
    [
        ({"entries": ("a",), "title": "t", "findings": {"k": 1}, "script": ("x", "y")}, True),
        ({"tally": 77}, True),
        ({"entries": ("b",)}, False),
        ({"title": "refused"}, False),
        ({"title": "later"}, False),
        ({"findings": {"other": 1}}, False),
        ({"script": ("x", "z")}, False),
    ],
)
def test_nothing_is_read_that_nobody_wrote(values: dict[str, Any], good: bool) -> None:
    story = Story()
    story.add(ANN, "a")
    story.write(ANN, "title", "set", "t")
    story.write(ANN, ("findings", "k"), "set", 1)
    story.write(ANN, "script", "type", (0, ("x", "y")))
    story.write(ANN, "title", "set", "refused", outcome=Outcome.FAIL)
    story.read(BOB, title="t")
    story.read(BOB, **values)
    story.write(ANN, "title", "set", "later")
    assert (wrong(OutOfThinAir(without=("tally",)), story) == []) is good


# ------------------------------------------------------------------ meaning


INTENTIONS = {
    "title": Specified(specification.register),
    "labels": Specified(specification.elements, frozenset),
    "hours": Specified(specification.mapping(specification.counter)),
}


@pytest.mark.parametrize(
    ("values", "good"),
    [
        ({"title": "of bob", "labels": ["x"], "hours": {"k": 2}}, True),
        ({"title": "of ann", "labels": ["x"], "hours": {"k": 2}}, False),
        ({"title": "of bob", "labels": [], "hours": {"k": 2}}, False),
        ({"title": "of bob", "labels": ["x"], "hours": {"k": 9}}, False),
        ({"title": "of bob", "labels": ["x"], "hours": {}}, False),
    ],
)
def test_values_mean_what_the_specification_says(values: dict[str, Any], good: bool) -> None:
    story = Story()
    story.write(ANN, "title", "set", "of ann")
    story.write(BOB, "title", "set", "of bob")
    story.write(ANN, "labels", "insert", "x", seen={ANN: 1})
    story.write(BOB, "labels", "insert", "x", seen={ANN: 2, BOB: 1})
    story.write(ANN, "labels", "remove", "x", seen={ANN: 2})  # not having seen Bob's: it stays
    story.write(ANN, ("hours", "k"), "add", 7, seen={ANN: 3})
    story.write(ANN, ("hours", "k"), "delete", seen={ANN: 4})
    story.write(ANN, ("hours", "k"), "add", 2, seen={ANN: 5})
    story.read(BOB, seen={ANN: 6, BOB: 2}, **values)
    assert (wrong(Intention(INTENTIONS), story) == []) is good


def test_what_a_replica_has_not_seen_means_nothing_there() -> None:
    story = Story()
    story.write(ANN, "title", "set", "a")
    story.read(BOB)
    story.read(BOB, title="a")
    assert wrong(Intention(INTENTIONS), story) == [
        "client 2 reading Ledger/1 at 3.000 s: title is 'a', and means None"
    ]


# ------------------------------------------------------------------ order


def order(story: Story) -> list[str]:
    return wrong(ListOrder(("script",)), story)


def test_one_order_that_everybody_agrees_with_is_good() -> None:
    story = Story()
    story.write(ANN, "script", "type", (0, ("a", "b")))
    story.read(ANN, script=("a", "b"), seen={ANN: 1})
    story.write(BOB, "script", "type", (0, ("c", "d")))
    story.read(BOB, script=("c", "d"), seen={BOB: 1})
    story.read(ANN, script=("a", "b", "c", "d"), seen={ANN: 1, BOB: 1})
    story.write(ANN, "script", "type", (3, ("e",)), seen={ANN: 1, BOB: 1})
    story.read(ANN, script=("a", "b", "c", "e", "d"), seen={ANN: 2, BOB: 1})
    story.write(ANN, "script", "rub", (0, ("a",)), seen={ANN: 2, BOB: 1})
    story.read(ANN, script=("b", "c", "e", "d"), seen={ANN: 3, BOB: 1})
    story.read(BOB, script=("a", "b", "c", "d"), seen={ANN: 1, BOB: 1})
    assert order(story) == []


def test_reads_that_no_one_order_explains_are_found() -> None:
    story = Story()
    story.read(ANN, script=("a", "b", "c"))
    story.read(BOB, script=("c", "d"))
    story.read(BOB, script=("d", "a"))
    assert "in a circle" in order(story)[0]


def test_what_is_not_where_it_was_put_is_found() -> None:
    story = Story()
    story.write(ANN, "script", "type", (1, ("b",)))
    story.read(ANN, script=("b", "a"), seen={ANN: 1})
    assert "are not at 1" in order(story)[0]


def test_what_is_still_there_after_it_was_removed_is_found() -> None:
    story = Story()
    story.write(ANN, "script", "rub", (0, ("a",)))
    story.read(ANN, script=("a",), seen={ANN: 1})
    assert len(order(story)) == 2  # right after, and having seen it


def test_what_comes_back_is_found() -> None:
    story = Story()
    story.write(ANN, "script", "rub", (0, ("a",)))
    story.read(BOB, script=("a",))  # which has not seen that yet
    story.read(BOB, script=(), seen={ANN: 1})
    story.read(BOB, script=("a",), seen={ANN: 1})
    assert order(story) == [
        "client 2 reading Ledger/1 at 4.000 s, script: shows 'a', which it had seen removed"
    ]


def test_runs_that_are_mixed_are_found_unless_the_one_was_put_into_the_other() -> None:
    for seen, good in ((NOTHING, False), ({ANN: 1}, True)):
        story = Story()
        story.write(ANN, "script", "type", (0, ("a", "b")))
        story.write(BOB, "script", "type", (1, ("x",)), seen=seen)
        story.read(ANN, script=("a", "x", "b"), seen={ANN: 1, BOB: 1})
        assert (order(story) == []) is good


# ------------------------------------------------------------------ clocks, answers


def stamped(story: Story, who: int, ms: int, count: int = 0, **more: Any) -> Write:
    clocks = {"wall_ms": 1_000, "furthest_ms": 1_200} | more
    return story.write(who, "title", "set", "x", stamp=(ms << COUNTER_BITS) + count, **clocks)


def test_stamps_that_grow_near_the_wall_are_good() -> None:
    story = Story()
    stamped(story, ANN, 1_000)
    stamped(story, ANN, 1_000, 1)
    stamped(story, BOB, 1_200)
    stamped(story, ANN, 1_200, 1)
    assert wrong(HybridClocks(), story) == []


def test_stamps_that_stand_still_lag_or_run_ahead_are_found() -> None:
    for ms, what in ((1_000, "after"), (999, "clock that shows"), (9_000, "clock that shows")):
        story = Story()
        stamped(story, ANN, 1_000)
        stamped(story, ANN if what == "after" else BOB, ms)
        found = wrong(HybridClocks(), story)
        assert len(found) == 1
        assert what in found[0]


def test_who_travels_to_a_clock_far_behind_may_get_a_smaller_stamp() -> None:
    for ms, good in ((1_100 + DRIFT_MS, True), (1_100, False)):
        story = Story()
        stamped(story, ANN, ms, run="traveller", wall_ms=ms, furthest_ms=ms)
        stamped(story, BOB, 1_050, run="traveller", furthest_ms=ms)
        assert (wrong(HybridClocks(), story) == []) is good


def test_a_write_below_what_its_writer_had_seen_is_found() -> None:
    for seen, good in ((NOTHING, True), ({ANN: 1}, False)):
        story = Story()
        stamped(story, ANN, 1_100, field_stamp=20)
        stamped(story, BOB, 1_100, field_stamp=10, seen=seen)
        assert (wrong(HybridClocks(), story) == []) is good


def test_who_is_up_and_does_not_answer_is_found_but_for_its_disk() -> None:
    for reason, good in (("the disk is full", True), ("no quorum", False)):
        story = Story()
        story.add(ANN, "a", outcome=Outcome.FAIL, reason=reason)
        story.read(ANN)
        assert (wrong(Availability(frozenset({"the disk is full"})), story) == []) is good
    story.read(BOB, Outcome.FAIL, reason="no quorum")
    assert len(wrong(Availability(frozenset()), story)) == 2


# ------------------------------------------------------------------ in a world


def test_every_judge_has_something_to_judge_in_a_world() -> None:
    counts = simulate(SCENARIOS["partition"], 1).counts
    checked = {type(one).__name__: counts[f"checked {type(one).__name__}"] for one in judges()}
    assert min(checked.values()) > 0, checked


def test_a_traveller_works_at_one_replica_after_the_other() -> None:
    seen: Counter[str] = Counter()
    for seed in range(20):
        outcome = simulate(SCENARIOS["partition"], seed)
        assert outcome.violations == []
        seen += outcome.counts
        if seen["travels put off"]:  # a replica had less than it had seen elsewhere
            break
    assert min(seen["travels made"], seen["travels put off"]) > 0
