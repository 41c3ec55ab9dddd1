"""The checkpointer and what must not count: bad bytes, lies about them, and failing parts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from crdt.errors import CodecError, InvalidValue
from crdt.snapshot import encode_snapshot
from persistence.base import FrameError, ServiceUnavailable
from persistence.checkpointer import Capture, prove
from persistence.memory_checkpoints import MemoryCheckpoints
from tests.persistence.checkpoint_world import World
from tests.persistence.world import make_mesh


@pytest.fixture
def world() -> World:
    return World()


# ------------------------------------------------------------------------------------- bad bytes


class Flipping(MemoryCheckpoints):
    """Gives back other bytes than it was given, for some shards."""

    bad: tuple[int, ...] = ()

    async def load(self, id: int) -> bytes | None:
        data = await super().load(id)
        shards = {
            info.id: info.shard for shard in range(4) for info in self._server.checkpoints(shard)
        }
        return data and data[:-1] + b"?" if shards.get(id) in self.bad else data


async def test_other_bytes_on_reading_back_leave_the_older_one(world: World) -> None:
    node = world.node()
    for shard in range(3):
        node.write(shard, "old")
    await node.round()
    flipping = Flipping(world.server)
    flipping.bad = (1,)
    node.store = flipping
    node.restart(world)
    for shard in range(3):
        node.write(shard, "new")
    with pytest.raises(ServiceUnavailable, match=r"checkpoint 5 of shard 1 .* other bytes"):
        await node.round()
    assert world.ids(1) == [(2, True)], "the damaged one stayed, or the older one went"
    assert (world.ids(0), world.ids(2)) == ([(4, True)], [(6, True)]), "it kept others waiting"
    assert node.checkpointer.newest.keys() == {0, 1, 2}
    assert node.events.of("checkpoint.failed")[0]["shard"] == 1
    flipping.bad = ()
    await node.round()
    assert world.ids(1) == [(7, True)]


async def test_a_damaged_checkpoint_is_refused_and_then_replaced(world: World) -> None:
    node = world.node()
    node.write(0, "x")
    await node.round()
    world.server.corrupt(1)
    assert await node.checkpointer.load(0) is None
    (refused,) = node.events.of("checkpoint.refused")
    assert (refused["shard"], refused["id"], refused["replica"]) == (0, 1, "a")
    await node.round()
    assert world.ids() == [(2, True)], "a damaged checkpoint was not replaced"
    assert await node.checkpointer.load(0) is not None


@pytest.mark.parametrize(
    "lie", [{"frontier": {7: 2**53 - 1}}, {"frontier": {}}, {"digest": bytes(16)}]
)
async def test_what_is_said_of_a_checkpoint_must_be_so(
    world: World, lie: dict[str, object]
) -> None:
    """Also a frontier that nobody can ever reach: it must not keep all from writing for ever."""
    node = world.node()
    node.write(0, "x")
    await node.round()
    world.server.alter(1, **lie)
    assert await node.checkpointer.load(0) is None
    assert "not those of the sealed snapshot" in str(node.events.of("checkpoint.refused")[0])
    node.restart(world)
    node.write(0, "y")
    await node.round()
    assert world.ids() == [(2, True)]


async def test_checkpoints_of_others_are_refused(world: World) -> None:
    node = world.node()
    node.write(0, "x")
    node.write(1, "y")
    mesh, sealed = world.authority.mesh, node.sealed(0)
    with pytest.raises(CodecError, match="of shard 0, not of shard 1"):
        prove(mesh, 1, sealed)
    with pytest.raises(FrameError):
        prove(make_mesh(seed=9).mesh, 0, sealed)
    with pytest.raises(FrameError):
        prove(mesh, 0, b"garbage")
    for at in range(0, len(sealed), 7):
        with pytest.raises((FrameError, CodecError)):
            prove(mesh, 0, sealed[:at] + bytes((sealed[at] ^ 1,)) + sealed[at + 1 :])
    lease = await node.store.acquire(1, "x", 60)
    assert lease is not None
    shard = node.writer.shards[0]
    foreign = await node.store.write(
        lease, frontier=shard.frontier, log_offset=0, digest=shard.digest(), data=sealed
    )
    await node.store.verified(lease, foreign)
    assert await node.checkpointer.load(1) is None


async def test_a_member_that_signs_nonsense_is_refused(world: World) -> None:
    """A digest that is not the content's, and sessions nobody could verify."""
    node = world.node()
    node.write(0, "x")
    writer = node.writer
    state = writer.shards[0]
    certificates = writer.opener.trust.certificates(sorted(state.frontier))
    wrong = encode_snapshot(replace(state.snapshot(), digest=bytes(16)))
    right = encode_snapshot(state.snapshot())
    sealer = writer.sealer
    with pytest.raises(CodecError, match="digest is not that of its content"):
        prove(world.authority.mesh, 0, sealer.seal_snapshot(0, wrong, certificates, {}, 1))
    with pytest.raises(CodecError, match="without the certificates"):
        prove(world.authority.mesh, 0, sealer.seal_snapshot(0, right, [], {}, 1))
    prove(world.authority.mesh, 0, sealer.seal_snapshot(0, right, certificates, {}, 1))


async def test_a_capture_that_lacks_what_is_newest_is_not_written(world: World) -> None:
    node = world.node()
    node.write(0, "x")
    old = node.sealed(0)
    node.write(0, "y")
    await node.round()
    node.write(0, "z")

    async def stale(_: int) -> Capture:
        return Capture(old, 0)

    node.capture = stale
    await node.round()
    assert world.ids() == [(1, True)]
    assert node.events.of("checkpoint.stale") == [{"shard": 0}]


# ------------------------------------------------------------------------------------- failures


async def test_a_shard_that_cannot_be_captured_does_not_stop_the_others(world: World) -> None:
    node = world.node()
    for shard in range(4):
        node.write(shard, "x")
    capture = node.capture

    async def failing(shard: int) -> Capture:
        if shard == 1:
            raise InvalidValue("a snapshot of 999 bytes, above 10")
        if shard == 2:
            return Capture(b"nonsense", 0)
        return await capture(shard)

    node.capture = failing
    with pytest.raises(ServiceUnavailable, match="shard 1 can't be made a checkpoint: a snapshot"):
        await node.round()
    assert node.checkpointer.newest.keys() == {0, 3}
    assert [fields["shard"] for fields in node.events.of("checkpoint.failed")] == [1, 2]
    assert [world.server.holder(shard) for shard in range(4)] == ["a", "", "", "a"]
    node.capture = capture
    assert (await node.round()).keys() == {0, 1, 2, 3}


async def test_a_store_that_fails_ends_the_round_and_the_next_begins_behind_it(
    world: World,
) -> None:
    """A shard that always takes too long must not keep those behind it from their turn."""
    node = world.node()
    for shard in range(4):
        node.write(shard, "x")
    write = node.store.write

    async def failing(lease: object, **fields: object) -> int:
        if lease.shard == 1:  # type: ignore[attr-defined]
            raise ServiceUnavailable("no answer", "wait")
        return await write(lease, **fields)  # type: ignore[arg-type]

    node.store.write = failing  # type: ignore[method-assign]
    with pytest.raises(ServiceUnavailable, match="no answer"):
        await node.round()
    assert node.checkpointer.newest.keys() == {0}
    with pytest.raises(ServiceUnavailable, match="no answer"):
        await node.round()
    assert node.checkpointer.newest.keys() == {0, 2, 3}
    assert node.captured == [0, 1, 2, 3, 1]


async def test_a_store_that_is_down_is_told_and_comes_back(world: World) -> None:
    node = world.node()
    node.write(0, "x")
    world.server.stop("maintenance")
    with pytest.raises(ServiceUnavailable, match="maintenance"):
        await node.round()
    with pytest.raises(ServiceUnavailable, match="maintenance"):
        await node.checkpointer.load(0)
    world.server.start()
    assert (await node.round()).keys() == {0}
    world.server.stop()
    with pytest.raises(ServiceUnavailable):
        await node.checkpointer.close()
    assert not node.checkpointer.leases


async def test_a_checkpoint_that_is_replaced_while_it_is_loaded(world: World) -> None:
    node = world.node()
    node.write(0, "x")
    first = (await node.checkpointer.round())[0]
    node.write(0, "y")
    second = (await node.checkpointer.round())[0]
    loaded = await node.checkpointer.load(0, first)
    assert loaded is not None
    assert loaded.info == second

    async def never(id: int) -> bytes | None:
        return None

    node.store.load = never  # type: ignore[method-assign]
    with pytest.raises(ServiceUnavailable, match="replaced 3 times"):
        await node.checkpointer.load(0)


async def test_a_proof_that_always_takes_too_long_does_not_keep_the_others_waiting(
    world: World,
) -> None:
    """A checkpoint that claims more than is here, and cannot be loaded to see whether it is so."""
    node = world.node()
    for shard in range(3):
        node.write(shard, "x")
    await node.round()
    world.server.alter(1, frontier={7: 2**53 - 1})
    node.restart(world)
    for shard in range(3):
        node.write(shard, "y")
    load = node.store.load

    async def failing(id: int) -> bytes | None:
        if id == 1:
            raise ServiceUnavailable("no answer", "wait")
        return await load(id)

    node.store.load = failing  # type: ignore[method-assign]
    for _ in range(2):
        with pytest.raises(ServiceUnavailable, match="no answer"):
            await node.round()
    assert world.ids(1) == [(4, True)]
    assert world.ids(2) == [(5, True)]
    assert [fields["shard"] for fields in node.events.of("checkpoint.failed")] == [0, 0]


@pytest.mark.parametrize("call", ["load", "verified"])
async def test_attempts_that_fail_leave_at_most_one_behind(world: World, call: str) -> None:
    """A store that takes what it cannot give back must not fill up, whole shards at a time."""
    node = world.node()
    node.write(0, "old")
    await node.round()
    node.write(0, "new")
    for _ in range(3):
        world.server.fail_next(call)
        with pytest.raises(ServiceUnavailable, match="failed at"):
            await node.round()
    assert world.ids() == [(1, True), (4, False)]
    await node.round()
    assert world.ids() == [(5, True)]


async def test_a_checkpoint_that_counts_is_no_leftover(world: World) -> None:
    """That it counts was not heard: the answer was lost."""
    node = world.node()
    node.write(0, "x")
    world.server.fail_next("verified", done=True)
    with pytest.raises(ServiceUnavailable, match="was lost"):
        await node.round()
    node.write(0, "y")
    world.server.fail_next("write")
    with pytest.raises(ServiceUnavailable, match="failed at write"):
        await node.round()
    assert world.ids() == [(1, True)]
    await node.round()
    assert world.ids() == [(2, True)]
