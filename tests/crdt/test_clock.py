"""The hybrid clock: forward only, near the wall, after what was seen, and not dragged along."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from crdt.clock import HybridClock, stamp_ms
from crdt.limits import MAX_STAMP


class Wall:
    """A wall clock that says what the test wants."""

    def __init__(self, ms: int) -> None:
        self.ms = ms

    def __call__(self) -> int:
        return self.ms


def test_stamps_are_milliseconds_and_a_counter() -> None:
    clock = HybridClock(Wall(1000))
    assert [clock.now() for _ in range(3)] == [1000 << 16, (1000 << 16) + 1, (1000 << 16) + 2]
    assert stamp_ms(clock.now()) == 1000


def test_a_full_counter_carries_into_the_milliseconds() -> None:
    clock = HybridClock(Wall(1000))
    assert clock.observe((1001 << 16) - 1)
    assert clock.now() == 1001 << 16


def test_the_wall_going_back_does_not_take_the_clock_with_it() -> None:
    wall = Wall(5000)
    clock = HybridClock(wall)
    before = clock.now()
    wall.ms = 10
    assert clock.now() == before + 1
    wall.ms = -5
    assert clock.now() == before + 2


def test_a_stamp_within_the_drift_is_followed_and_one_beyond_is_not() -> None:
    clock = HybridClock(Wall(1000), drift_ms=500)
    assert clock.observe(1500 << 16)
    assert clock.now() == (1500 << 16) + 1
    assert not clock.observe(1501 << 16)
    assert clock.now() == (1500 << 16) + 2


def test_a_writer_exceeds_a_stamp_from_the_future_without_following_it() -> None:
    clock = HybridClock(Wall(1000), drift_ms=500)
    future = 900_000 << 16
    assert clock.after(future) == future + 1
    assert clock.now() < future
    assert clock.after(3) < future


def test_at_the_end_of_time_stamps_stay_in_range() -> None:
    clock = HybridClock(Wall(1000))
    assert clock.after(MAX_STAMP) == MAX_STAMP
    assert stamp_ms(clock.now()) == 1000
    late = HybridClock(Wall(1 << 60))
    assert late.now() <= MAX_STAMP
    assert late.now() <= MAX_STAMP


@given(
    st.lists(
        st.tuples(st.integers(-(1 << 40), 1 << 40), st.integers(0, MAX_STAMP), st.booleans()),
        max_size=30,
    )
)
def test_now_always_grows_and_after_always_exceeds(script: list[tuple[int, int, bool]]) -> None:
    wall = Wall(1 << 40)
    clock = HybridClock(wall)
    last = clock.now()
    for step, stamp, observe in script:
        wall.ms += step
        if observe:
            clock.observe(stamp)
        else:
            assert clock.after(stamp) > stamp or stamp == MAX_STAMP
        now = clock.now()
        assert now > last
        last = now
