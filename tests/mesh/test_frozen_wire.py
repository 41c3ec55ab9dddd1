"""Programs of the first wire version are still understood, and told nothing that they don't know.
Later words stay what they were, too.

The first programs are played by a codec that was frozen (`frozen_wire_1`): nothing that is done to
`mesh.wire` changes what they say and understand.
"""

from __future__ import annotations

import pytest

from mesh import Durability, Replica
from mesh.repair import FEW_OPERATIONS
from mesh.wire import (
    VOCABULARY,
    WIRE_NEWEST,
    Bye,
    Certificates,
    Frames,
    Frontier,
    Graft,
    Hello,
    Holds,
    Journaled,
    MeshKeys,
    Message,
    Ping,
    Prune,
    Range,
    RosterNews,
    RosterVersion,
    Served,
    SnapshotPart,
    Summary,
    SummaryRow,
    Want,
    WantCertificates,
    WantKeys,
    WantRest,
    WantSnapshot,
    decode,
    encode,
)
from mesh.wire.presence import Presence, PresenceRow
from tests.mesh import frozen_wire_1 as frozen
from tests.mesh.old_peer import OldPeer
from tests.mesh.world import Task, World, converged, eventually, running

TODAY: tuple[Message, ...] = (
    Hello(
        1, 1, bytes(range(16)), "agent-a", (130 << 42) | 77, b"certificate", (5, 1000, 2**53 - 1)
    ),
    Certificates((b"one", b"two")),
    WantCertificates((5, 70_000)),
    Frames((b"frame one", b"y" * 300)),
    Journaled({0: {1: 2, 300: 128}, 15: {2**53 - 1: 2**33}}),
    Summary((SummaryRow(0, 0, b"h" * 16, b"d" * 16, 0), SummaryRow(4095, 90, b"", b"", 7))),
    Frontier(3, 90, 1, 1_000_000, True, b"d" * 16, {5: 6, 9: 1}),
    Frontier(0, 0, 0, 0, False, b"", {}),
    Want(2, (Range(5, 0, 9), Range(6, 300, 70_000))),
    Served(2, False),
    Served(200, True),
    WantSnapshot(300),
    SnapshotPart(4, 1, 0, 2, b"sealed"),
    SnapshotPart(4, 1, 1, 2, b"x" * 70_000),
    Ping(),
    Bye("closing – é"),
)
"""What `frozen.RECORDED` means, one by one, in today's classes."""
LATER: tuple[tuple[int, Message, str], ...] = (
    (2, Prune((1, 2**53 - 1)), "920d9201cf001fffffffffffff"),
    (2, Graft((5,)), "920e9105"),
    (
        2,
        Presence((PresenceRow("agent-a", 1_790_000_000_000, (130 << 42) | 77, 9, 5_000, b"body"),)),
        "92149196a76167656e742d61cf000001a0c4506c00cf000208000000004d09cd1388c404626f6479",
    ),
    (2, RosterVersion(7, (1, 2)), "931807920102"),
    (2, RosterNews(b"signed"), "9219c4067369676e6564"),
    (2, MeshKeys(((2, b"k" * 32),)), "921a9202c420" + 32 * "6b"),
    (2, WantKeys((2, 2**32 - 1)), "921b9202ceffffffff"),
    (2, Holds((0, 300)), "921c9200cd012c"),
    (3, WantRest(4, 1, 3), "941d040103"),
)
"""Words that came later: the version they came with, and their bytes as recorded then."""
PAIRS = [
    pytest.param(word, data, message, id=type(message).__name__)
    for (word, data), message in zip(frozen.RECORDED, TODAY, strict=True)
]


@pytest.mark.parametrize(("word", "data", "message"), PAIRS)
def test_what_version_1_wrote_is_read_and_written_alike(
    word: frozen.Word, data: bytes, message: Message
) -> None:
    assert decode(data) == message
    assert encode(message) == data
    assert frozen.encode(word) == data
    assert frozen.decode(data) == word


def test_version_1_has_the_words_it_had() -> None:
    first = {
        kind: word.cls.__name__ for kind, word in VOCABULARY._by_kind.items() if word.since == 1
    }
    assert first == {kind: word.__name__ for kind, (word, _) in frozen.WORDS.items()}
    assert {type(message) for message in TODAY} == {
        word.cls for word in VOCABULARY._by_kind.values() if word.since == 1
    }


@pytest.mark.parametrize(
    ("message", "recorded"), [pytest.param(*each, id=type(each[0]).__name__) for _, *each in LATER]
)
def test_later_words_are_read_and_written_as_they_were(message: Message, recorded: str) -> None:
    assert decode(bytes.fromhex(recorded)) == message
    assert encode(message).hex() == recorded


def test_every_later_word_is_recorded_with_its_version() -> None:
    """A word without a line in `LATER` is new: it needs one, and a version above the newest."""
    words = {word.cls: word.since for word in VOCABULARY._by_kind.values() if word.since > 1}
    assert {type(message): since for since, message, _ in LATER} == words
    assert max(words.values()) == WIRE_NEWEST


def test_the_frozen_codec_refuses_what_came_later() -> None:
    for data in (b"\x91\x0d", b"\x92\x0d\x90", b"\x93\x0d\x01\x02", b"\x92\x08\x00", b"\x0b"):
        with pytest.raises(frozen.NotVersion1):
            frozen.decode(data)


# ------------------------------------------------------------------ conversations


def shard_of(replica: Replica, document: str = "Task/1") -> int:
    return replica._check().editor.host(document).index


def title(replica: Replica, name: str = "1") -> str | None:
    found = replica.get(Task, name)
    return None if found is None else found.title


async def retitle(replica: Replica, *titles: object, name: str = "1") -> None:
    """One frame for each title."""
    for each in titles:
        with replica.edit(Task, name) as task:
            task.title = str(each)
        await replica.flush()


async def alike(old: OldPeer, *replicas: Replica) -> None:
    """Wait until all have the same, and the old peer was told nothing it does not know."""
    await converged(*replicas)
    await eventually(lambda: old.frontier() == replicas[0].frontier(), "the old peer has all")
    assert old.digest() == replicas[0].digest()
    assert old.unknown == []


@pytest.fixture
def world(memory_world: World) -> World:
    return memory_world


async def test_frames_go_both_ways(world: World) -> None:
    a, old = world.replica("a"), OldPeer(world, "old")
    async with running(a), old.linked("a"):
        await eventually(lambda: old.heard["Summary"] > 0, "greeted")
        assert a._check().exchange.links["old"].wire == 1
        await retitle(a, "by a")
        assert (await a.flush(Durability.PEERS(1), timeout=10)).replicas == ("old",)
        assert old.heard["Frames"] == 1, "it was pushed"
        await old.say(old.write("Task/2", "by the old one", shard_of(a, "Task/2")))
        await alike(old, a)
        assert title(a, "2") == "by the old one"
        await eventually(
            lambda: old.journaled.get(shard_of(a, "Task/2")) == {old.session: 1},
            "its author is told that it is on disk",
        )
        assert world.probes["a"].counts["link.down"] == 0


async def test_it_is_repaired_by_ranges(world: World) -> None:
    a, old = world.replica("a"), OldPeer(world, "old")
    async with running(a):
        await retitle(a, "one", "two", "three")
        async with old.linked("a"):
            await alike(old, a)
        assert old.heard["Served"] > 0
        assert old.heard["SnapshotPart"] == 0


async def test_it_is_repaired_by_a_snapshot(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mesh.transfers.SNAPSHOT_PART_BYTES", 500)
    a = world.replica("a", replica__snapshot_every_frames=10)
    old = OldPeer(world, "old")
    async with running(a):
        await retitle(a, *range(60))
        await eventually(lambda: world.probes["a"].counts["journal.pruned"] > 0, "pruned")
        async with old.linked("a"):
            await alike(old, a)
            assert old.heard["SnapshotPart"] > 1, "in parts"
            # On top of what it joined both go on.
            await old.say(old.write("Task/1", "by the old one", shard_of(a)))
            await alike(old, a)
            await retitle(a, "by a")
            await alike(old, a)


async def test_it_repairs_a_replica_by_ranges(world: World) -> None:
    a, old = world.replica("a"), OldPeer(world, "old")
    async with running(a):
        for number in range(3):
            old.write("Task/1", str(number), shard_of(a))
        async with old.linked("a"):
            await alike(old, a)
        assert old.heard["Want"] > 0
        assert world.probes["a"].counts["snapshot.joined"] == 0


async def test_it_repairs_a_replica_by_a_snapshot(world: World) -> None:
    a, old = world.replica("a"), OldPeer(world, "old")
    async with running(a):
        old.write("Task/1", "one of many", shard_of(a), nothings=FEW_OPERATIONS)
        async with old.linked("a"):
            await alike(old, a)
            assert old.heard["WantSnapshot"] == 1
            assert world.probes["a"].latest["snapshot.joined"]["peer"] == "old"
            await old.say(old.write("Task/1", "on top", shard_of(a)))
            await alike(old, a)
        assert title(a) == "on top"


async def test_frames_travel_through_replicas_old_and_new(world: World) -> None:
    """old - a - b: each gets what each of the others writes, and a and b say more to each other."""
    a, b, old = world.replica("a"), world.replica("b", "a"), OldPeer(world, "old")
    async with running(a, b):
        await eventually(lambda: "b" in a._check().exchange.links, "linked")
        async with old.linked("a"):
            await old.say(old.write("Task/1", "old", shard_of(a)))
            await retitle(a, "a", name="2")
            await retitle(b, "b", name="3")
            await alike(old, a, b)
            assert [title(b, name) for name in "123"] == ["old", "a", "b"]
            a.presence.set(busy=True)
            await eventually(
                lambda: (seen := b.presence.get("a")) is not None and seen.data == {"busy": True},
                "a word of version 2 went from a to b",
            )
            # What comes after it on the old peer's link is there too: it was told nothing unknown.
            await retitle(a, "after it")
            await alike(old, a, b)
    assert [world.probes[name].counts["link.error"] for name in "ab"] == [0, 0]


async def test_who_says_to_speak_more_than_it_does_is_told_more(world: World) -> None:
    """Were newer words not held back by version, these tests would see them."""
    a, old = world.replica("a"), OldPeer(world, "old", newest=2)
    async with running(a), old.linked("a"):
        await eventually(lambda: len(old.unknown) > 0, "words of version 2")


# ------------------------------------------------------------------ too far apart

CURE = "run a newer statemesh on the older side"


async def test_a_peer_that_is_too_new_is_refused_with_the_cure(world: World) -> None:
    a, new = world.replica("a"), OldPeer(world, "new", oldest=90, newest=91)
    async with running(a), new.linked("a"):
        await eventually(lambda: new.farewell != "", "it is told why")
        reason = f"new speaks wire versions 90 to 91, this program 1 to {WIRE_NEWEST}: {CURE}"
        assert new.farewell == reason
        assert world.probes["a"].latest["link.refused"]["reason"] == reason
        assert a._check().exchange.links == {}


async def test_a_peer_of_version_1_is_refused_by_who_speaks_it_no_more(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mesh.dialler.WIRE_OLDEST", 2)
    a, old = world.replica("a"), OldPeer(world, "old")
    async with running(a), old.linked("a"):
        await eventually(lambda: old.farewell != "", "it is told why")
        reason = f"old speaks wire versions 1 to 1, this program 2 to {WIRE_NEWEST}: {CURE}"
        assert old.farewell == reason
        assert world.probes["a"].latest["link.refused"]["reason"] == reason


async def test_why_an_older_program_refuses_us_is_said_here(world: World) -> None:
    """It judged by our greeting, and hung up without one of its own."""
    a = world.replica("a")
    world.identity("old")
    async with running(a):
        link = await world.network.transport("old").dial("a")
        assert isinstance(frozen.decode(await link.receive()), frozen.Hello)
        await link.send(frozen.encode(frozen.Bye(f"too far apart: {CURE}")))
        probe = world.probes["a"]
        await eventually(lambda: probe.counts["link.refused"] > 0, "refused")
        assert CURE in str(probe.latest["link.refused"]["reason"])
        await link.close()
