"""A replica's clock follows all that it has, however that came to it."""

from __future__ import annotations

import pytest

from crdt.clock import stamp_ms
from mesh import Replica
from tests.mesh.world import Note, World, eventually, running, same, write

AHEAD_MS = 30_000
"""Less than what a clock follows."""


class Ahead:
    """A clock whose wall shows too late a time."""

    def __init__(self, world: World) -> None:
        self._clock = world.clock

    def monotonic(self) -> float:
        return self._clock.monotonic()

    def wall_ms(self) -> int:
        return self._clock.wall_ms() + AHEAD_MS


def stamp(replica: Replica) -> int:
    """The next stamp of its clock, in Unix milliseconds."""
    return stamp_ms(replica._started().core.clock.now())


@pytest.fixture
def late(world: World) -> Replica:
    """A replica whose clock is ahead of all others'."""
    right, world.clock = world.clock, Ahead(world)  # type: ignore[assignment]
    made = world.replica("late")
    world.clock = right
    return made


async def test_who_starts_again_goes_on_after_what_its_journal_has(
    world: World, late: Replica
) -> None:
    async with running(late):
        await write(late, "early")
        reached = stamp(late)
    await world.reopen("late")
    again = world.replica("late")
    async with running(again):
        assert stamp(again) >= reached - 1_000, "its wall is right again, and its clock went back"


async def test_who_joins_a_snapshot_follows_its_giver(world: World, late: Replica) -> None:
    bob = world.replica("bob", "late")
    async with running(late):
        # A replica that lacks more than a snapshot holds asks for one.
        for number in range(2_100):
            with late.edit(Note, "1") as note:
                note.text = str(number)
        await late.flush()
        async with running(bob):
            await eventually(lambda: same(late, bob))
            assert world.probes["bob"].counts["snapshot.joined"]
            assert stamp(bob) >= world.clock.wall_ms() + AHEAD_MS - 1_000
