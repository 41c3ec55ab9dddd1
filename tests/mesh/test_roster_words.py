"""The words of the roster, and peers that do not know them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crdt.errors import CodecError
from crdt.structure import pack
from mesh.wire import MeshKeys, Message, RosterNews, RosterVersion, WantKeys, decode, encode
from tests.mesh.test_strangers import KEY_2, linked, next_roster
from tests.mesh.world import World, converged, eventually, running, write

EXAMPLES: tuple[Message, ...] = (
    RosterVersion(7, (1, 2)),
    RosterNews(b"signed by the authority"),
    MeshKeys(((1, b"a" * 32), (2, b"b" * 32))),
    MeshKeys(()),
    WantKeys((2, 2**32 - 1)),
)


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda one: type(one).__name__)
def test_round_trip(message: Message) -> None:
    assert decode(encode(message)) == message


def test_keys_are_not_in_what_is_printed() -> None:
    assert "aaaa" not in repr(EXAMPLES[2])


@pytest.mark.parametrize(
    "parts",
    [
        [24, -1, []],
        [24, 1, [0]],
        [24, 1, list(range(1, 300))],
        [24, 1],
        [25, b"x" * (3 << 20)],
        [25, "text"],
        [26, [1, b"x" * 33]],
        [26, [b"key", 1]],
        [26, [1, b"x"] * 300],
        [26, {1: b"key"}],
        [27, [2**32]],
        [27, 5],
    ],
)
def test_what_is_out_of_bounds_is_refused(parts: list[object]) -> None:
    with pytest.raises(CodecError):
        decode(pack(parts))


@given(data=st.binary(max_size=200), kind=st.integers(24, 27))
def test_garbage_is_a_codec_error_or_a_message(data: bytes, kind: int) -> None:
    try:
        decode(b"\x92" + bytes([kind]) + data)
    except CodecError:
        return


async def test_a_peer_of_the_first_wire_version_is_left_in_peace(
    memory_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mesh.dialler.WIRE_NEWEST", 1)
    world = memory_world
    a, b = world.replica("a"), world.replica("b", "a")
    async with running(a, b):
        await eventually(lambda: linked(a) == {"b"}, "linked")
        life = a._check()
        link = life.exchange.links["b"]
        assert link.wire == 1
        roster, blob = next_roster(world, key=KEY_2)
        life.exchange.message(link, RosterNews(blob))
        life.exchange.message(link, RosterVersion(0, ()))
        assert life.core.roll.roster.version == 0, "who does not speak it is not heard either"
        assert life.core.roll.adopt(blob)
        assert life.core.roll.roster == roster
        life.roster.tick()
        assert a.health()["identity"].state == "degraded"
        # Without the new key it seals as before, and the older peer goes on reading.
        await write(a, "old key")
        await converged(a, b)
        assert world.probes["b"].counts["message.unknown"] == 0
        assert world.probes["a"].counts["link.error"] == 0
