"""Wire version 1 as its first programs spoke it, by hand: nothing of `mesh.wire` is in here.

Never change this file: programs that speak version 1 are out there, and it stands for them. A word
is a class whose fields lie as they do on the wire, a frontier thus as a flat list.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple, TypeAlias

import msgpack  # type: ignore[import-untyped]

VERSION: Final = 1
PART_BYTES: Final = 262_144


class NotVersion1(Exception):
    """What a program of version 1 does not understand, or refuses."""


class Hello(NamedTuple):
    oldest: int
    newest: int
    mesh: bytes
    replica: str
    session: int
    certificate: bytes
    known: list[int]


class Certificates(NamedTuple):
    certificates: list[bytes]


class WantCertificates(NamedTuple):
    sessions: list[int]


class Frames(NamedTuple):
    frames: list[bytes]


class Journaled(NamedTuple):
    shards: list[Any]  # shard, [session, seq, …], shard, […] …


class Summary(NamedTuple):
    rows: list[list[Any]]  # [shard, floor, frontier hash, digest, cuts]


class Frontier(NamedTuple):
    shard: int
    floor: int
    cuts: int
    entries: int
    reply: bool
    digest: bytes
    frontier: list[int]  # session, seq, session, seq …


class Want(NamedTuple):
    shard: int
    ranges: list[list[int]]  # [session, after, upto]


class Served(NamedTuple):
    shard: int
    pruned: bool


class WantSnapshot(NamedTuple):
    shard: int


class SnapshotPart(NamedTuple):
    shard: int
    transfer: int
    number: int
    total: int
    data: bytes


class Ping(NamedTuple):
    pass


class Bye(NamedTuple):
    reason: str


Word: TypeAlias = (
    Hello
    | Certificates
    | WantCertificates
    | Frames
    | Journaled
    | Summary
    | Frontier
    | Want
    | Served
    | WantSnapshot
    | SnapshotPart
    | Ping
    | Bye
)

# Kind → (word, shapes of its fields). A tuple is a list of exactly these; a list is one of any
# length in which these take turns.
WORDS: Final[dict[int, tuple[Any, tuple[Any, ...]]]] = {
    0: (Hello, (int, int, bytes, str, int, bytes, [int])),
    1: (Certificates, ([bytes],)),
    2: (WantCertificates, ([int],)),
    3: (Frames, ([bytes],)),
    4: (Journaled, ([int, [int, int]],)),
    5: (Summary, ([(int, int, bytes, bytes, int)],)),
    6: (Frontier, (int, int, int, int, bool, bytes, [int, int])),
    7: (Want, (int, [(int, int, int)])),
    8: (Served, (int, bool)),
    9: (WantSnapshot, (int,)),
    10: (SnapshotPart, (int, int, int, int, bytes)),
    11: (Ping, ()),
    12: (Bye, (str,)),
}
KINDS: Final = {word: kind for kind, (word, _) in WORDS.items()}


def encode(word: Word) -> bytes:
    """A word as version 1 says it: msgpack of its kind and its fields."""
    data: bytes = msgpack.packb([KINDS[type(word)], *word])
    return data


def decode(data: bytes) -> Word:
    """What version 1 understands. Raises NotVersion1 for all else, a newer word included."""
    parts = msgpack.unpackb(data)
    if type(parts) is not list or not parts or parts[0] not in WORDS:
        raise NotVersion1(f"no word of version 1: {data[:24].hex()}")
    word, shapes = WORDS[parts[0]]
    if not _fits(parts[1:], shapes):
        raise NotVersion1(f"not a {word.__name__} of version 1: {data[:24].hex()}")
    found: Word = word(*parts[1:])
    return found


def _fits(value: Any, shape: Any) -> bool:
    if isinstance(shape, type):
        return type(value) is shape
    if type(value) is not list or len(value) % (len(shape) or 1):
        return False
    if isinstance(shape, tuple) and len(value) != len(shape):
        return False
    return all(_fits(one, shape[at % len(shape)]) for at, one in enumerate(value))


RECORDED: Final[tuple[tuple[Word, bytes], ...]] = (
    (
        Hello(
            1,
            1,
            bytes(range(16)),
            "agent-a",
            571_746_046_443_597,
            b"certificate",
            [5, 1000, 9_007_199_254_740_991],
        ),
        bytes.fromhex(
            "98000101c410000102030405060708090a0b0c0d0e0fa76167656e742d61cf000208000000004d"
            "c40b63657274696669636174659305cd03e8cf001fffffffffffff"
        ),
    ),
    (Certificates([b"one", b"two"]), bytes.fromhex("920192c4036f6e65c40374776f")),
    (WantCertificates([5, 70_000]), bytes.fromhex("92029205ce00011170")),
    (
        Frames([b"frame one", b"y" * 300]),
        bytes.fromhex("920392c4096672616d65206f6e65c5012c" + 300 * "79"),
    ),
    (
        Journaled([0, [1, 2, 300, 128], 15, [9_007_199_254_740_991, 8_589_934_592]]),
        bytes.fromhex("92049400940102cd012ccc800f92cf001fffffffffffffcf0000000200000000"),
    ),
    (
        Summary([[0, 0, b"h" * 16, b"d" * 16, 0], [4095, 90, b"", b"", 7]]),
        bytes.fromhex(
            "920592950000c41068686868686868686868686868686868c41064646464646464646464646464646464"
            "0095cd0fff5ac400c40007"
        ),
    ),
    (
        Frontier(3, 90, 1, 1_000_000, True, b"d" * 16, [5, 6, 9, 1]),
        bytes.fromhex("9806035a01ce000f4240c3c410646464646464646464646464646464649405060901"),
    ),
    (Frontier(0, 0, 0, 0, False, b"", []), bytes.fromhex("980600000000c2c40090")),
    (
        Want(2, [[5, 0, 9], [6, 300, 70_000]]),
        bytes.fromhex("93070292930500099306cd012cce00011170"),
    ),
    (Served(2, False), bytes.fromhex("930802c2")),
    (Served(200, True), bytes.fromhex("9308ccc8c3")),
    (WantSnapshot(300), bytes.fromhex("9209cd012c")),
    (SnapshotPart(4, 1, 0, 2, b"sealed"), bytes.fromhex("960a04010002c4067365616c6564")),
    (
        SnapshotPart(4, 1, 1, 2, b"x" * 70_000),
        bytes.fromhex("960a04010102c600011170" + 70_000 * "78"),
    ),
    (Ping(), bytes.fromhex("910b")),
    (Bye("closing – é"), bytes.fromhex("920cae636c6f73696e6720e2809320c3a9")),
)
"""Words, and their bytes as the first program of version 1 wrote them."""
