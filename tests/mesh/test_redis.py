"""What the bus over Redis does beyond its port's contract, each against a real server: what it
notices of lost data, how it uses its connections, and the forms of its keys.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis as BlockingRedis

from mesh.transports import redis as adapter
from persistence.base import ServiceUnavailable
from tests.mesh.redis_server import (
    RedisServer,
    bus,
    closing,
    serving,
    stream,
    token_key,
    until,
)
from tests.mesh.redis_strangers import certificate, tls_door

OTHER_MESH = bytes(16)
DOCUMENTED = ("~statemesh:*", "+@stream", "+get", "+set", "+ping", "+info", "+select")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RedisServer]:
    async with serving(tmp_path) as running:
        yield running


class Interrupted(list[tuple[int, bytes]]):
    """Two frames; something happens whenever the second of them is about to be written."""

    def __init__(self, happens: Callable[[], None], times: int) -> None:
        super().__init__([(0, b"first"), (1, b"second")])
        self.happened = 0
        self._happens = happens
        self._times = times
        self._passes = 0

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        self._passes += 1
        for index, frame in enumerate(list.__iter__(self)):
            # The first pass only checks the shards.
            if index == 1 and 1 < self._passes <= 1 + self._times:
                self._happens()
                self.happened += 1
            yield frame


async def everything(one: adapter.RedisBus) -> list[tuple[int, bytes]]:
    """All that is kept, by shard."""
    batch = await one.read(dict.fromkeys(range(4), ""), limit=10_000, wait_s=0)
    return sorted((entry.shard, entry.data) for entry in batch.entries)


async def test_keys_and_fields_are_the_documented_ones(server: RedisServer) -> None:
    """Replicas of every version must find each other's frames."""
    one = server.bus()
    async with closing(one):
        await one.publish([(3, b"frame")])
        keys = await server.command("KEYS", "*")
        assert isinstance(keys, list)
        assert sorted(keys) == sorted([stream(3).encode(), token_key().encode()])
        async with server.client() as client:
            rows = await client.xrange(stream(3)) or []
        assert [fields for _, fields in rows] == [{b"f": b"frame"}]


async def test_meshes_share_a_server(server: RedisServer) -> None:
    one, stranger = server.bus(), server.bus(mesh=OTHER_MESH)
    async with closing(one, stranger):
        mine = await one.publish([(0, b"mine")])
        theirs = await stranger.publish([(0, b"theirs")])
        assert mine != theirs
        assert await everything(one) == [(0, b"mine")]
        assert await everything(stranger) == [(0, b"theirs")]


async def test_first_arrivals_agree_on_the_generation(server: RedisServer) -> None:
    buses = [server.bus() for _ in range(6)]
    async with closing(*buses):
        reads = [one.read({0: ""}, limit=1, wait_s=0) for one in buses[:3]]
        seen = {batch.generation for batch in await asyncio.gather(*reads)}
        seen |= set(await asyncio.gather(*(one.publish([(0, b"x")]) for one in buses)))
        assert len(seen) == 1


async def test_large_batches_go_in_several_round_trips(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, sizes = server.bus(stream_entries_max=10_000), []
    chunks = adapter._chunks

    def counted(frames: list[tuple[int, bytes]]) -> Iterator[list[tuple[int, bytes]]]:
        for chunk in chunks(frames):
            sizes.append(sum(len(data) for _, data in chunk))
            yield chunk

    monkeypatch.setattr(adapter, "_chunks", counted)
    frames = [(at % 4, bytes([at % 251]) * 40_000) for at in range(400)]
    async with closing(one):
        await one.publish(frames)
        assert len(sizes) == 4
        assert max(sizes) <= adapter.PIPELINE_BYTES + 40_000
        assert await everything(one) == sorted(frames)


@pytest.mark.parametrize("others_arrive", [False, True])
async def test_a_flush_between_writing_and_looking_is_noticed(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch, others_arrive: bool
) -> None:
    """What was written before it is written again, so that the generation returned has it all."""
    monkeypatch.setattr(adapter, "PIPELINE_BYTES", 1)
    one, other = server.bus(), server.bus()
    tokens = itertools.count()

    def flush() -> None:
        with BlockingRedis(port=server.port) as client:
            client.flushall()
            if others_arrive:
                client.set(token_key(), f"another token {next(tokens)}")

    async with closing(one, other):
        old = await one.publish([(2, b"old")])
        frames = Interrupted(flush, times=1)
        new = await one.publish(frames)
        assert frames.happened == 1
        assert new != old
        assert {data for _, data in await everything(other)} == {b"first", b"second"}
        assert (await other.read({0: ""}, limit=1, wait_s=0)).generation == new
        with pytest.raises(ServiceUnavailable, match="went again and again"):
            await one.publish(Interrupted(flush, times=9))


async def test_a_failover_between_two_round_trips_is_noticed(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was written before it may be lost: it is written again."""
    monkeypatch.setattr(adapter, "PIPELINE_BYTES", 1)
    monkeypatch.setattr(adapter, "REFRESH_S", 0.0)
    one = server.bus()

    def demote_and_promote() -> None:
        with BlockingRedis(port=server.port) as client:
            client.replicaof("127.0.0.1", 1)
            client.replicaof("NO", "ONE")

    async with closing(one):
        old = await one.publish([])
        assert await one.publish(Interrupted(demote_and_promote, times=1)) != old
        assert await everything(one) == [(0, b"first"), (0, b"first"), *[(1, b"second")] * 2]


async def test_reads_may_block_longer_than_the_timeout(server: RedisServer) -> None:
    one = server.bus(timeout_s=0.2)
    async with closing(one):
        batch = await one.read({0: ""}, limit=1, wait_s=1.0)
        assert (list(batch.entries), batch.generation != "") == ([], True)


async def test_positions_outlive_the_bus_and_the_server(tmp_path: Path) -> None:
    """A server that kept its data is another generation all the same: it may lack the newest."""
    async with serving(tmp_path, "--appendfsync", "always", persistent=True) as server:
        first = server.bus()
        async with closing(first):
            old = await first.publish([(0, b"%d" % at) for at in range(5)])
            batch = await first.read({0: ""}, limit=2, wait_s=0)
            position = batch.entries[-1].position
        await server.stop()
        await server.start()
        second = server.bus()
        async with closing(second):
            batch = await second.read({0: position}, limit=9, wait_s=0)
            assert [entry.data for entry in batch.entries] == [b"2", b"3", b"4"]
            assert list(batch.trimmed) == []
            assert batch.generation != old
            assert batch.generation.split(".")[0] == old.split(".")[0], "the data is the same"


async def test_a_kill_ends_a_blocked_read_and_is_forgotten_at_the_next_call(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path) as server:
        one = server.bus()
        async with closing(one):
            await one.publish([(0, b"x")])
            waiting = asyncio.ensure_future(one.read({1: ""}, limit=1, wait_s=60))
            await eventually_blocked(server)
            await server.stop()
            with pytest.raises(ServiceUnavailable, match="can't be reached"):
                await waiting
            await server.start()
            await one.publish([(1, b"y")])
            batch = await one.read({1: ""}, limit=1, wait_s=60)
            assert [entry.data for entry in batch.entries] == [b"y"]


async def test_closed_connections_are_replaced_unnoticed(server: RedisServer) -> None:
    """A server that drops idle clients, or a firewall, costs one reconnect and no error."""
    one = server.bus()
    async with closing(one):
        old = await one.publish([(0, b"x")])
        batch = await one.read({0: ""}, limit=1, wait_s=0)
        await server.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        assert await one.publish([(0, b"y")]) == old
        again = await one.read({0: batch.entries[0].position}, limit=9, wait_s=0)
        assert ([entry.data for entry in again.entries], again.generation) == ([b"y"], old)


async def test_a_reconnect_does_not_begin_the_wait_anew(server: RedisServer) -> None:
    one = server.bus()
    async with closing(one):
        await one.read({0: ""}, limit=1, wait_s=0)
        started = asyncio.get_running_loop().time()
        waiting = asyncio.ensure_future(one.read({0: ""}, limit=1, wait_s=2.0))
        await asyncio.wait({waiting}, timeout=1.5)
        await server.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        assert not (await waiting).entries
        assert asyncio.get_running_loop().time() - started < 3.2


async def test_a_frozen_server_is_given_up_in_time(server: RedisServer) -> None:
    one = server.bus(timeout_s=0.3)
    async with closing(one):
        await one.publish([(0, b"x")])
        await one.read({0: ""}, limit=1, wait_s=0)
        assert server.process is not None
        server.process.send_signal(signal.SIGSTOP)
        try:
            async with asyncio.timeout(5):
                with pytest.raises(ServiceUnavailable, match=r"no answer within 0\.3 s"):
                    await one.publish([(0, b"y")])
                with pytest.raises(ServiceUnavailable, match="no answer within"):
                    await one.read({0: ""}, limit=1, wait_s=0.1)
        finally:
            server.process.send_signal(signal.SIGCONT)
        await one.publish([(0, b"z")])


async def test_nothing_is_left_on_the_server(server: RedisServer) -> None:
    """Neither by closing nor by giving up a read: connections would pile up there."""
    one = server.bus()
    await one.publish([(0, b"x")])
    for _ in range(5):
        waiting = asyncio.ensure_future(one.read({1: ""}, limit=1, wait_s=60))
        await eventually_blocked(server)
        waiting.cancel()
        await asyncio.wait({waiting})
        assert waiting.cancelled()
    await one.read({0: ""}, limit=1, wait_s=0)
    assert await clients(server) <= 2
    await one.close()

    async def alone() -> bool:
        return await clients(server) == 0

    await until(alone)


async def test_a_deleted_or_restored_stream_is_read_from_its_start(server: RedisServer) -> None:
    """A position beyond all that the stream ever had tells that it is another stream."""
    one = server.bus()
    async with closing(one):
        await one.publish([(0, b"a"), (0, b"b")])
        older = await server.command("DUMP", stream(0))
        assert isinstance(older, bytes)
        await one.publish([(0, b"c"), (0, b"d")])
        batch = await one.read({0: ""}, limit=9, wait_s=0)
        last = batch.entries[-1].position
        async with server.client() as client:
            await client.restore(stream(0), 0, older, replace=True)
        for kept in ([b"a", b"b"], []):
            reader = server.bus()
            async with closing(reader):
                for _ in range(2):
                    batch = await reader.read({0: last}, limit=9, wait_s=0)
                    assert [entry.data for entry in batch.entries] == kept
                    assert list(batch.trimmed) == [0]
            await server.command("DEL", stream(0))


async def test_entries_of_strangers_are_not_passed_over(server: RedisServer) -> None:
    """They come as empty frames, which are refused above, and told."""
    one = server.bus()
    async with closing(one):
        await one.publish([(0, b"ours")])
        await server.command("XADD", stream(0), "*", "field", "value")
        await server.command("XADD", stream(0), "*", "x", "1", "f", "with a field too many")
        batch = await one.read({0: ""}, limit=9, wait_s=0)
        assert [entry.data for entry in batch.entries] == [b"ours", b"", b"with a field too many"]


async def test_an_evicting_server_is_named_and_watched(server: RedisServer) -> None:
    await server.command("CONFIG", "SET", "maxmemory", "100mb")
    await server.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    one = server.bus()
    async with closing(one):
        assert re.fullmatch(
            r"(Redis|Valkey) [\d.]+, may evict streams: maxmemory-policy is allkeys-lru",
            await one.version(),
        )
        await one.publish([(0, b"a"), (0, b"b")])
        batch = await one.read({0: ""}, limit=1, wait_s=0)
        batch = await one.read({0: batch.entries[0].position}, limit=1, wait_s=0)
        assert list(batch.trimmed) == []
        await one.publish([(0, b"never read")])
        await server.command("DEL", stream(0))  # as an eviction would
        await one.publish([(0, b"new")])
        batch = await one.read({0: batch.entries[0].position}, limit=9, wait_s=0)
        assert (list(batch.trimmed), batch.entries[0].data) == ([0], b"new")


async def test_steady_reading_takes_one_round_trip(server: RedisServer) -> None:
    """Positions just handed out need no looking into."""
    one = server.bus()

    async def looks() -> int:
        async with server.client() as client:
            facts = await client.info("commandstats")
        return int(facts.get("cmdstat_xinfo|stream", {}).get("calls", 0))

    async with closing(one):
        position = ""
        for number in range(20):
            await one.publish([(0, b"%d" % number)])
            batch = await one.read({0: position, 1: ""}, limit=9, wait_s=0)
            position = batch.entries[0].position
            await one.read({0: position, 1: ""}, limit=9, wait_s=0)
        assert await looks() == 0
        await one.read({0: "1-1", 1: ""}, limit=99, wait_s=0)
        assert await looks() == 1


async def test_version_names_product_and_version(server: RedisServer) -> None:
    one = server.bus()
    async with closing(one):
        assert re.fullmatch(r"(Redis|Valkey) \d+\.\d+\.\d+", await one.version())


async def test_a_failover_is_another_generation(tmp_path: Path) -> None:
    """A replica is refused, naming its master; once promoted it serves, and its data is doubted."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    promptly = ("--repl-diskless-sync-delay", "0")
    async with (
        serving(tmp_path / "a", *promptly) as master,
        serving(tmp_path / "b", *promptly) as copy,
    ):
        one, other = master.bus(), copy.bus()
        async with closing(one, other):
            old = await one.publish([(0, b"x")])
            await copy.command("REPLICAOF", "127.0.0.1", master.port)
            await until(lambda: copy.command("EXISTS", token_key()))
            for call in (other.publish([(0, b"y")]), other.read({0: ""}, limit=1, wait_s=0)):
                with pytest.raises(ServiceUnavailable) as caught:
                    await call
                assert f"its master is 127.0.0.1:{master.port}" in caught.value.reason
                assert caught.value.cure == "point redis.url at its master"
            await copy.command("REPLICAOF", "NO", "ONE")
            new = await other.publish([(0, b"y")])
            assert new != old
            assert await everything(other) == [(0, b"x"), (0, b"y")]


async def test_a_demotion_on_open_connections_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A master made a replica and a master again has had its data replaced; run id and token may
    be the same, and the connections open throughout.
    """
    monkeypatch.setattr(adapter, "REFRESH_S", 0.0)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    async with serving(tmp_path / "a") as first, serving(tmp_path / "b") as second:
        one = first.bus()
        async with closing(one):
            old = await one.publish([(0, b"x")])
            batch = await one.read({0: ""}, limit=1, wait_s=0)
            assert batch.generation == old
            await first.command("REPLICAOF", "127.0.0.1", second.port)
            with pytest.raises(ServiceUnavailable, match="read-only replica"):
                await one.publish([(0, b"y")])
            with pytest.raises(ServiceUnavailable, match="read-only replica"):
                await one.read({0: ""}, limit=1, wait_s=0)
            await first.command("REPLICAOF", "NO", "ONE")
            assert await one.publish([(0, b"z")]) != old
            batch = await one.read({0: ""}, limit=1, wait_s=0)
            assert batch.generation != old


async def test_the_documented_permissions_suffice(server: RedisServer) -> None:
    """For a user with a password that needs quoting in a URL, in another database."""
    await server.command("ACL", "SETUSER", "mesh", "on", ">p@ss:/word", *DOCUMENTED)
    one = bus(f"redis://mesh:p%40ss%3A%2Fword@127.0.0.1:{server.port}/3")
    async with closing(one):
        await one.publish([(0, b"x")])
        batch = await one.read({0: ""}, limit=1, wait_s=0.01)
        await one.read({0: batch.entries[0].position}, limit=1, wait_s=0.01)
        assert await one.version()
        assert await server.command("EXISTS", stream(0)) == 0, "it is in database 0"
        assert "word" not in repr(one)


async def test_tls_from_the_url(server: RedisServer, tmp_path: Path) -> None:
    authority = certificate(tmp_path)
    async with tls_door(server.port, tmp_path) as port:
        one = bus(f"rediss://localhost:{port}/0?ssl_ca_certs={authority}")
        async with closing(one):
            await one.publish([(0, b"x")])
            assert await everything(one) == [(0, b"x")]
        stranger = bus(f"rediss://localhost:{port}/0")
        async with closing(stranger):
            with pytest.raises(ServiceUnavailable, match="is not trusted") as caught:
                await stranger.version()
            assert caught.value.lasting


async def test_misuse_is_refused_before_anything_is_sent() -> None:
    one = bus("redis://127.0.0.1:1/0")
    with pytest.raises(ValueError, match=r"shard 4 is not in 0\.\.3"):
        await one.publish([(0, b"x"), (4, b"y")])
    with pytest.raises(ValueError, match="shard -1"):
        await one.read({-1: ""}, limit=1, wait_s=0)
    with pytest.raises(ValueError, match="limit 0 is not positive"):
        await one.read({0: ""}, limit=0, wait_s=0)
    with pytest.raises(ValueError, match="'yesterday' is no position"):
        await one.read({0: "yesterday"}, limit=1, wait_s=0)
    assert repr(one) == "RedisBus(127.0.0.1:1/0, not connected)"
    await one.close()
    assert repr(one) == "RedisBus(127.0.0.1:1/0, closed)"


async def clients(server: RedisServer) -> int:
    """How many connections the server has, the asking one left out."""
    listing = await server.command("CLIENT", "LIST", "TYPE", "normal")
    assert isinstance(listing, bytes)
    return len(listing.splitlines()) - 1


async def eventually_blocked(server: RedisServer) -> None:
    """Wait until a client waits in a blocking read."""

    async def blocked() -> object:
        async with server.client() as client:
            return (await client.info("clients"))["blocked_clients"]

    await until(blocked)
