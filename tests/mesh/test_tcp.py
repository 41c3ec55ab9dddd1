"""TCP and TLS: strangers, foreign meshes and bad members end only their own connection."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from crdt.errors import CallerError
from mesh.environment import Link, LinkClosed, PeerRefused
from mesh.instrumentation import CountingProbe
from mesh.settings import PeersSettings, split_address
from mesh.transports.tcp import MessageTooLarge, TcpTransport, Unreachable
from mesh.transports.tls import PROTOCOL
from persistence.identity import Identity, create_genesis, provision
from tests.mesh.world import eventually


class WakingProbe(CountingProbe):
    """Counts, and wakes whoever waits for the next event."""

    def __init__(self) -> None:
        super().__init__()
        self.happened = asyncio.Event()

    def event(self, kind: str, **fields: object) -> None:
        super().event(kind, **fields)
        self.happened.set()


class Node:
    """A transport of a mesh with what it saw."""

    def __init__(self, identity: Identity, **settings: Any) -> None:
        self.identity = identity
        self.probe = WakingProbe()
        self.transport = TcpTransport(identity, PeersSettings(**settings), self.probe)
        self.links: asyncio.Queue[Link] = asyncio.Queue()
        self.address = ""

    async def listen(self) -> Node:
        async def accept(link: Link) -> None:
            self.links.put_nowait(link)

        self.address = await self.transport.listen(accept)
        return self

    async def saw(self, kind: str, count: int = 1) -> dict[str, object]:
        """The latest event of a kind, once there were `count` of them."""
        async with asyncio.timeout(20):
            while self.probe.counts[kind] < count:
                self.probe.happened.clear()
                await self.probe.happened.wait()
        return self.probe.latest[kind]


Join = Callable[..., Node]
LARGEST = PeersSettings().message_bytes_max


@pytest.fixture
async def join(tmp_path: Path) -> AsyncIterator[Join]:
    """Makes nodes of meshes by name; closes them all, and no task may be left."""
    before = asyncio.all_tasks()
    nodes: list[Node] = []

    def make(name: str, mesh: str = "ours", **settings: Any) -> Node:
        authority = tmp_path / f"authority-{mesh}"
        if not authority.exists():
            create_genesis(authority, mesh)
        node = Node(provision(authority, tmp_path / mesh / name, name), **settings)
        nodes.append(node)
        return node

    yield make
    for node in nodes:
        await node.transport.close()
    ours = asyncio.current_task()
    left = [task.get_name() for task in asyncio.all_tasks() - before if task is not ours]
    assert not left, left


async def connected(a: Node, b: Node) -> tuple[Link, Link]:
    dialled = await a.transport.dial(b.address)
    async with asyncio.timeout(20):
        return dialled, await b.links.get()


async def assert_serves(node: Node, friend: Node) -> None:
    """The listener still takes members."""
    dialled, accepted = await connected(friend, node)
    await dialled.send(b"hello")
    assert await accepted.receive() == b"hello"
    await dialled.close()


async def test_a_strangers_plain_bytes_end_only_his_connection(join: Join) -> None:
    node = await join("a").listen()
    host, port = split_address(node.address)
    for junk in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x00" * 4096, bytes(range(256)) * 16):
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(junk)
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(20):
                await reader.read()  # until it hangs up; TLS may send an alert first
        writer.close()
    seen = await node.saw("peer.refused", 3)
    assert "no TLS 1.3 handshake" in str(seen["reason"])
    await assert_serves(node, join("b"))


async def test_a_foreign_mesh_is_refused_by_both_sides(join: Join) -> None:
    node = await join("a").listen()
    with pytest.raises(PeerRefused, match="not of this mesh"):
        await join("spy", "theirs").transport.dial(node.address)
    await node.saw("peer.refused")
    assert node.links.empty()
    await assert_serves(node, join("b"))


async def test_a_foreign_client_that_trusts_us_is_refused(join: Join) -> None:
    """Who does not check our certificate still has to show one of this mesh."""
    node = await join("a").listen()
    spy = join("spy", "theirs").identity
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([PROTOCOL])
    host, port = split_address(node.address)
    for with_certificate in (False, True):
        if with_certificate:
            context.load_cert_chain(spy.certificate_pem_path, spy.key_path)
        reader, writer = await asyncio.open_connection(host, port, ssl=context)
        with contextlib.suppress(OSError):
            assert await reader.read() == b""
        writer.close()
    seen = await node.saw("peer.refused", 2)
    assert "certificate" in str(seen["reason"])
    assert node.links.empty()
    await assert_serves(node, join("b"))


@pytest.mark.parametrize("oddity", ["tls12", "alpn"])
async def test_a_member_with_another_protocol_is_refused(join: Join, oddity: str) -> None:
    node = await join("a").listen()
    member = join("b").identity
    context = ssl.create_default_context(cafile=str(member.authority_pem_path))
    context.check_hostname = False
    context.load_cert_chain(member.certificate_pem_path, member.key_path)
    if oddity == "tls12":
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    else:
        context.set_alpn_protocols(["statemesh/99"])
    host, port = split_address(node.address)
    with contextlib.suppress(OSError):
        reader, writer = await asyncio.open_connection(host, port, ssl=context)
        answer = await reader.read()
        assert PROTOCOL.encode() in answer, "told why"
        writer.close()
    await node.saw("peer.refused")
    assert node.links.empty()


async def test_a_silent_stranger_is_dropped_in_time(join: Join) -> None:
    node = await join("a", handshake_timeout_s=0.2).listen()
    reader, writer = await asyncio.open_connection(*split_address(node.address))
    with contextlib.suppress(ConnectionError):
        assert await reader.read() == b""
    writer.close()
    await node.saw("peer.refused")
    await assert_serves(node, join("b"))


async def test_silent_strangers_cannot_keep_members_out(join: Join) -> None:
    node = await join("a", handshakes_max=4, handshake_timeout_s=60).listen()
    strangers = [await asyncio.open_connection(*split_address(node.address)) for _ in range(12)]
    await node.saw("peer.refused", 8)
    await assert_serves(node, join("b"))
    for _, writer in strangers:
        writer.close()


async def test_a_server_that_never_answers_is_unreachable(join: Join) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        node = join("a", handshake_timeout_s=0.2)
        with pytest.raises(Unreachable, match="did not answer within"):
            await node.transport.dial(f"127.0.0.1:{deaf.getsockname()[1]}")


async def test_a_server_without_tls_is_refused(join: Join) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"220 mail.example ESMTP\r\n" * 100)
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(PeerRefused, match="not of this mesh"):
            await join("a").transport.dial(f"127.0.0.1:{port}")


async def test_an_oversized_announcement_closes_the_link(join: Join) -> None:
    node = await join("a").listen()
    boaster = join("b", message_bytes_max=2 * LARGEST)
    dialled, accepted = await connected(boaster, node)
    sending = asyncio.create_task(dialled.send(b"x" * (LARGEST + 1)))
    with pytest.raises(LinkClosed, match=f"announced a message of {LARGEST + 1} bytes"):
        await accepted.receive()
    assert (await node.saw("link.oversized"))["bytes"] == LARGEST + 1
    with pytest.raises(LinkClosed):
        await sending
    with pytest.raises(LinkClosed):
        await dialled.receive()
    await assert_serves(node, boaster)


async def test_a_message_over_the_bound_is_not_sent(join: Join) -> None:
    node = await join("a").listen()
    dialled, accepted = await connected(join("b"), node)
    with pytest.raises(MessageTooLarge, match=f"message_bytes_max = {LARGEST}"):
        await dialled.send(b"x" * (LARGEST + 1))
    await dialled.send(b"fits")
    assert await accepted.receive() == b"fits"


async def test_a_peer_that_takes_nothing_ends_the_link(join: Join) -> None:
    node = await join("a").listen()
    dialled, _ = await connected(join("b", send_timeout_s=0.2, message_bytes_max=67_108_864), node)
    with pytest.raises(LinkClosed, match="took nothing for"):
        await dialled.send(b"x" * 67_108_864)
    with pytest.raises(LinkClosed, match="took nothing for"):
        await dialled.send(b"more")


async def test_a_send_cancelled_half_way_ends_the_link(join: Join) -> None:
    node = await join("a").listen()
    dialled, accepted = await connected(join("b", message_bytes_max=67_108_864), node)
    sending = asyncio.ensure_future(dialled.send(b"x" * 67_108_864))
    done, _ = await asyncio.wait({sending}, timeout=0.2)
    assert not done
    sending.cancel()
    await asyncio.wait({sending})
    with pytest.raises(LinkClosed, match="half-way"):
        await dialled.send(b"more")
    with pytest.raises(LinkClosed):
        await accepted.receive()


async def test_more_links_than_allowed_are_told_so(join: Join) -> None:
    node = await join("a", connections_max=1).listen()
    friend = join("b")
    first, accepted = await connected(friend, node)
    await connected(friend, node)
    with pytest.raises(PeerRefused, match="2 links are the most"):
        await friend.transport.dial(node.address)
    await first.close()
    with pytest.raises(LinkClosed):
        await accepted.receive()
    await friend.transport.dial(node.address)


async def test_a_port_in_use_names_the_port_and_the_cure(join: Join) -> None:
    node = await join("a").listen()
    port = node.address.rpartition(":")[2]
    with pytest.raises(CallerError, match=rf"port {port} on 127\.0\.0\.1 is in use; set peers"):
        await join("b", listen=node.address).listen()


async def test_an_unknown_host_is_a_one_line_error(join: Join) -> None:
    with pytest.raises(CallerError, match="cannot listen on nowhere"):
        await join("a", listen="nowhere.invalid:0").listen()
    with pytest.raises(Unreachable, match="cannot be reached"):
        await join("b").transport.dial("nowhere.invalid:1")
    with pytest.raises(Unreachable, match="write host:port"):
        await join("c").transport.dial("nowhere")


async def test_an_empty_listen_setting_does_not_listen(join: Join) -> None:
    node = join("a", listen="")
    assert (await node.listen()).address == ""
    other = await join("b").listen()
    await assert_serves(other, node)


async def test_the_advertised_address_is_what_is_told(join: Join) -> None:
    node = await join("a", advertise="mesh.example:7400").listen()
    assert node.address == "mesh.example:7400"


async def test_close_during_handshakes_leaves_nothing(join: Join) -> None:
    node = await join("a").listen()
    reader, writer = await asyncio.open_connection(*split_address(node.address))
    dialling = asyncio.ensure_future(join("b").transport.dial(node.address))
    await asyncio.sleep(0)
    await asyncio.gather(node.transport.close(), node.transport.close())
    with contextlib.suppress(ConnectionError):
        assert await reader.read() == b""
    writer.close()
    with contextlib.suppress(Unreachable):  # or it was just in time, and its link has ended
        link = await dialling
        with pytest.raises(LinkClosed):
            await link.receive()
    with pytest.raises(Unreachable):
        await join("c").transport.dial(node.address)


async def test_a_failing_acceptor_loses_only_its_link(join: Join) -> None:
    node = join("a")
    failures: list[object] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: failures.append(context["exception"])
    )

    async def accept(link: Link) -> None:
        raise RuntimeError(f"bug with {link.peer}")

    node.address = await node.transport.listen(accept)
    friend = join("b")
    for _ in range(2):
        link = await friend.transport.dial(node.address)
        with pytest.raises(LinkClosed):
            await link.receive()
    await node.saw("link.closed", 2)
    assert [str(failure) for failure in failures] == ["bug with b", "bug with b"]


async def test_a_message_that_takes_its_time_is_seen_to_come(join: Join) -> None:
    """Byte by byte, over cancelled receives, none lost."""
    dialled, accepted = await connected(join("b"), await join("a").listen())
    message = bytes(range(200)) * 5
    wire = len(message).to_bytes(4, "big") + message
    seen = []
    for start in range(0, len(wire), 100):
        receiving = asyncio.ensure_future(accepted.receive())
        dialled._writer.write(wire[start : start + 100])  # type: ignore[attr-defined]
        upto = min(start + 100, len(wire))
        await eventually(lambda: accepted.received_bytes >= upto)  # noqa: B023 - waited for here
        seen.append(accepted.received_bytes)
        await asyncio.sleep(0)
        if start + 100 < len(wire):
            receiving.cancel()
            await asyncio.wait([receiving])
    assert seen == [*range(100, 1001, 100), len(wire)]
    assert await receiving == message
