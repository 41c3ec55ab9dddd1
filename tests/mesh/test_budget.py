"""What a peer may make a replica do: honest paces pass, floods wait, and nobody does for long."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.budget import (
    BREAK_S,
    CAPTURE_CALLS,
    DEBT_MOST,
    PAUSE_S,
    UNITS_MOST,
    UNITS_PER_S,
    Account,
    Budget,
)
from mesh.wire import (
    Frames,
    Frontier,
    Journaled,
    Message,
    Ping,
    SnapshotPart,
    Summary,
    Want,
    WantSnapshot,
    encode,
)


@given(st.lists(st.tuples(st.floats(0, 2), st.integers(0, 5_000)), max_size=60))
def test_who_waits_when_told_to_never_gets_more_than_time_brings(
    spent: list[tuple[float, int]],
) -> None:
    budget, now, total = Budget(), 0.0, 0
    for quiet, units in spent:
        now += quiet + budget.wait(now + quiet)
        budget.spend(units, now)
        total += units
        assert total - units <= UNITS_MOST + UNITS_PER_S * now + 1


def test_a_pace_within_the_limit_never_waits() -> None:
    budget = Budget()
    for number in range(10_000):
        now = number * 0.01
        budget.spend(UNITS_PER_S * 0.0099, now)
        assert budget.wait(now) == 0.0
        assert budget.over_for(now) == 0.0


def test_a_flood_is_over_without_a_break_and_one_that_rests_is_not() -> None:
    budget, now = Budget(), 0.0
    while now < 10.0:
        budget.spend(100, now)
        now += budget.wait(now)
    assert budget.over_for(now) > 7.0
    now += BREAK_S + 100 / UNITS_PER_S
    assert budget.over_for(now) == 0.0


def test_one_large_answer_is_paid_for_within_seconds() -> None:
    budget = Budget()
    budget.spend(1e12, 0.0)
    assert budget.wait(0.0) == DEBT_MOST / UNITS_PER_S + PAUSE_S
    assert budget.wait(DEBT_MOST / UNITS_PER_S + 0.1) == 0.0


def test_what_is_saved_up_is_bounded() -> None:
    budget = Budget()
    assert budget.is_full(1e6)
    budget.spend(UNITS_MOST, 1e6)
    assert budget.wait(1e6) > 0.0


@pytest.mark.parametrize(
    ("message", "calls"),
    [
        (Ping(), 1), (Journaled({0: {1: 1}}), 1), (WantSnapshot(0), 1), (Want(0, ()), 1),
        (Summary(()), 1 + CAPTURE_CALLS),
        (Frontier(0, 0, 0, 0, True, b"", {}), 1 + CAPTURE_CALLS),
        (Frontier(0, 0, 0, 0, False, b"", {}), 1),
    ],
    ids=repr,
)  # fmt: skip
def test_what_messages_cost(message: Message, calls: int) -> None:
    account = Account()
    for _ in range(int(UNITS_MOST) // calls):
        account.hear(message, len(encode(message)), 0.0)
    assert account.wait(0.0) == 0.0 or UNITS_MOST % calls == 0
    account.hear(message, len(encode(message)), 0.0)
    assert account.wait(0.0) > 0.0


@pytest.mark.parametrize(
    "message", [Summary(()), Frontier(0, 0, 0, 0, True, b"", {})], ids=["summary", "frontier"]
)
def test_a_capture_is_paid_for_once_however_much_waits_for_it(message: Message) -> None:
    account = Account()
    for _ in range(int(UNITS_MOST) - 1):
        account.hear(message, len(encode(message)), 0.0, captured=True)
    assert account.wait(0.0) == 0.0


def test_new_frames_and_parts_that_were_asked_for_are_free() -> None:
    account = Account()
    for _ in range(100_000):
        account.hear(Frames((b"frame",)), 32_768, 0.0)
        account.hear(SnapshotPart(0, 1, 0, 9, b""), 262_144, 0.0)
    assert account.is_full(0.0)


def test_large_volumes_are_slowed_down_and_count_for_no_calls() -> None:
    account = Account()
    account.hear(Journaled({}), 8 << 20, 0.0)
    for _ in range(8):
        account.answer(8 << 20, 0.0)
        account.again(4 << 20, 0.0)
        account.snapshot_again(8 << 20, 0.0)
    assert account.volume.wait(0.0) > 0.0
    assert account.calls.wait(0.0) == 0.0
