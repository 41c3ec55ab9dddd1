"""The proxy between agents, over real sockets: what is cut is cut, what heals flows again."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from simulations.rehearsal.proxy import Cut, LinkProxy


@asynccontextmanager
async def echo(prefix: bytes = b"") -> AsyncIterator[str]:
    """A server that sends back every line; its address."""

    serving: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.create_task(serve(reader, writer)))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(prefix + line)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        host, port = server.sockets[0].getsockname()
        yield f"{host}:{port}"
    finally:
        server.close()
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)


@asynccontextmanager
async def proxied(
    *pairs: tuple[str, str], announced: tuple[str, ...] = ()
) -> AsyncIterator[LinkProxy]:
    proxy = LinkProxy()
    await proxy.open(pairs, announced=announced)
    try:
        yield proxy
    finally:
        await proxy.close()


@asynccontextmanager
async def dialled(address: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    host, port = address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def ask(link: tuple[asyncio.StreamReader, asyncio.StreamWriter], line: bytes) -> bytes:
    link[1].write(line)
    async with asyncio.timeout(5):
        return await link[0].readline()


async def refused(address: str) -> bool:
    """Whether a new connection is reset before it carries anything."""
    try:
        async with dialled(address) as link:
            return await ask(link, b"anybody?\n") == b""
    except OSError:
        return True


async def test_bytes_pass_unchanged_both_ways() -> None:
    async with proxied(("a", "b")) as proxy, echo() as there:
        proxy.point("b", there)
        async with dialled(proxy.address("a", "b")) as link:
            assert await ask(link, b"hello\n") == b"hello\n"
            long = b"x" * 50_000 + b"\n"
            assert await ask(link, long) == long
        assert proxy.carried == 2 * (len(b"hello\n") + len(long))


async def test_a_broken_pair_is_reset_and_stays_so_until_it_heals() -> None:
    async with proxied(("a", "b"), ("a", "c")) as proxy, echo() as there:
        proxy.point("b", there)
        proxy.point("c", there)
        async with (
            dialled(proxy.address("a", "b")) as cut,
            dialled(proxy.address("a", "c")) as kept,
        ):
            await ask(cut, b"up\n")
            await ask(kept, b"up\n")
            proxy.cut(("a", "b"), Cut.BREAK)
            assert proxy.cut_pairs == [("a", "b")]
            with pytest.raises(ConnectionResetError):
                await ask(cut, b"still there?\n")
            assert await refused(proxy.address("a", "b"))
            assert await ask(kept, b"other pairs live\n") == b"other pairs live\n"
            proxy.heal()
            async with dialled(proxy.address("a", "b")) as again:
                assert await ask(again, b"back\n") == b"back\n"


async def test_a_silenced_pair_holds_its_bytes_back_until_it_heals() -> None:
    async with proxied(("a", "b")) as proxy, echo() as there:
        proxy.point("b", there)
        async with dialled(proxy.address("a", "b")) as link:
            await ask(link, b"up\n")
            proxy.cut(("a", "b"), Cut.SILENCE)
            before = proxy.carried
            answer = asyncio.create_task(ask(link, b"held back\n"))
            assert await refused(proxy.address("a", "b"))  # several round trips pass meanwhile
            assert not answer.done()
            assert proxy.carried == before
            proxy.heal()
            assert await answer == b"held back\n"


async def test_a_listener_that_moves_is_found_again() -> None:
    async with proxied(("a", "b")) as proxy, echo() as first, echo(b"2 ") as second:
        assert await refused(proxy.address("a", "b"))
        proxy.point("b", first)
        async with dialled(proxy.address("a", "b")) as link:
            assert await ask(link, b"one\n") == b"one\n"
        proxy.forget("b")
        assert await refused(proxy.address("a", "b"))
        proxy.point("b", second)
        async with dialled(proxy.address("a", "b")) as link:
            assert await ask(link, b"two\n") == b"2 two\n"


async def test_which_pairs_cross_a_cut() -> None:
    async with proxied(("a", "b"), ("a", "c"), ("b", "c")) as proxy:
        assert proxy.crossing(["a"]) == [("a", "b"), ("a", "c")]
        assert proxy.crossing(["a", "b"]) == [("a", "c"), ("b", "c")]
        assert len(proxy.seeds("a")) == 2
        assert proxy.seeds("c") == []
        assert proxy.seeds("a", apart=("c",)) == [proxy.address("a", "b")]


def in_kafka(address: str) -> bytes:
    """`host:port` as a broker writes it: a string after its length, and four bytes."""
    host, port = address.split(":")
    return len(host).to_bytes(2, "big") + host.encode() + int(port).to_bytes(4, "big")


@asynccontextmanager
async def broker() -> AsyncIterator[str]:
    """A server that says where it is: once, in two pieces, the first ending inside its address."""
    leaving: set[asyncio.StreamWriter] = set()

    def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        leaving.add(writer)
        host, port = server.sockets[0].getsockname()
        answer = b"before" + in_kafka(f"{host}:{port}") + b"after"
        writer.write(len(answer).to_bytes(4, "big") + answer[:12])
        asyncio.get_running_loop().call_later(0.05, writer.write, answer[12:])

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        host, port = server.sockets[0].getsockname()
        yield f"{host}:{port}"
    finally:
        server.close()
        for writer in leaving:
            writer.transport.abort()


async def test_a_broker_that_tells_where_it_is_is_found_through_the_proxy_all_the_same() -> None:
    """Else its clients would go straight there, and could never be cut off from it."""
    pairs = ("a", "kafka"), ("b", "kafka")
    async with proxied(*pairs, announced=("kafka",)) as proxy, broker() as there:
        proxy.point("kafka", there)
        for agent in ("a", "b"):
            wire = proxy.address(agent, "kafka")
            async with dialled(wire) as (reader, _), asyncio.timeout(5):
                length = int.from_bytes(await reader.readexactly(4), "big")
                told = await reader.readexactly(length)
            assert told == b"before" + in_kafka(wire) + b"after"
            assert in_kafka(wire) != in_kafka(there)


async def test_a_silenced_broker_says_nothing_until_the_heal() -> None:
    async with (
        proxied(("a", "kafka"), announced=("kafka",)) as proxy,
        echo(b"\0\0\0\x06") as there,
    ):
        proxy.point("kafka", there)
        async with dialled(proxy.address("a", "kafka")) as link:
            assert await ask(link, b"hello\n") == b"\0\0\0\x06hello\n"
            proxy.cut(("a", "kafka"), Cut.SILENCE)
            answer = asyncio.create_task(ask(link, b"still?\n"[1:]))
            assert await refused(proxy.address("a", "kafka"))
            assert not answer.done()
            proxy.heal()
            assert await answer == b"\0\0\0\x06till?\n"


async def test_closing_ends_every_connection() -> None:
    async with echo() as there:
        async with proxied(("a", "b")) as proxy:
            proxy.point("b", there)
            host, port = proxy.address("a", "b").split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            assert await ask((reader, writer), b"up\n") == b"up\n"
        with contextlib.suppress(ConnectionResetError):
            assert await ask((reader, writer), b"gone\n") == b""
        writer.transport.abort()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(host, int(port))


async def test_one_direction_is_silenced_alone() -> None:
    received: list[bytes] = []
    heard = asyncio.Event()
    ends: list[asyncio.StreamWriter] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends.append(writer)
        while line := await reader.readline():
            received.append(line)
            writer.write(b"re: " + line)
            heard.set()
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        async with proxied(("a", "b")) as proxy:
            host, port = server.sockets[0].getsockname()
            proxy.point("b", f"{host}:{port}")
            async with dialled(proxy.address("a", "b")) as (reader, writer):
                writer.write(b"before\n")
                assert await asyncio.wait_for(reader.readline(), 5) == b"re: before\n"
                heard.clear()
                proxy.silence_one_way(("a", "b"), answers=True)
                assert proxy.cut_pairs == [("a", "b")]
                writer.write(b"hello\n")
                await asyncio.wait_for(heard.wait(), 5)
                answer = asyncio.ensure_future(reader.readline())
                done, _ = await asyncio.wait({answer}, timeout=0.2)
                assert received == [b"before\n", b"hello\n"]
                assert not done
                proxy.heal()
                assert await asyncio.wait_for(answer, 5) == b"re: hello\n"
    finally:
        for end in ends:
            end.transport.abort()
        server.close()
