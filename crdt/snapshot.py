"""A whole shard at one instant, as a value and as a stream of bytes.

The bytes are [format, floor, frontier, heads, sessions, documents, texts, generations, digest]. A
document is [id, [path, session, seq, payload, …] …] in order of id and path, entries in order of
dot, sessions as indexes into the table; generations are id, generation … in order of id. One
snapshot has one encoding: two replicas with the same state give the same bytes, but for their
texts, of which one state has many encodings (digests agree all the same).

Both directions stream: encoding holds a chunk at a time, decoding what it has decoded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from crdt.errors import CodecError, InvalidId
from crdt.frontier import flat, from_flat
from crdt.holding import Entry, Holding, entries_of, holding_of
from crdt.ids import MAX_SESSION, MAX_WEEK, check_document_id, week_of
from crdt.limits import MAX_GENERATION, MAX_SEQ, MAX_SNAPSHOT_BYTES
from crdt.paths import TypeCode, leaf_code
from crdt.stream import MALFORMED, StreamReader, StreamWriter
from crdt.types.rules import path_rule

SNAPSHOT_FORMAT: Final = 2
DIGEST_BYTES: Final = 16

Documents = Mapping[str, Mapping[bytes, Holding]]

_SHARED: Final = frozenset({TypeCode.TEXT, TypeCode.SEQUENCE})
_DIGEST_PREFIX: Final = bytes((0xC4, DIGEST_BYTES))  # MessagePack's bin 8, and how many bytes


@dataclass(frozen=True, slots=True)
class ShardSnapshot:
    """A shard's whole state. Nobody may change it, and it never changes.

    `documents`: {document: {path: what lies there}}, see `crdt.holding`; `texts`: {document: {path:
    state}}, each the encoding of a text or sequence; `generations`: {document: generation}, those
    above 0; `digest`: the shard's, over exactly this state.
    """

    floor: int = 0
    frontier: Mapping[int, int] = field(default_factory=dict)
    heads: Mapping[int, int] = field(default_factory=dict)
    documents: Documents = field(default_factory=dict)
    texts: Mapping[str, Mapping[bytes, bytes]] = field(default_factory=dict)
    generations: Mapping[str, int] = field(default_factory=dict)
    digest: bytes = bytes(DIGEST_BYTES)

    def __repr__(self) -> str:
        return (
            f"<ShardSnapshot of {len(self.documents)} documents, {len(self.frontier)} sessions, "
            f"digest {self.digest.hex()[:8]}>"
        )

    @property
    def entries(self) -> dict[str, dict[bytes, tuple[Entry, ...]]]:
        """{document: {path: ((session, seq, payload), …) sorted}}, a copy."""
        return {
            document: {path: tuple(entries_of(held)) for path, held in fields.items()}
            for document, fields in self.documents.items()
        }

    def seen(self, session: int, seq: int) -> bool:
        """Whether the snapshot has applied this operation."""
        return seq <= self.frontier.get(session, 0) or week_of(session) < self.floor


@dataclass(frozen=True, slots=True)
class SnapshotHead:
    """What a snapshot says of itself beside its content. Fields as in `ShardSnapshot`."""

    floor: int
    frontier: Mapping[int, int]
    heads: Mapping[int, int]
    digest: bytes


# ---------------------------------------------------------------------------------------- encoding


def encode_snapshot(snapshot: ShardSnapshot) -> bytes:
    """The one encoding of a snapshot."""
    return b"".join(encode_chunks(snapshot))


def encode_chunks(snapshot: ShardSnapshot) -> Iterator[bytes]:
    """The same in pieces of some 256 kB; a large text or payload is one piece."""
    writer = StreamWriter()
    writer.header(9)
    for part in (SNAPSHOT_FORMAT, snapshot.floor, flat(snapshot.frontier), flat(snapshot.heads)):
        writer.put(part)
    sessions = _sessions_of(snapshot.documents)
    writer.put(sessions)
    index = {session: position for position, session in enumerate(sessions)}
    writer.header(len(snapshot.documents))
    # By the keys alone: comparing pairs takes three times as long, and stops every thread for it.
    for document in sorted(snapshot.documents):
        writer.put(_document_row(document, snapshot.documents[document], index))
        yield from writer.full()
    writer.header(len(snapshot.texts))
    for document, states in sorted(snapshot.texts.items()):
        writer.header(1 + 2 * len(states))
        writer.put(document)
        for path in sorted(states):
            writer.put(path)
            writer.put(states[path])
            yield from writer.full()
    writer.put([part for each in sorted(snapshot.generations.items()) for part in each])
    writer.put(snapshot.digest)
    yield writer.rest()


def _sessions_of(documents: Documents) -> list[int]:
    found: set[int] = set()
    for fields in documents.values():
        for held in fields.values():
            if isinstance(held, tuple):
                found.add(held[0])
            else:
                found.update(held)
    return sorted(found)


def _document_row(
    document: str, fields: Mapping[bytes, Holding], index: Mapping[int, int]
) -> list[Any]:
    row: list[Any] = [document]
    for path in sorted(fields):
        held = fields[path]
        if isinstance(held, tuple):
            session, seq, payload = held
            row.append((path, index[session], seq, payload))
        else:
            item: list[Any] = [path]
            for session, seq, payload in entries_of(held):
                item += (index[session], seq, payload)
            row.append(item)
    return row


# ---------------------------------------------------------------------------------------- decoding


def decode_snapshot(data: bytes | Iterable[bytes]) -> ShardSnapshot:
    """What `encode_snapshot` or `encode_chunks` gave, every path, payload and dot proven.

    Raises CodecError only. Time and memory are proportional to the input. Text states are proven
    when they are joined; that the digest is that of the content can only be said by a shard that
    has the key.
    """
    reader = StreamReader(data, MAX_SNAPSHOT_BYTES)
    try:
        return _snapshot(reader)
    except MALFORMED as error:
        raise CodecError(f"a malformed snapshot ({type(error).__name__}: {error})") from None


def decode_head(data: bytes) -> SnapshotHead:
    """The head of what `encode_snapshot` gave, for what it costs to read that alone.

    The content is not looked at: nothing of it is proven. Raises CodecError only.
    """
    reader = StreamReader(data, MAX_SNAPSHOT_BYTES)
    try:
        floor, frontier, heads = _head(reader)
    except MALFORMED as error:
        raise CodecError(f"a malformed snapshot ({type(error).__name__}: {error})") from None
    if not data.endswith(_DIGEST_PREFIX, 0, -DIGEST_BYTES):
        raise CodecError("a snapshot without a digest")
    return SnapshotHead(floor, frontier, heads, data[-DIGEST_BYTES:])


def _head(reader: StreamReader) -> tuple[int, dict[int, int], dict[int, int]]:
    """Floor, frontier and heads, each proven."""
    if reader.header() != 9 or reader.integer() != SNAPSHOT_FORMAT:
        raise CodecError(f"a snapshot that is not of format {SNAPSHOT_FORMAT}")
    floor = reader.integer()
    if not 0 <= floor <= MAX_WEEK + 1:
        raise CodecError(f"a snapshot has the floor {floor}")
    frontier = from_flat(reader.scalars())
    heads = from_flat(reader.scalars())
    if any(week_of(session) < floor for session in frontier):
        raise CodecError("a snapshot's frontier names sessions that its floor has closed")
    if any(seq > frontier.get(session, 0) for session, seq in heads.items()):
        raise CodecError("a snapshot has heads that it has not applied")
    return floor, frontier, heads


def _snapshot(reader: StreamReader) -> ShardSnapshot:
    floor, frontier, heads = _head(reader)
    bounds = _session_bounds(reader.scalars(), frontier, floor)
    documents = _documents(reader, bounds)
    texts = _texts(reader)
    generations = _generations(reader.scalars())
    digest = reader.next()
    if type(digest) is not bytes or len(digest) != DIGEST_BYTES:
        raise CodecError("a snapshot without a digest")
    reader.end()
    return ShardSnapshot(floor, frontier, heads, documents, texts, generations, digest)


def _session_bounds(
    sessions: list[Any], frontier: dict[int, int], floor: int
) -> list[tuple[int, int]]:
    """(session, highest seq it may have) for each session of the table."""
    bounds: list[tuple[int, int]] = []
    previous = -1
    for session in sessions:
        if type(session) is not int or not previous < session <= MAX_SESSION:
            raise CodecError(f"a snapshot's sessions are out of order or range at {session!r:.40}")
        bounds.append((session, MAX_SEQ if week_of(session) < floor else frontier.get(session, 0)))
        previous = session
    return bounds


def _checked_id(document: Any, previous: str) -> str:
    try:
        check_document_id(document)
    except InvalidId as error:
        raise CodecError(f"a snapshot names a document badly: {error}") from None
    if document <= previous:
        raise ValueError(f"{document} is out of order")
    return document  # type: ignore[no-any-return]


def _documents(
    reader: StreamReader, bounds: list[tuple[int, int]]
) -> dict[str, dict[bytes, Holding]]:
    documents: dict[str, dict[bytes, Holding]] = {}
    paths: dict[bytes, bytes] = {}  # documents of a type have the same ones: one copy of each
    document = ""
    for _ in range(reader.header()):
        count = reader.header()
        document = _checked_id(reader.next(), document)
        if count < 2:
            raise ValueError(f"{document} is empty")
        documents[document] = _fields(reader, count - 1, bounds, paths)
    return documents


def _fields(
    reader: StreamReader,
    count: int,
    bounds: list[tuple[int, int]],
    paths: dict[bytes, bytes],
) -> dict[bytes, Holding]:
    fields: dict[bytes, Holding] = {}
    header, item = reader.header, reader.next
    previous = b""
    for _ in range(count):
        parts = header()
        path = item()
        path = paths.setdefault(path, path)
        if path <= previous or parts < 4 or parts % 3 != 1:
            raise ValueError("paths out of order, or entries cut short")
        rule = path_rule(path)
        if leaf_code(path) in _SHARED:
            raise ValueError("an entry where a text lies")
        entries: list[Entry] = []
        last_at, last_seq = 0, 0
        for _ in range(parts // 3):
            at, seq, payload = item(), item(), item()
            if type(at) is not int or type(seq) is not int:
                raise ValueError("a dot that is no two numbers")
            if at < last_at or (at == last_at and seq <= last_seq):
                raise ValueError("dots out of order")
            session, upto = bounds[at]
            if not 0 < seq <= upto:
                raise ValueError(f"an entry {session}:{seq} beyond the frontier")
            if type(payload) is not bytes or not rule(payload):
                raise ValueError("a payload that its type does not allow")
            entries.append((session, seq, payload))
            last_at, last_seq = at, seq
        fields[path] = entries[0] if parts == 4 else holding_of(entries)
        previous = path
    return fields


def _texts(reader: StreamReader) -> dict[str, dict[bytes, bytes]]:
    texts: dict[str, dict[bytes, bytes]] = {}
    document = ""
    for _ in range(reader.header()):
        count = reader.header()
        document = _checked_id(reader.next(), document)
        if count < 3 or count % 2 == 0:
            raise ValueError("texts that are not pairs")
        states = texts[document] = {}
        previous = b""
        for _ in range(count // 2):
            path, state = reader.next(), reader.next()
            if path <= previous or leaf_code(path) not in _SHARED or type(state) is not bytes:
                raise ValueError("texts out of order or out of place")
            states[path] = state
            previous = path
    return texts


def _generations(parts: list[Any]) -> dict[str, int]:
    generations: dict[str, int] = {}
    document = ""
    for each, generation in zip(parts[::2], parts[1::2], strict=True):
        document = _checked_id(each, document)
        if type(generation) is not int or not 0 < generation <= MAX_GENERATION:
            raise ValueError(f"generation {generation!r:.40} of {document}")
        generations[document] = generation
    return generations
