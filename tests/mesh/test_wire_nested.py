"""Lists inside lists, as deep as the unpacker lets them come, are refused as any garbage is."""

from __future__ import annotations

import pytest

from crdt.errors import CodecError
from crdt.structure import pack
from mesh.transports.memory_bus import MemoryBusServer
from mesh.wire import VOCABULARY, Ping, decode, encode
from persistence.base import FrameError
from persistence.certificates import Trust
from persistence.frame import UnknownVersion
from persistence.sealing import Opener
from tests.mesh.world import World, converged, eventually, running, write

DEPTHS = (40, 500, 900, 1000)


def nested(depth: int) -> bytes:
    return b"\x91" * depth + b"\xc0"


@pytest.mark.parametrize("depth", DEPTHS)
def test_any_field_of_any_word_may_be_nested_deeply(depth: int) -> None:
    for kind, word in VOCABULARY._by_kind.items():
        if word.size:
            data = bytes((0x90 + word.size + 1, kind)) + nested(depth) + b"\xc0" * (word.size - 1)
            with pytest.raises(CodecError):
                decode(data)


async def test_a_replica_survives_a_nested_greeting(memory_world: World) -> None:
    world = memory_world
    a = world.replica("a")
    async with running(a):
        for depth in DEPTHS:
            link = await world.network.transport("x").dial(a.address)
            await link.send(b"\x98\x00" + nested(depth) + b"\xc0" * 6)
            await eventually(lambda: world.probes["a"].counts["link.refused"] > 0, "refused")
            world.probes["a"].counts.clear()
            await link.close()
        link = await world.network.transport("x").dial(a.address)
        await link.send(encode(Ping()))
        await eventually(lambda: world.probes["a"].counts["link.refused"] == 1, "it still answers")
        await link.close()


@pytest.mark.parametrize("depth", DEPTHS)
def test_what_stands_for_a_version_may_be_nested_deeply(depth: int) -> None:
    mesh = World().authority.mesh
    opener = Opener(mesh, Trust(mesh))
    inside = b"\x91" + nested(depth)
    with pytest.raises(FrameError):
        opener.verify(pack([inside, b"", b"", b"", b""]))
    with pytest.raises(FrameError):
        opener.open_snapshot(pack([inside, b"", b"", b""]))
    with pytest.raises(FrameError):
        opener.trust.learn(pack([inside, b"", b""]))


def test_a_version_that_is_a_number_is_named() -> None:
    mesh = World().authority.mesh
    with pytest.raises(UnknownVersion, match="frame version 99 is not known"):
        Opener(mesh, Trust(mesh)).verify(pack([pack([99]), b"", b"", b"", b""]))


async def test_a_replica_survives_nested_entries_on_the_bus(memory_world: World) -> None:
    world, server = memory_world, MemoryBusServer()
    a = world.replica("a", bus=server.bus())
    b = world.replica("b", "a", bus=server.bus())
    async with running(a, b):
        for depth in DEPTHS:
            inside = b"\x91" + nested(depth)
            await server.bus().publish([(0, pack([inside, b"", b"", b"", b""]))])
        await eventually(
            lambda: world.probes["a"].counts["frame.refused"] == len(DEPTHS), "all refused"
        )
        await write(b, "honest traffic goes on")
        await converged(a, b)
