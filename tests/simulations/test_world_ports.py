"""The simulated journal and transport keep the very contracts that the real ones keep."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from mesh.conformance import TRANSPORT_CHECKS, Check, Ends
from mesh.environment import Link, LinkClosed
from persistence.base import FrameRecord, Journal, StorageError
from persistence.conformance import check_journal
from simulations.loop import SimLoop
from simulations.ports.disk import Disk, SimJournal
from simulations.ports.hosts import SimClock, SimEntropy
from simulations.ports.network import Conditions, Network, SimTransport, Unreachable
from simulations.trace import Trace, first_difference

SEEDS = range(5)
ROUGH = Conditions(latency_ms=5, jitter_ms=20, tail=0.1, loss=0.05, bandwidth=20_000_000)


def frame(seq: int, size: int = 10) -> FrameRecord:
    return FrameRecord(0, 7, seq, seq, True, bytes(size))


def new_disk(loop: SimLoop, seed: int = 1) -> Disk:
    return Disk("host", loop, Trace(loop), random.Random(seed))


def new_network(loop: SimLoop, seed: int, conditions: Conditions | None = None) -> Network:
    return Network(loop, Trace(loop), random.Random(seed), conditions)


@pytest.mark.parametrize("seed", SEEDS)
def test_journal_contract(seed: int) -> None:
    loop = SimLoop(seed)

    async def make() -> Journal:
        return SimJournal(new_disk(loop, seed))

    loop.run_until_complete(check_journal(make))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("check", TRANSPORT_CHECKS, ids=lambda check: check.__name__)
def test_transport_contract(check: Check, seed: int) -> None:
    loop = SimLoop(seed)

    @asynccontextmanager
    async def make() -> AsyncIterator[Ends]:
        network = new_network(loop, seed, ROUGH if seed % 2 else None)
        a, b = network.transport("caller"), network.transport("listener")
        try:
            yield Ends(a, "caller", b, "listener")
        finally:
            await a.close()
            await b.close()

    async def run() -> None:
        await check(make)

    loop.run_until_complete(run())


# ---------------------------------------------------------------------- the disk


@pytest.mark.parametrize(("moment", "kept"), [("before", 0), ("after", 1)])
def test_a_power_cut_inside_a_sync_loses_all_of_the_write_or_none(moment: str, kept: int) -> None:
    loop = SimLoop()
    disk = new_disk(loop)
    journal = SimJournal(disk)

    def strike(now: str) -> None:
        if now == moment:
            journal.dead = True

    async def run() -> None:
        disk.on_sync = strike
        writing = asyncio.ensure_future(journal.append([frame(1), frame(2)]))
        done, _ = await asyncio.wait([writing], timeout=5)
        assert not done, "a dead host acknowledged a write"
        writing.cancel()
        disk.on_sync = None
        again = SimJournal(disk)
        assert len(await again.replay(0, 10)) == 2 * kept

    loop.run_until_complete(run())


def test_a_full_and_a_broken_disk_refuse_until_they_are_mended() -> None:
    loop = SimLoop()
    disk = new_disk(loop)
    journal = SimJournal(disk)

    async def run() -> None:
        disk.full = True
        with pytest.raises(StorageError, match="no space"):
            await journal.append([frame(1)])
        await journal.set_meta({"small": b"still goes"})
        disk.full, disk.broken = False, True
        with pytest.raises(StorageError, match="input/output"):
            await journal.set_meta({"small": b"no"})
        disk.broken = False
        await journal.append([frame(1)])
        assert len(await journal.replay(0, 10)) == 1
        disk.lose()
        assert await journal.replay(0, 10) == []

    loop.run_until_complete(run())


def test_a_slow_disk_takes_its_time() -> None:
    async def writes(disk: Disk) -> float:
        journal = SimJournal(disk)
        for seq in range(1, 50):
            await journal.append([frame(seq)])
        return disk.loop.time()

    def took(slow: float) -> float:
        disk = new_disk(SimLoop())
        disk.slow = slow
        return disk.loop.run_until_complete(writes(disk))

    assert 20 * took(1.0) < took(50.0) < 60 * took(1.0)


# ---------------------------------------------------------------------- the network


async def linked(network: Network) -> tuple[Link, Link, SimTransport]:
    a, b = network.transport("a"), network.transport("b")
    came: asyncio.Queue[Link] = asyncio.Queue()

    async def accept(link: Link) -> None:
        came.put_nowait(link)

    await b.listen(accept)
    return await a.dial(b.address), await came.get(), b


@pytest.mark.parametrize("seed", SEEDS)
def test_a_cut_way_holds_what_is_on_it_and_the_other_way_goes_on(seed: int) -> None:
    loop = SimLoop(seed)
    network = new_network(loop, seed)

    async def run() -> None:
        mine, theirs, _ = await linked(network)
        network.cut([("a", "b")])
        await mine.send(b"one")
        await mine.send(b"two")
        await theirs.send(b"other way")
        assert await mine.receive() == b"other way"
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(60):
                await theirs.receive()
        with pytest.raises(Unreachable):
            await network.transport("a").dial("b:7400")
        network.mend([("a", "b")])
        await mine.send(b"three")
        assert [await theirs.receive() for _ in range(3)] == [b"one", b"two", b"three"]

    loop.run_until_complete(run())


def test_overlapping_cuts_end_one_by_one() -> None:
    network = new_network(SimLoop(), 1)
    network.cut([("a", "b")])
    network.cut([("a", "b"), ("b", "a")])
    network.mend([("a", "b")])
    assert network.is_cut("a", "b")
    assert network.is_cut("b", "a")
    network.mend([("a", "b"), ("b", "a")])
    assert not network.is_cut("a", "b")
    assert not network.is_cut("b", "a")


def test_a_reset_ends_both_ends() -> None:
    loop = SimLoop()
    network = new_network(loop, 1)

    async def run() -> None:
        mine, theirs, _ = await linked(network)
        await mine.send(bytes(100_000))
        assert network.reset("a", "b") == 1
        for end in (mine, theirs):
            with pytest.raises(LinkClosed):
                await end.send(b"more")

    loop.run_until_complete(run())


@pytest.mark.parametrize("silently", [False, True])
def test_who_vanishes_says_so_only_if_its_host_is_still_up(silently: bool) -> None:
    loop = SimLoop()
    network = new_network(loop, 1)

    async def run() -> None:
        mine, _, b = await linked(network)
        network.vanish(b, silently=silently)
        if silently:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(60):
                    await mine.receive()
            await mine.send(b"into the dark")
            again = network.transport("b")

            async def accept(link: Link) -> None:
                del link

            await again.listen(accept)
            await mine.send(b"it knows nothing of this link")
        with pytest.raises(LinkClosed):
            async with asyncio.timeout(60):
                await mine.receive()

    loop.run_until_complete(run())


# ---------------------------------------------------------------------- the rest of a host


def test_clocks_are_off_run_fast_and_are_set() -> None:
    loop = SimLoop()
    clock = SimClock(loop, skew_ms=-500, drift=0.001)
    start = clock.wall_ms()
    loop.now_ns = 1_000 * 1_000_000_000
    assert clock.monotonic() == pytest.approx(1_001)
    assert clock.wall_ms() - start == pytest.approx(1_001_000, abs=1)
    clock.step(-5_000)
    assert clock.wall_ms() - start == pytest.approx(996_000, abs=1)
    assert clock.monotonic() == pytest.approx(1_001)


def test_entropy_is_of_one_run_of_one_host() -> None:
    def tokens(seed: int, host: str, run: int) -> tuple[bytes, bytes, float]:
        entropy = SimEntropy(seed, host, run)
        return entropy.token(32), entropy.token(100), entropy.stream("jitter").random()

    assert tokens(1, "a", 1) == tokens(1, "a", 1)
    all_of_them = [tokens(*one) for one in ((1, "a", 1), (2, "a", 1), (1, "b", 1), (1, "a", 2))]
    assert len({part for one in all_of_them for part in one}) == 12
    assert len(all_of_them[0][1]) == 100


def test_a_trace_says_where_two_runs_part() -> None:
    one, other = ["a", "b", "c"], ["a", "b", "d"]
    assert first_difference(one, one) == ""
    assert first_difference(one, other) == "event 2:\n  a\n  b\n- c\n+ d"
    assert "None" in first_difference(one, one[:2])
