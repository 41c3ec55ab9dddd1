"""What every checkpoint store must do, as one function that any test runner (or none) can call.

    await check_checkpoints(make)

`make` gives a new, empty place each time it is called: a function that opens one more store on that
place, as several replicas do. Raises AssertionError naming the guarantee that does not hold. That a
checkpoint survives the server's own end is the adapter's own test.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from persistence.base import CheckpointStore, Lease, LeaseLost, ServiceUnavailable

Open = Callable[[], CheckpointStore]
Make = Callable[[], Awaitable[Open]]
Check = Callable[[CheckpointStore, CheckpointStore], Awaitable[None]]

LONG_S = 60.0
SHORT_S = 0.2
_PATIENCE_S = 20.0
_DIGEST = bytes(range(16))


async def check_checkpoints(make: Make) -> None:
    """Run all checks, each on a place of its own with two stores open."""
    for check in CHECKPOINT_CHECKS:
        await run_check(check, make)


async def run_check(check: Check, make: Make) -> None:
    """Run one check on a place of its own."""
    open_store = await make()
    one, other = open_store(), open_store()
    try:
        await check(one, other)
    finally:
        await one.close()
        await other.close()


async def _lease(store: CheckpointStore, shard: int, holder: str, ttl_s: float = LONG_S) -> Lease:
    lease = await store.acquire(shard, holder, ttl_s)
    assert lease is not None, f"{holder} did not get the free lease of shard {shard}"
    return lease


async def _write(store: CheckpointStore, lease: Lease, data: bytes = b"sealed") -> int:
    return await store.write(
        lease, frontier={7: 3, 2**53 - 1: 9}, log_offset=41, digest=_DIGEST, data=data
    )


async def _refused(work: Awaitable[object]) -> bool:
    try:
        await work
    except LeaseLost:
        return True
    return False


async def _take_over(store: CheckpointStore, shard: int, holder: str) -> Lease:
    """Wait until the other's lease has run out, and take it."""
    for _ in range(int(_PATIENCE_S / SHORT_S)):
        if lease := await store.acquire(shard, holder, LONG_S):
            return lease
        await asyncio.sleep(SHORT_S)
    raise AssertionError(f"a lease of {SHORT_S} s was still valid after {_PATIENCE_S} s")


async def check_empty(one: CheckpointStore, other: CheckpointStore) -> None:
    """A new place has nothing, and says what it is."""
    assert await one.newest() == {}, "a new place has checkpoints"
    assert await other.load(1) is None, "a new place has a checkpoint"
    version = await one.version()
    assert version, "the version is empty"
    assert "\n" not in version, "the version is more than one line"


async def check_one_holder(one: CheckpointStore, other: CheckpointStore) -> None:
    """A valid lease is nobody else's; shards don't disturb each other."""
    lease = await _lease(one, 3, "a")
    assert (lease.shard, lease.holder) == (3, "a"), "the lease is somebody else's"
    assert await other.acquire(3, "b", LONG_S) is None, "a lease has two holders"
    again = await _lease(one, 3, "a")
    assert again == lease, "renewing a lease changed it"
    assert await other.acquire(3, "b", LONG_S) is None, "renewing a lease gave it away"
    assert (await _lease(other, 4, "b")).shard == 4, "shards share a lease"


async def check_race(one: CheckpointStore, other: CheckpointStore) -> None:
    """Of many who want a lease at the same time, one gets it."""
    stores = [one, other] * 4
    leases = await asyncio.gather(
        *(store.acquire(0, f"holder {at}", LONG_S) for at, store in enumerate(stores))
    )
    assert sum(lease is not None for lease in leases) == 1, f"a race gave {leases}"


async def check_release(one: CheckpointStore, other: CheckpointStore) -> None:
    """A released lease is free at once, and good for nothing more."""
    lease = await _lease(one, 1, "a")
    await one.release(lease)
    taken = await _lease(other, 1, "b")
    assert taken.fence > lease.fence, "the fence did not grow with the holder"
    await one.release(lease)
    assert await one.acquire(1, "a", LONG_S) is None, "releasing a lost lease took the new one away"
    await other.release(taken)
    back = await _lease(one, 1, "a")
    assert back.fence > taken.fence, "the fence did not grow when the first holder came back"
    assert await _refused(_write(one, lease)), "a lease of an earlier turn could write"


async def check_released_lease_writes_nothing(one: CheckpointStore, other: CheckpointStore) -> None:
    """Also before anybody else has taken it."""
    lease = await _lease(one, 1, "a")
    made = await _write(one, lease)
    await one.release(lease)
    assert await _refused(_write(one, lease)), "wrote with a released lease"
    assert await _refused(one.verified(lease, made)), "verified with a released lease"
    assert await other.newest() == {}, "a checkpoint counts that nobody could verify"


async def check_round_trip(one: CheckpointStore, other: CheckpointStore) -> None:
    """What was written is read back bit for bit, by others too, and counts once it is verified."""
    lease = await _lease(one, 5, "a")
    data = bytes(range(256)) * 1024
    made = await _write(one, lease, data)
    assert await one.load(made) == data, "bytes were altered"
    assert await other.load(made) == data, "another store does not see what was written"
    assert await other.newest() == {}, "an unverified checkpoint counts"
    assert await one.verified(lease, made) == 0, "something went, and there was nothing older"
    info = (await other.newest())[5]
    expected = (made, 5, lease.fence, "a", {7: 3, 2**53 - 1: 9}, 41, _DIGEST, len(data), True)
    found = (
        info.id, info.shard, info.fence, info.replica, dict(info.frontier), info.log_offset,
        info.digest, info.size, info.verified,
    )  # fmt: skip
    assert found == expected, f"newest tells {found}, and it was {expected}"
    assert info.written_ms > 0, "nobody knows when it was written"


async def check_replacing(one: CheckpointStore, other: CheckpointStore) -> None:
    """A verified checkpoint replaces all older ones of its shard, and no others."""
    lease, elsewhere = await _lease(one, 0, "a"), await _lease(one, 1, "a")
    away = await _write(one, elsewhere, b"away")
    await one.verified(elsewhere, away)
    first = await _write(one, lease, b"first")
    await one.verified(lease, first)
    left = await _write(one, lease, b"left behind")
    last = await _write(one, lease, b"last")
    assert await one.load(first) == b"first", "the older one went before the newer was verified"
    newest = await other.newest()
    assert newest[0].id == first, "an unverified checkpoint replaced a verified one"
    assert await one.verified(lease, last) == 2, "not all older ones went"
    assert await other.load(first) is None, "an older checkpoint stayed"
    assert await other.load(left) is None, "an unverified leftover stayed"
    assert await other.load(last) == b"last", "the newest checkpoint went"
    newest = await other.newest()
    assert {shard: info.id for shard, info in newest.items()} == {0: last, 1: away}
    assert await one.verified(lease, last) == 0, "verifying twice removed something"


async def check_verifying_what_is_gone(one: CheckpointStore, other: CheckpointStore) -> None:
    """Saying that something is proven which is not there must not pass for success."""
    lease = await _lease(one, 0, "a")
    made = await _write(one, lease)
    await one.discard(lease, made)
    try:
        await one.verified(lease, made)
    except ServiceUnavailable:
        assert await other.newest() == {}, "a checkpoint that is gone counts"
        return
    raise AssertionError("a checkpoint that is gone was verified")


async def check_discarding(one: CheckpointStore, other: CheckpointStore) -> None:
    """A checkpoint that failed its proof goes alone; one that counts stays, whoever errs."""
    lease = await _lease(one, 0, "a")
    good = await _write(one, lease, b"good")
    await one.verified(lease, good)
    bad = await _write(one, lease, b"bad")
    await one.discard(lease, bad)
    await one.discard(lease, bad)
    assert await other.load(bad) is None, "a discarded checkpoint stayed"
    assert (await other.newest())[0].id == good, "discarding one took another away"
    await one.discard(lease, good)
    assert (await other.newest())[0].id == good, "the only checkpoint that counts was discarded"


async def check_fencing(one: CheckpointStore, other: CheckpointStore) -> None:
    """Whoever lost the lease changes nothing any more, whatever he still has under way."""
    old = await _lease(one, 2, "a", SHORT_S)
    kept, pending = await _write(one, old, b"kept"), await _write(one, old, b"pending")
    await one.verified(old, kept)
    lease = await _take_over(other, 2, "b")
    assert lease.fence > old.fence, "the fence did not grow with the holder"
    assert await _refused(_write(one, old)), "wrote with an old fence"
    assert await _refused(one.verified(old, pending)), "verified with an old fence"
    assert await _refused(one.discard(old, kept)), "discarded with an old fence"
    assert await one.load(kept) == b"kept", "an old fence removed a checkpoint"
    assert (await one.newest())[2].id == kept, "an old fence changed which one is newest"
    forged = Lease(2, "b", lease.fence + 1)
    assert await _refused(_write(one, forged)), "wrote with a fence that never was"
    fresh = await _write(other, lease, b"fresh")
    assert await other.verified(lease, fresh) == 2, "leftovers of an older fence stayed"
    assert (await one.newest())[2].id == fresh, "the new holder's checkpoint is not the newest"


async def check_fences_of_other_shards(one: CheckpointStore, other: CheckpointStore) -> None:
    """A lease is good for its own shard alone."""
    lease, elsewhere = await _lease(one, 0, "a"), await _lease(other, 1, "b")
    made = await _write(one, lease, b"mine")
    await one.verified(lease, made)
    await other.discard(elsewhere, made)
    assert await one.load(made) == b"mine", "another shard's lease removed a checkpoint"
    assert await _refused(_write(other, Lease(0, "b", elsewhere.fence))), "a lease of two shards"


async def check_cancelling(one: CheckpointStore, other: CheckpointStore) -> None:
    """A caller that gives up disturbs nobody; what he asked for may have happened or not."""
    lease = await _lease(one, 0, "a")
    given_up = asyncio.ensure_future(_write(one, lease, b"given up"))
    await asyncio.sleep(0)
    given_up.cancel()
    await asyncio.gather(given_up, return_exceptions=True)
    made = await _write(one, lease, b"kept")
    assert await one.verified(lease, made) in (0, 1), "more went than there was"
    assert (await other.newest())[0].id == made, "a cancelled write disturbed the next"


async def check_closing(one: CheckpointStore, other: CheckpointStore) -> None:
    """A closed store does nothing more; others, and what was written, stay."""
    lease = await _lease(one, 0, "a")
    made = await _write(one, lease)
    await one.close()
    await one.close()
    assert await other.load(made) == b"sealed", "closing one store lost a checkpoint"
    try:
        await one.newest()
    except ServiceUnavailable:
        return
    raise AssertionError("a closed store answered")


CHECKPOINT_CHECKS: tuple[Check, ...] = (
    check_empty,
    check_one_holder,
    check_race,
    check_release,
    check_released_lease_writes_nothing,
    check_round_trip,
    check_replacing,
    check_verifying_what_is_gone,
    check_discarding,
    check_fencing,
    check_fences_of_other_shards,
    check_cancelling,
    check_closing,
)
"""All checks; each takes two stores of one new place."""
