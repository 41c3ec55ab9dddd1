"""What is sent to bring a replica up to date is judged by what it lacks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from persistence.base import FrameRecord
from simulations.invariants.resync import SPARE_BYTES, TIMES, ResyncBound
from simulations.run import simulate
from simulations.scenarios.ready import SCENARIOS
from simulations.world import World

SIZE = 50_000
"""Of the frame that one replica has and the other lacks."""
ASKER, GIVER = "replica-1", "replica-2"


def judged(tell: Callable[[ResyncBound, FrameRecord], None]) -> list[str]:
    """What the checker says of two replicas that agree, but for one more frame at the giver, once
    this was told.
    """
    messages: list[str] = []

    def at_the_end(world: World) -> None:
        checker = ResyncBound(world)
        giver = world.hosts[GIVER]
        assert giver.replica is not None
        frame = FrameRecord(0, 7, 1, 1, False, bytes(SIZE))
        giver.replica._started().core.hosts[0].journaled[7] = 1
        checker.journaled(giver, [frame])
        tell(checker, frame)
        checker.end(())
        messages.extend(one.message for one in checker.violations)

    calm = SCENARIOS["calm"]
    few = dataclasses.replace(calm, replicas=2, shards=1, fault_s=3.0, invariants=(at_the_end,))
    assert simulate(few, 1).violations == []
    return messages


def ask(checker: ResyncBound, kind: str, **fields: object) -> None:
    checker.event(ASKER, kind, {"peer": GIVER, "shard": 0, **fields})


def serve(checker: ResyncBound, size: int, **fields: object) -> None:
    checker.event(GIVER, "repair.served", {"peer": ASKER, "shard": 0, "bytes": size, **fields})


def test_what_is_lacking_may_come_twice_and_no_more() -> None:
    def tell(size: int) -> Callable[[ResyncBound, FrameRecord], None]:
        def told(checker: ResyncBound, frame: FrameRecord) -> None:
            del frame
            ask(checker, "repair.asked", ranges=1)
            ask(checker, "repair.asked", ranges=1)
            serve(checker, size, frames=1, holes=False)

        return told

    most = TIMES * SIZE + SPARE_BYTES
    assert judged(tell(most)) == []
    assert len(judged(tell(most + 1))) == 1


def test_a_whole_shard_counts_where_frames_would_do() -> None:
    def on_disk(checker: ResyncBound, frame: FrameRecord) -> None:
        giver = checker.world.hosts[GIVER].disk
        giver.frames = lambda: [frame]  # type: ignore[method-assign]
        ask(checker, "repair.snapshot", parts=0)
        # The rest of it, over another link: it is the same shard.
        ask(checker, "repair.snapshot", parts=3)
        serve(checker, 9 * SIZE, parts=9)

    assert f"lacked {SIZE} bytes" in judged(on_disk)[0]


def test_a_whole_shard_is_free_where_frames_are_gone_or_do_not_help() -> None:
    def gone(checker: ResyncBound, frame: FrameRecord) -> None:
        del frame
        ask(checker, "repair.snapshot", parts=0)
        serve(checker, 9 * SIZE, parts=9)

    def corrupt(checker: ResyncBound, frame: FrameRecord) -> None:
        giver = checker.world.hosts[GIVER].disk
        giver.frames = lambda: [frame]  # type: ignore[method-assign]
        ask(checker, "digest.mismatch", ours="a", theirs="b")
        gone(checker, frame)

    assert judged(gone) == []
    assert judged(corrupt) == []
