"""A whole shard at one instant, as a value and as bytes.

The bytes are [format, floor, frontier, heads, sessions, documents, texts, digest]; a document is
[id, [path, session, seq, payload, …] …] in order of id and path, entries in order of dot, sessions
as indexes into the table. One snapshot has one encoding: two replicas with the same state give the
same bytes, but for their texts, of which one state has many encodings (digests agree all the same).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from crdt.codec import pack, unpack
from crdt.errors import CodecError, InvalidId
from crdt.frontier import flat, from_flat
from crdt.ids import MAX_SESSION, MAX_WEEK, check_document_id, week_of
from crdt.limits import MAX_SEQ, MAX_SNAPSHOT_BYTES
from crdt.paths import TypeCode, leaf_code
from crdt.types.rules import path_rule

SNAPSHOT_FORMAT: Final = 1
DIGEST_BYTES: Final = 16

Entries = Mapping[str, Mapping[bytes, tuple[tuple[int, int, bytes], ...]]]


@dataclass(frozen=True, slots=True)
class ShardSnapshot:
    """A shard's whole state. Nothing in it is shared with the shard, and nobody may change it.

    `entries`: {document: {path: ((session, seq, payload), …) sorted}}; `texts`: {document: {path:
    state}}, each a `TextState`'s encoding; `digest`: the shard's, over exactly this state.
    """

    floor: int = 0
    frontier: Mapping[int, int] = field(default_factory=dict)
    heads: Mapping[int, int] = field(default_factory=dict)
    entries: Entries = field(default_factory=dict)
    texts: Mapping[str, Mapping[bytes, bytes]] = field(default_factory=dict)
    digest: bytes = bytes(DIGEST_BYTES)

    def __repr__(self) -> str:
        return (
            f"<ShardSnapshot of {len(self.entries)} documents, {len(self.frontier)} sessions, "
            f"digest {self.digest.hex()[:8]}>"
        )

    def seen(self, session: int, seq: int) -> bool:
        """Whether the snapshot has applied this operation."""
        return seq <= self.frontier.get(session, 0) or week_of(session) < self.floor


def encode_snapshot(snapshot: ShardSnapshot) -> bytes:
    """The one encoding of a snapshot."""
    sessions = sorted(
        {
            entry[0]
            for fields in snapshot.entries.values()
            for entries in fields.values()
            for entry in entries
        }
    )
    index = {session: position for position, session in enumerate(sessions)}
    documents = []
    for document in sorted(snapshot.entries):
        row: list[Any] = [document]
        fields = snapshot.entries[document]
        for path in sorted(fields):
            item: list[Any] = [path]
            for session, seq, payload in fields[path]:
                item += (index[session], seq, payload)
            row.append(item)
        documents.append(row)
    texts = [
        [document, *(part for path in sorted(fields) for part in (path, fields[path]))]
        for document, fields in sorted(snapshot.texts.items())
    ]
    return pack(
        [
            SNAPSHOT_FORMAT,
            snapshot.floor,
            flat(snapshot.frontier),
            flat(snapshot.heads),
            sessions,
            documents,
            texts,
            snapshot.digest,
        ]
    )


def decode_snapshot(data: bytes) -> ShardSnapshot:
    """What `encode_snapshot` wrote, every path, payload and dot proven. Raises CodecError only.

    Time and memory are proportional to the input. Text states are proven when they are joined;
    that the digest is that of the content can only be said by a shard that has the key.
    """
    parts = unpack(data, max_bytes=MAX_SNAPSHOT_BYTES)
    if type(parts) is not tuple or len(parts) != 8 or parts[0] != SNAPSHOT_FORMAT:
        raise CodecError("a snapshot that is not of format 1")
    _, floor, frontier_row, heads_row, sessions, documents, texts, digest = parts
    if type(floor) is not int or not 0 <= floor <= MAX_WEEK + 1:
        raise CodecError(f"a snapshot has the floor {floor!r:.40}")
    if type(digest) is not bytes or len(digest) != DIGEST_BYTES:
        raise CodecError("a snapshot without a digest")
    frontier = from_flat(frontier_row)
    heads = from_flat(heads_row)
    if any(seq > frontier.get(session, 0) for session, seq in heads.items()):
        raise CodecError("a snapshot has heads that it has not applied")
    bounds = _session_bounds(sessions, frontier, floor)
    try:
        entries = _documents(documents, _entry_reader(bounds))
        states = _documents(texts, _text_reader)
    except (TypeError, ValueError, LookupError) as error:
        raise CodecError(f"a malformed snapshot ({type(error).__name__}: {error})") from None
    return ShardSnapshot(floor, frontier, heads, entries, states, digest)


def _session_bounds(
    sessions: object, frontier: dict[int, int], floor: int
) -> list[tuple[int, int]]:
    """(session, highest seq it may have) for each session of the table."""
    if type(sessions) is not tuple:
        raise CodecError("a snapshot without a table of sessions")
    bounds: list[tuple[int, int]] = []
    previous = -1
    for session in sessions:
        if type(session) is not int or not previous < session <= MAX_SESSION:
            raise CodecError(f"a snapshot's sessions are out of order or range at {session!r:.40}")
        bounds.append((session, MAX_SEQ if week_of(session) < floor else frontier.get(session, 0)))
        previous = session
    return bounds


def _documents(rows: Any, read: Any) -> dict[str, Any]:
    if type(rows) is not tuple:
        raise TypeError("documents that are not a list")
    documents: dict[str, Any] = {}
    previous = ""
    for row in rows:
        document = row[0]
        try:
            check_document_id(document)
        except InvalidId as error:
            raise CodecError(f"a snapshot names a document badly: {error}") from None
        if document <= previous or len(row) < 2:
            raise ValueError(f"{document} is out of order or empty")
        documents[document] = read(row[1:])
        previous = document
    return documents


def _entry_reader(bounds: list[tuple[int, int]]) -> Any:
    def read(items: tuple[Any, ...]) -> dict[bytes, tuple[tuple[int, int, bytes], ...]]:
        fields: dict[bytes, tuple[tuple[int, int, bytes], ...]] = {}
        previous = b""
        for item in items:
            path = item[0]
            if path <= previous or len(item) < 4 or len(item) % 3 != 1:
                raise ValueError("paths out of order, or entries cut short")
            rule = path_rule(path)
            if leaf_code(path) is TypeCode.TEXT:
                raise ValueError("an entry where a text lies")
            entries = []
            last = (0, 0)
            for position in range(1, len(item), 3):
                at, seq, payload = item[position : position + 3]
                if type(at) is not int or type(seq) is not int or (at, seq) <= last:
                    raise ValueError("dots out of order")
                session, upto = bounds[at]
                if not 0 < seq <= upto:
                    raise ValueError(f"an entry {session}:{seq} beyond the frontier")
                if type(payload) is not bytes or not rule(payload):
                    raise ValueError("a payload that its type does not allow")
                entries.append((session, seq, payload))
                last = (at, seq)
            fields[path] = tuple(entries)
            previous = path
        return fields

    return read


def _text_reader(items: tuple[Any, ...]) -> dict[bytes, bytes]:
    fields: dict[bytes, bytes] = {}
    previous = b""
    if len(items) % 2:
        raise ValueError("texts that are not pairs")
    for path, state in zip(items[::2], items[1::2], strict=True):
        if path <= previous or leaf_code(path) is not TypeCode.TEXT or type(state) is not bytes:
            raise ValueError("texts out of order or out of place")
        fields[path] = state
        previous = path
    return fields
