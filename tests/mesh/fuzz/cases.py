"""Cases: what is hostile about each, made from material of a real mesh.

Kind and mutations follow from seed and number; the material's keys and times are the run's own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any, Final, NamedTuple

from mesh.wire import (
    VOCABULARY,
    Bye,
    Certificates,
    Frames,
    Frontier,
    Graft,
    Hello,
    Holds,
    Journaled,
    MeshKeys,
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
    encode,
)
from mesh.wire.presence import Presence, PresenceRow
from tests.crdt.fuzz.mutate import mutated

LINK: Final = ("frame", "replay", "reorder", "forged", "foreign", "certificate", "part", "word",
               "mutant", "noise", "oversized")  # fmt: skip
"""Kinds that are messages on a link that was greeted."""
KINDS: Final = (*LINK, "frame", "word", "mutant", "snapshot", "bus", "bus", "greeting")
TCP_KINDS: Final = (*LINK, "greeting", "door", "door")
TOO_LARGE: Final = (8 << 20) + 1


@dataclass(slots=True)
class Material:
    """What cases are made from. `frames`: honest ones of the victim's mesh; `forged`: well made,
    in the name of an honest session, signed with another key.
    """

    shards: int
    hello: Hello
    frames: list[bytes]
    forged: list[bytes]
    foreign: list[bytes]
    certificates: list[bytes]
    snapshots: list[bytes]
    strangers: list[Hello] = field(default_factory=list)
    """Greetings that must be refused: of another mesh, of an expired member."""


class Case(NamedTuple):
    """One hostile input: the messages (or bus entries, or first bytes) it consists of."""

    kind: str
    data: tuple[bytes, ...]


def case_of(seed: int, number: int, material: Material, kinds: tuple[str, ...] = KINDS) -> Case:
    """The case of that number."""
    random = Random((seed << 48) + number)
    kind = random.choice(kinds)
    return Case(kind, tuple(_data(kind, random, material)))


def _data(kind: str, random: Random, found: Material) -> list[bytes]:
    frames = found.frames
    match kind:
        case "frame":
            return [encode(Frames((_mutant(random, frames),)))]
        case "replay":
            return [encode(Frames(tuple(random.choices(frames, k=random.randrange(1, 9)))))]
        case "reorder":
            some = random.sample(frames, min(len(frames), 12))
            return [encode(Frames((one,))) for one in some]
        case "forged" | "foreign":
            ours = found.forged if kind == "forged" else found.foreign
            return [encode(Frames((random.choice(ours), random.choice(frames))))]
        case "certificate":
            return [encode(Certificates((_mutant(random, found.certificates),)))]
        case "part":
            return [
                encode(part(random, found, random.randrange(found.shards), random.randrange(9)))
            ]
    return _other(kind, random, found)


def _other(kind: str, random: Random, found: Material) -> list[bytes]:
    frames = found.frames
    match kind:
        case "word":
            return [encode(word(random, found))]
        case "mutant":
            sample = encode(word(random, found))
            return [mutated(random, sample, [encode(word(random, found))])]
        case "noise":
            return [random.randbytes(random.choice((0, 1, 9, 200, 5_000)))]
        case "oversized":
            return [bytes(TOO_LARGE)] if random.random() < 0.02 else [bytes(70_000)]
        case "snapshot":
            return [_mutant(random, found.snapshots)]
        case "bus":
            pool = random.choice((frames, found.forged, found.foreign))
            raw = random.choice(pool)
            return [_mutant(random, frames) if pool is frames else raw]
        case "greeting":
            hello = random.choice([found.hello, *found.strangers])
            data = encode(hello)
            if hello is found.hello or random.random() < 0.5:
                data = mutated(random, data, [encode(word(random, found))])
            return [random.choice((data, data[: len(data) // 2], encode(Ping()), data))]
    return [random.choice((b"", b"\x16\x03\x01", b"GET / HTTP/1.1\r\n\r\n", random.randbytes(300)))]


def part(random: Random, found: Material, shard: int, transfer: int, index: int = 0) -> Any:
    """A part of a mutated snapshot: the last, or one on which others are to follow."""
    data = _mutant(random, found.snapshots)[: 200 << 10]
    return SnapshotPart(shard, transfer, index, index + random.choice((1, 1, 2)), data)


def _mutant(random: Random, samples: list[bytes]) -> bytes:
    """One of the samples, changed; never equal to any of them."""
    while (data := mutated(random, random.choice(samples), samples)) in samples:
        pass
    return data[: 1 << 20]


def _seqs(random: Random, found: Material) -> dict[int, int]:
    return {random.choice((found.hello.session, random.randrange(1, 1 << 62))):
            random.choice((1, 7, 1 << 40)) for _ in range(random.randrange(4))}  # fmt: skip


def word(random: Random, found: Material) -> Any:
    """A well-formed message of any kind, with contents made up."""
    return random.choice(WORDS)(random, found)


def _shard(random: Random, found: Material) -> int:
    return random.randrange(found.shards + 1)


def _row(random: Random, found: Material) -> SummaryRow:
    return SummaryRow(
        _shard(random, found), random.randrange(9), random.randbytes(16), random.randbytes(16), 0
    )


def _ranges(random: Random) -> tuple[Range, ...]:
    return tuple(Range(random.randrange(1, 1 << 62), 0, random.choice((1, 1 << 40)))
                 for _ in range(random.randrange(5)))  # fmt: skip


MAKERS: Final[dict[type[Any], Any]] = {
    Hello: lambda r, m: m.hello,
    Ping: lambda r, m: Ping(),
    Bye: lambda r, m: Bye("x" * r.randrange(300)),
    Certificates: lambda r, m: Certificates(tuple(r.choices(m.certificates, k=3))),
    WantCertificates: lambda r, m: WantCertificates((1, r.randrange(1, 1 << 62))),
    Frames: lambda r, m: Frames(tuple(r.choices(m.frames, k=2))),
    Journaled: lambda r, m: Journaled({_shard(r, m): _seqs(r, m)}),
    Summary: lambda r, m: Summary(tuple(_row(r, m) for _ in range(r.randrange(5)))),
    Frontier: lambda r, m: Frontier(
        _shard(r, m), r.randrange(9), 0, r.choice((0, 1 << 30)), r.random() < 0.5,
        r.randbytes(16), _seqs(r, m),
    ),
    Want: lambda r, m: Want(_shard(r, m), _ranges(r)),
    Served: lambda r, m: Served(_shard(r, m), r.random() < 0.5),
    WantSnapshot: lambda r, m: WantSnapshot(_shard(r, m)),
    WantRest: lambda r, m: WantRest(_shard(r, m), r.randrange(9), r.randrange(1, 9)),
    SnapshotPart: lambda r, m: SnapshotPart(_shard(r, m), r.randrange(9), 0, 2, r.randbytes(99)),
    Presence: lambda r, m: Presence(
        (PresenceRow("ghost", r.randrange(1 << 41), r.randrange(1, 1 << 62), 9, 5_000, b"x"),)
    ),
    RosterVersion: lambda r, m: RosterVersion(r.randrange(9), (r.randrange(1, 9),)),
    RosterNews: lambda r, m: RosterNews(r.randbytes(r.randrange(300))),
    MeshKeys: lambda r, m: MeshKeys(((r.randrange(1, 9), r.randbytes(32)),)),
    WantKeys: lambda r, m: WantKeys((1, r.randrange(1, 9))),
    Prune: lambda r, m: Prune(tuple(_seqs(r, m))),
    Graft: lambda r, m: Graft(tuple(_seqs(r, m))),
    Holds: lambda r, m: Holds((_shard(r, m),)),
}  # fmt: skip
WORDS: Final = tuple(MAKERS[each.cls] for each in VOCABULARY._by_kind.values())
"""One for each word there is: a word without a maker here fails at import."""
