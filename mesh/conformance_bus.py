"""What every `Bus` must do, as checks any test runner can run.

    @asynccontextmanager
    async def make() -> AsyncIterator[Buses]: ...     # two clients of an empty server, closed after

    for check in BUS_CHECKS:
        await check(make)

`OUTAGE_CHECKS` also stop and start the server. A check returns, or raises AssertionError with what
was wrong. Nothing here imports a test runner.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from mesh.environment import Bus, BusEntry
from persistence.base import ServiceUnavailable

__all__ = ("BUS_CHECKS", "OUTAGE_CHECKS", "BusServer", "Buses", "Check", "MakeBuses", "check_bus")

PATIENCE_S = 20.0
"""How long an awaited condition may take before the check fails."""
SHORT_S = 0.2
"""How long a read waits that is to find nothing."""


class BusServer(Protocol):
    """What the checks do to the server behind the buses."""

    async def flush(self) -> None:
        """Remove all data of the mesh, behind the back of its clients."""

    async def trim(self, shard: int, keep: int) -> None:
        """Remove the shard's oldest entries, all but `keep`."""

    async def stop(self) -> None:
        """Take the server away, connections and all."""

    async def start(self) -> None:
        """Bring it back at the same address, without its data."""


@dataclass(frozen=True, slots=True)
class Buses:
    """Two clients of one server, of the same mesh of at least four shards, nothing published yet.

    Streams keep `stream_entries_max` entries at least, and not ten times as many.
    """

    one: Bus
    other: Bus
    server: BusServer
    stream_entries_max: int


MakeBuses: TypeAlias = Callable[[], AbstractAsyncContextManager[Buses]]
Check: TypeAlias = Callable[[MakeBuses], Awaitable[None]]


async def _refuses(call: Awaitable[object], what: str) -> None:
    """The call raises what the port allows, in time, fit to be shown."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            await call
    except ServiceUnavailable as error:
        said = [error.reason, error.cure]
    else:
        raise AssertionError(f"{what} raised nothing")
    assert all(text.strip() for text in said), f"{what}: no reason or no cure: {said}"
    assert not any("\n" in text for text in said), f"{what}: more than one line: {said}"


async def _read_on(
    bus: Bus, after: Mapping[int, str], count: int, limit: int = 1_000
) -> list[BusEntry]:
    """The next `count` entries of these shards, by as many reads as it takes; none is trimmed."""
    position = dict(after)
    entries: list[BusEntry] = []
    async with asyncio.timeout(PATIENCE_S):
        while len(entries) < count:
            batch = await bus.read(position, limit=limit, wait_s=1.0)
            assert not batch.trimmed, f"trimmed {batch.trimmed}, and nothing was"
            entries.extend(batch.entries)
            position |= {entry.shard: entry.position for entry in batch.entries}
    assert len(entries) == count, f"{len(entries)} entries where {count} are"
    return entries


async def _newest(bus: Bus) -> BusEntry:
    """The last entry of shard 0."""
    batch = await bus.read({0: ""}, limit=1_000_000, wait_s=0)
    return batch.entries[-1]


def _frames(count: int, shard: int = 0, size: int = 20) -> list[tuple[int, bytes]]:
    return [(shard, f"{shard}/{number}".encode().ljust(size, b".")) for number in range(count)]


async def check_entries_come_back_in_order_bit_for_bit(make: MakeBuses) -> None:
    """Of any size; positions go on exactly after the entry they came with."""
    every_byte = bytes(range(256))
    sizes = [0, 1, 3, 4_095, 4_096, 65_536, 300_000, 1_000_000, 5_000_000, 2]
    frames = [(number % 2, (every_byte * (size // 256 + 1))[:size])
              for number, size in enumerate(sizes)]  # fmt: skip
    async with make() as buses:
        await buses.one.publish(frames[:6])
        await buses.one.publish(frames[6:])
        for bus in (buses.one, buses.other):
            entries = await _read_on(bus, {0: "", 1: ""}, len(frames))
            for shard in (0, 1):
                got = [entry.data for entry in entries if entry.shard == shard]
                assert got == [data for at, data in frames if at == shard], "order or bits"
            of_one = [entry for entry in entries if entry.shard == 1]
            for index, entry in enumerate(of_one):
                batch = await bus.read({1: entry.position}, limit=100, wait_s=0)
                assert list(batch.entries) == of_one[index + 1 :], f"after entry {index}"


async def check_all_read_one_order(make: MakeBuses) -> None:
    """Two writers at once: every reader sees one order, and each writer's own order in it."""
    async with make() as buses:

        async def write(bus: Bus, name: bytes) -> None:
            for number in range(20):
                await bus.publish([(2, b"%s%03d" % (name, number))])

        await asyncio.gather(write(buses.one, b"a"), write(buses.other, b"b"))
        mine = await _read_on(buses.one, {2: ""}, 40)
        assert mine == await _read_on(buses.other, {2: ""}, 40, limit=7), "two orders"
        for name in (b"a", b"b"):
            own = [entry.data for entry in mine if entry.data.startswith(name)]
            assert own == sorted(own), f"frames of {name!r} out of order"


async def check_limit(make: MakeBuses) -> None:
    """A read brings about `limit` entries a shard, of every shard; the rest comes later."""
    async with make() as buses:
        await buses.one.publish([frame for at in range(3) for frame in _frames(50, at)])
        batch = await buses.other.read({0: "", 1: "", 2: ""}, limit=10, wait_s=0)
        for shard in range(3):
            count = sum(entry.shard == shard for entry in batch.entries)
            assert 1 <= count <= 20, f"{count} entries of shard {shard} where about 10 were asked"
        entries = await _read_on(buses.other, {0: "", 1: "", 2: ""}, 150, limit=10)
        for shard in range(3):
            data = [(shard, entry.data) for entry in entries if entry.shard == shard]
            assert data == _frames(50, shard), f"shard {shard} is not whole"


async def check_only_shards_named_are_read(make: MakeBuses) -> None:
    """Others may be full, none of them is in the batch; {} names none."""
    async with make() as buses:
        generation = await buses.one.publish([*_frames(3, 1), *_frames(4, 3)])
        batch = await buses.one.read({0: "", 3: ""}, limit=10, wait_s=0)
        assert {entry.shard for entry in batch.entries} == {3}, "shards that were not named"
        batch = await buses.one.read({}, limit=10, wait_s=0)
        assert (list(batch.entries), batch.generation) == ([], generation), "reading no shard"


async def check_waiting_read_is_woken(make: MakeBuses) -> None:
    """By the first entry in any shard named, long before its time is over."""
    async with make() as buses:
        waiting = asyncio.ensure_future(
            buses.one.read({0: "", 1: "", 3: ""}, limit=10, wait_s=10 * PATIENCE_S)
        )
        done, _ = await asyncio.wait({waiting}, timeout=SHORT_S)
        assert not done, "a read of nothing did not wait"
        await buses.other.publish([(3, b"news")])
        async with asyncio.timeout(PATIENCE_S):
            batch = await waiting
        assert [(entry.shard, entry.data) for entry in batch.entries] == [(3, b"news")], batch


async def check_read_waits_no_longer_than_told(make: MakeBuses) -> None:
    """And then returns nothing, with the generation."""
    async with make() as buses:
        generation = await buses.one.publish([(0, b"there")])
        (entry,) = await _read_on(buses.one, {0: ""}, 1)
        for wait_s in (0.0, SHORT_S):
            async with asyncio.timeout(PATIENCE_S):
                started = asyncio.get_running_loop().time()
                batch = await buses.one.read({0: entry.position, 1: ""}, limit=9, wait_s=wait_s)
                took = asyncio.get_running_loop().time() - started
            assert took >= wait_s * 0.9, f"waited {took} s instead of {wait_s}"
            assert (list(batch.entries), list(batch.trimmed)) == ([], []), batch
            assert batch.generation == generation, "another generation, and nothing happened"


async def check_one_generation_for_all(make: MakeBuses) -> None:
    """All clients see the same, however they ask, as long as nothing happens to the data."""
    async with make() as buses:
        seen = {
            (await buses.one.read({0: ""}, limit=1, wait_s=0)).generation,
            await buses.other.publish([]),
            await buses.one.publish(_frames(3)),
            (await buses.other.read({0: "", 1: ""}, limit=5, wait_s=0)).generation,
            (await buses.one.read({0: ""}, limit=1, wait_s=0)).generation,
            await buses.one.publish([(1, b"more")]),
        }
        assert len(seen) == 1, f"generations {seen}"
        assert all(seen), "a generation without a name"


async def check_flush_is_told(make: MakeBuses) -> None:
    """As another generation, to writers, readers and to a reader that waits; work goes on."""
    async with make() as buses:
        old = await buses.one.publish(_frames(5))
        entries = await _read_on(buses.other, {0: ""}, 5)
        waiting = asyncio.ensure_future(
            buses.other.read({0: entries[-1].position}, limit=9, wait_s=3 * SHORT_S)
        )
        await asyncio.wait({waiting}, timeout=SHORT_S)
        await buses.server.flush()
        async with asyncio.timeout(PATIENCE_S):
            told = (await waiting).generation
        assert told != old, "a waiting reader was not told"
        new = await buses.one.publish([(0, b"after")])
        assert new not in ("", old), "a writer was not told"
        batch = await buses.other.read({0: ""}, limit=9, wait_s=0)
        assert [entry.data for entry in batch.entries] == [b"after"], "old data, or none"
        assert batch.generation == new, "writer and reader see different generations"


async def check_trimming_is_told(make: MakeBuses) -> None:
    """To whoever had not read what went, and to nobody else; reading goes on with what is kept."""
    async with make() as buses:
        generation = await buses.one.publish(_frames(30))
        entries = await _read_on(buses.other, {0: ""}, 30)
        await buses.server.trim(0, 10)
        for bus in (buses.one, buses.other):
            batch = await bus.read({0: entries[5].position, 1: ""}, limit=99, wait_s=0)
            assert list(batch.trimmed) == [0], f"trimmed is {batch.trimmed}"
            assert list(batch.entries) == entries[20:], "not what is kept"
            assert batch.generation == generation, "trimming is no new generation"
            for position in (entries[20].position, entries[29].position, ""):
                batch = await bus.read({0: position}, limit=99, wait_s=0)
                assert not batch.trimmed, f"told of trimming where nothing unread went: {position}"
        await buses.server.trim(0, 0)
        batch = await buses.one.read({0: entries[25].position}, limit=99, wait_s=0)
        assert list(batch.trimmed) == [0], "a stream trimmed to nothing was not told"
        batch = await buses.one.read({0: entries[29].position}, limit=99, wait_s=0)
        assert not batch.trimmed, "all was read"


async def check_streams_are_bounded(make: MakeBuses) -> None:
    """The newest `stream_entries_max` stay, old ones go, and slow readers are told."""
    async with make() as buses:
        kept = buses.stream_entries_max
        count = 12 * kept
        position = ""
        for limit in (10, 2 * count):
            # The reader is up to date, and its bus knows that, when too much comes at once.
            for _ in range(2):
                await buses.one.publish(_frames(5))
                position = (await _read_on(buses.other, {0: position}, 5))[-1].position
            await buses.one.publish(_frames(count))
            batch = await buses.other.read({0: position}, limit=limit, wait_s=0)
            assert list(batch.trimmed) == [0], f"not told with limit {limit}"
            position = (await _newest(buses.other)).position
        batch = await buses.one.read({0: ""}, limit=2 * count, wait_s=0)
        held = [entry.data for entry in batch.entries]
        assert kept <= len(held) < 10 * kept, f"{len(held)} entries held, at least {kept} are to"
        assert held == [data for _, data in _frames(count)][-len(held) :], "not the newest"


async def check_cancelled_calls_disturb_nobody(make: MakeBuses) -> None:
    """Whoever gives up a read loses nothing; whoever gives up a write holds nobody up."""
    async with make() as buses:
        await buses.one.read({0: ""}, limit=1, wait_s=0)
        for number in range(5):
            waiting = asyncio.ensure_future(buses.one.read({0: ""}, limit=9, wait_s=PATIENCE_S))
            await asyncio.wait({waiting}, timeout=0.002 * number)
            waiting.cancel()
            await asyncio.wait({waiting})
            writing = asyncio.ensure_future(buses.one.publish([(1, b"given up")]))
            await asyncio.wait({writing}, timeout=0.0002 * number)
            writing.cancel()
            await asyncio.wait({writing})
        await buses.one.publish(_frames(3))
        entries = await _read_on(buses.one, {0: ""}, 3)
        assert [(0, entry.data) for entry in entries] == _frames(3), "a read lost something"
        batch = await buses.other.read({1: ""}, limit=99, wait_s=0)
        assert {entry.data for entry in batch.entries} <= {b"given up"}, "a broken frame"


async def check_close_ends_everything(make: MakeBuses) -> None:
    """A waiting read ends, later calls are refused, closing again does nothing, no task is left."""
    before = asyncio.all_tasks()
    async with make() as buses:
        await buses.one.publish(_frames(1))
        waiting = asyncio.ensure_future(buses.one.read({1: ""}, limit=9, wait_s=10 * PATIENCE_S))
        await asyncio.wait({waiting}, timeout=SHORT_S)
        await asyncio.gather(buses.one.close(), buses.one.close())
        await _refuses(waiting, "the read that waited")
        await buses.one.close()
        await _refuses(buses.one.publish(_frames(1)), "publish after close")
        await _refuses(buses.one.read({0: ""}, limit=1, wait_s=0), "read after close")
        await _refuses(buses.one.version(), "version after close")
        assert len(await _read_on(buses.other, {0: ""}, 1)) == 1, "the other bus is disturbed"
    left = [task.get_name() for task in asyncio.all_tasks() - before]
    assert not left, f"tasks left behind: {left}"


async def check_announced_rows_come_back(make: MakeBuses) -> None:
    """To everybody, bit for bit, the newest of each name, until they expire or are taken away."""
    async with make() as buses:
        assert await buses.other.announced("") == {}, "rows out of nowhere"
        await buses.one.announce("b", b"old", ttl_s=PATIENCE_S)
        await buses.one.announce("b", bytes(range(256)), ttl_s=PATIENCE_S)
        await buses.other.announce("a", b"other", ttl_s=PATIENCE_S)
        await buses.other.announce("deep/a", b"deep", ttl_s=PATIENCE_S)
        for bus in (buses.one, buses.other):
            rows = await bus.announced("")
            assert list(rows) == ["a", "b", "deep/a"], f"names {list(rows)}"
            assert rows["b"] == bytes(range(256)), "not the newest, or not bit for bit"
            assert await bus.announced("deep/") == {"deep/a": b"deep"}, "the prefix counts"
        await buses.one.announce("a", b"", ttl_s=PATIENCE_S)
        await buses.one.announce("b", b"short", ttl_s=SHORT_S)
        batch = await buses.one.read({0: "", 1: ""}, limit=9, wait_s=2 * SHORT_S)
        assert not batch.entries, "a row in a stream"
        assert await buses.one.announced("") == {"deep/a": b"deep"}, "not taken away, or expired"


async def check_flush_takes_rows_away(make: MakeBuses) -> None:
    """Whoever left them leaves them again."""
    async with make() as buses:
        await buses.one.announce("a", b"1", ttl_s=PATIENCE_S)
        await buses.server.flush()
        assert await buses.other.announced("") == {}, "rows of before"
        await buses.one.announce("a", b"2", ttl_s=PATIENCE_S)
        assert await buses.other.announced("") == {"a": b"2"}, "not the new row"


async def check_trimming_below_what_all_have_read(make: MakeBuses) -> None:
    """Nothing at or after the least position goes; in another generation nothing at all."""
    async with make() as buses:
        kept = buses.stream_entries_max
        generation = await buses.one.publish(_frames(3 * kept // 2))
        entries = (await buses.other.read({0: ""}, limit=9 * kept, wait_s=0)).entries
        late, last = entries[-2], entries[-1]
        for below, of in (
            ({0: [late.position]}, "another"), ({0: [last.position, ""]}, generation),
            ({1: [last.position]}, generation), ({}, generation), ({0: []}, generation),
        ):  # fmt: skip
            await buses.one.trim(below, generation=of)
            batch = await buses.one.read({0: ""}, limit=9 * kept, wait_s=0)
            assert list(batch.entries) == list(entries), f"trimmed by {below} of {of}"
        await buses.one.trim({0: [last.position, late.position]}, generation=generation)
        batch = await buses.one.read({0: ""}, limit=9 * kept, wait_s=0)
        assert late in batch.entries, "what somebody has not read is gone"
        assert list(batch.entries) == list(entries[-len(batch.entries) :]), "a hole"
        # Servers free whole nodes; with so many entries there is one to free.
        assert len(batch.entries) < len(entries), "nothing was trimmed"
        batch = await buses.other.read({0: late.position}, limit=9 * kept, wait_s=0)
        assert not batch.trimmed, "told of trimming where nothing unread went"
        batch = await buses.one.read({0: entries[0].position}, limit=9 * kept, wait_s=0)
        assert list(batch.trimmed) == [0], "not told"


async def check_version(make: MakeBuses) -> None:
    """One line for people."""
    async with make() as buses:
        version = await buses.one.version()
        assert version.strip(), "no version"
        assert "\n" not in version, "more than one line"


async def check_outage_is_told_and_passes(make: MakeBuses) -> None:
    """Every call raises while the server is away; the same objects work when it is back."""
    async with make() as buses:
        old = await buses.one.publish(_frames(5))
        await _read_on(buses.other, {0: ""}, 5)
        await buses.server.stop()
        for bus in (buses.one, buses.other):
            await _refuses(bus.publish(_frames(1)), "publish")
            await _refuses(bus.read({0: ""}, limit=1, wait_s=SHORT_S), "read")
            await _refuses(bus.version(), "version")
        await buses.server.start()
        new = await buses.one.publish([(0, b"back")])
        assert new != old, "the server lost its data, and the writer was not told"
        batch = await buses.other.read({0: ""}, limit=9, wait_s=PATIENCE_S)
        assert [entry.data for entry in batch.entries] == [b"back"], batch
        assert batch.generation == new, "the reader was not told"
        await buses.one.version()


async def check_idle_bus_survives_a_restart(make: MakeBuses) -> None:
    """Nobody asked while the server was away: the next calls work, in another generation."""
    async with make() as buses:
        old = await buses.one.publish(_frames(5))
        (*_, last) = await _read_on(buses.other, {0: ""}, 5)
        await buses.server.stop()
        await buses.server.start()
        batch = await buses.other.read({0: last.position}, limit=9, wait_s=SHORT_S)
        assert batch.generation != old, "the reader was not told"
        assert await buses.one.publish([(0, b"new")]) != old, "the writer was not told"


async def check_outage_breaks_a_waiting_read(make: MakeBuses) -> None:
    """It does not wait for its time to be over."""
    async with make() as buses:
        await buses.one.publish(_frames(1))
        waiting = asyncio.ensure_future(buses.one.read({1: ""}, limit=9, wait_s=10 * PATIENCE_S))
        await asyncio.wait({waiting}, timeout=SHORT_S)
        await buses.server.stop()
        await _refuses(waiting, "the read that waited")
        await buses.one.close()


BUS_CHECKS: tuple[Check, ...] = (
    check_entries_come_back_in_order_bit_for_bit,
    check_all_read_one_order,
    check_limit,
    check_only_shards_named_are_read,
    check_waiting_read_is_woken,
    check_read_waits_no_longer_than_told,
    check_one_generation_for_all,
    check_flush_is_told,
    check_trimming_is_told,
    check_streams_are_bounded,
    check_cancelled_calls_disturb_nobody,
    check_close_ends_everything,
    check_announced_rows_come_back,
    check_flush_takes_rows_away,
    check_trimming_below_what_all_have_read,
    check_version,
)

OUTAGE_CHECKS: tuple[Check, ...] = (
    check_outage_is_told_and_passes,
    check_idle_bus_survives_a_restart,
    check_outage_breaks_a_waiting_read,
)


async def check_bus(make: MakeBuses) -> None:
    """All checks, one after the other, each with fresh buses."""
    for check in (*BUS_CHECKS, *OUTAGE_CHECKS):
        await check(make)
