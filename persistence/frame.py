"""Frames on the wire: what one session wrote to one shard in one flush, as its author's own bytes.

    frame  = pack([header, siblings, signature, certificate, sealed])
    header = pack([version, mesh, shard, session, first, last, deps, stamp, key id, policy,
                   previous, extensions])

`siblings` are the hashes of all frames of the flush, one after the other; the author's session
signs them once, and as every frame carries them, every frame verifies alone. A frame's hash covers
header and sealed body. `certificate` (of the session) is there in a session's first frame of a
shard and nowhere else. Deps and extensions are flat lists, sorted, so that a header has one
encoding.

This module only takes frames apart and puts them together; `persistence.sealing` verifies and opens
them.

    FrameError               base.py: a frame that is refused
    ├── Malformed            not the bytes a frame is made of, or signed nonsense
    ├── Oversized            beyond a bound of `persistence.limits`
    ├── ForeignMesh          of another mesh
    ├── UnknownVersion       of a newer (or no) wire version
    ├── UnknownSession       whose session has no certificate here yet: ask for it, then try again
    ├── UnknownKey           sealed with a mesh key this replica does not have yet
    ├── NotAllowed           by somebody whose certificate does not allow it, or counts no more
    └── BadSignature         forged or altered, or certified by somebody else
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, Final, NamedTuple

from crdt.errors import CodecError
from crdt.structure import pack, unpack
from persistence.base import FrameError
from persistence.limits import (
    FRAME_VERSION,
    HASH_BYTES,
    MAX_CERTIFICATE_BYTES,
    MAX_DEPS,
    MAX_EXTENSION_BYTES,
    MAX_EXTENSION_KEY_BYTES,
    MAX_EXTENSIONS,
    MAX_FRAME_BYTES,
    MAX_FRAME_OPERATIONS,
    MAX_KEY_ID,
    MAX_POLICY,
    MAX_SEQ,
    MAX_SESSION,
    MAX_STAMP,
    MESH_ID_BYTES,
    SIGNATURE_BYTES,
)

CLOSE_EXTENSION: Final = "close"
"""The session's last frame in this shard: its last seq, in decimal. The session ended in order."""
EVENTS_EXTENSION: Final = "events"
"""Number of transactions in a frame, in decimal: tools count events without decrypting."""


class Malformed(FrameError):
    """Not the bytes a frame (snapshot, certificate) is made of."""


class Oversized(FrameError):
    """Beyond a bound of `persistence.limits`."""


class ForeignMesh(FrameError):
    """Of another mesh: wrong seed address, or two meshes on one network."""


class UnknownVersion(FrameError):
    """Of a wire version this program does not speak; the cure is a newer program here."""


class UnknownSession(FrameError):
    """Its session has no certificate here yet. Not a fault of the frame: learn the certificate,
    try again. `header`: what the frame says it is, unproven.
    """

    def __init__(self, message: str, header: Header | None = None) -> None:
        self.header = header
        super().__init__(message)


class UnknownKey(FrameError):
    """Sealed with a mesh key that this replica has not been given yet. Not a fault of the frame:
    get the key, try again. `key_id`: which one.
    """

    def __init__(self, message: str, key_id: int = 0) -> None:
        self.key_id = key_id
        super().__init__(message)


class NotAllowed(FrameError):
    """Its author may not do this: its certificate gives no right to, or was revoked."""


class BadSignature(FrameError):
    """Forged, altered, or certified by somebody else than this mesh's authority."""


class Header(NamedTuple):
    """What everybody on the way may know of a frame: everything but what was written.

    `deps` are (session, seq) of applied frames that no other applied frame depends on, the
    session's own predecessor left out, sorted. `stamp` is the author's hybrid clock, `previous` the
    hash of the session's frame before this one in the same shard (empty for the first).
    `extensions` are signed; readers ignore what they don't know.
    """

    version: int
    mesh: bytes
    shard: int
    session: int
    first: int
    last: int
    deps: tuple[tuple[int, int], ...]
    stamp: int
    key_id: int
    policy: int
    previous: bytes
    extensions: Mapping[str, bytes]


def events_in(header: Header) -> int:
    """How many transactions the author says are in the frame; 0 where it doesn't say."""
    said = header.extensions.get(EVENTS_EXTENSION, b"")
    return int(said) if said.isdigit() and len(said) <= 9 else 0


class Frame(NamedTuple):
    """A frame taken apart, nothing in it believed yet. `hash` was computed here, not read."""

    header: Header
    header_bytes: bytes
    siblings: bytes
    signature: bytes
    certificate: bytes
    sealed: bytes
    hash: bytes


_HEADER_TYPES: Final = [int, bytes, *[int] * 4, tuple, *[int] * 3, bytes, tuple]
# Tells our hashes from anybody else's use of blake2b over the same bytes.
_PERSON: Final = b"statemesh-frame1"


def hash_parts(header: bytes, sealed: bytes) -> bytes:
    """The 32-byte hash of a frame: over its header and its sealed body."""
    digest = blake2b(len(header).to_bytes(4, "big"), digest_size=HASH_BYTES, person=_PERSON)
    digest.update(header)
    digest.update(sealed)
    return digest.digest()


def frame_hash(raw: bytes) -> bytes:
    """The hash by which a frame's successor names it. FrameError where `raw` is not a frame."""
    header, _, _, _, sealed = _split(raw)
    return hash_parts(header, sealed)


def encode_header(header: Header) -> bytes:
    """The one encoding of a header."""
    deps = [number for dot in sorted(header.deps) for number in dot]
    extensions: list[str | bytes] = []
    for key in sorted(header.extensions):
        extensions += (key, header.extensions[key])
    return pack([*header[:6], deps, *header[7:11], extensions])


def encode_frame(
    header: bytes, siblings: bytes, signature: bytes, certificate: bytes, sealed: bytes
) -> bytes:
    """The one encoding of a frame. Only its author ever calls this for it."""
    return pack([header, siblings, signature, certificate, sealed])


def header_fault(header: Header, shards: int) -> str | None:
    """What a header of a mesh of `shards` shards may not contain, in words; None if it is fine.

    The same rules bind author and reader, so nothing can be sealed that others would refuse.
    """
    if not 0 <= header.shard < shards:
        return f"shard {header.shard} does not exist in a mesh of {shards} shards"
    if not 0 < header.session <= MAX_SESSION:
        return f"session {header.session} is not in 1..{MAX_SESSION}"
    if not 0 < header.first <= header.last <= MAX_SEQ:
        return f"seqs {header.first}..{header.last} are not an ascending range above 0"
    if header.last - header.first >= MAX_FRAME_OPERATIONS:
        return f"{header.last - header.first + 1} operations, more than {MAX_FRAME_OPERATIONS}"
    if not 0 <= header.stamp <= MAX_STAMP or not 0 <= header.key_id <= MAX_KEY_ID:
        return "stamp or key id out of range"
    if not 0 <= header.policy <= MAX_POLICY:
        return f"policy version {header.policy} is out of range"
    if len(header.previous) != (0 if header.first == 1 else HASH_BYTES):
        return "a frame names its predecessor's hash exactly if it has one"
    return _deps_fault(header) or _extensions_fault(header.extensions)


def parse_frame(raw: bytes, mesh: bytes, shards: int) -> Frame:
    """Take a frame apart and check its form, bounds, version and mesh. Believes nothing yet.

    Raises Oversized, Malformed, UnknownVersion, ForeignMesh.
    """
    header_bytes, siblings, signature, certificate, sealed = _split(raw)
    header = parse_header(header_bytes, mesh)
    fault = header_fault(header, shards)
    if fault is not None:
        raise Malformed(f"frame header refused: {fault}")
    if not 0 < len(siblings) <= shards * HASH_BYTES or len(siblings) % HASH_BYTES:
        raise Malformed(f"a flush of {len(siblings)} bytes of hashes, in a mesh of {shards} shards")
    if len(signature) != SIGNATURE_BYTES:
        raise Malformed(f"a signature of {len(signature)} bytes instead of {SIGNATURE_BYTES}")
    if len(certificate) > MAX_CERTIFICATE_BYTES:
        raise Oversized(f"a certificate of {len(certificate)} bytes, above {MAX_CERTIFICATE_BYTES}")
    # A relay must not be able to strip or add it: one frame, one sequence of bytes.
    if bool(certificate) != (header.first == 1):
        raise Malformed(
            "a certificate belongs into a session's first frame of a shard, and only there"
        )
    digest = hash_parts(header_bytes, sealed)
    return Frame(header, header_bytes, siblings, signature, certificate, sealed, digest)


def parse_header(data: bytes, mesh: bytes) -> Header:
    """Decode a header of this mesh; types are checked here, ranges by `header_fault`."""
    fields = unpack_fields(data, "frame header")
    version = fields[0] if fields else None
    if type(version) is not int or version != FRAME_VERSION:
        raise UnknownVersion(
            f"frame version {shown(version)} is not known here "
            f"(this program speaks {FRAME_VERSION}); run a newer statemesh on this replica"
        )
    if len(fields) != 12:
        raise Malformed(f"a frame header of {len(fields)} fields instead of 12")
    found = fields[1]
    if type(found) is not bytes or len(found) != MESH_ID_BYTES:
        raise Malformed("a frame header without a mesh id")
    if found != mesh:
        raise ForeignMesh(f"a frame of mesh {found.hex()} reached a replica of mesh {mesh.hex()}")
    if [*map(type, fields)] != _HEADER_TYPES:
        raise Malformed("a frame header with fields of wrong types")
    deps = pairs_of(fields[6], int, int, "deps", MAX_DEPS)
    extensions = pairs_of(fields[11], str, bytes, "extensions", MAX_EXTENSIONS)
    # Shortest numbers, sorted, no key twice: what differs from the one encoding is nobody's.
    if pack(fields) != data or not (_ascending(deps) and _ascending(extensions)):
        raise Malformed("a frame header that is not in its one encoding")
    return Header._make((*fields[:6], tuple(deps), *fields[7:11], dict(extensions)))


def _ascending(pairs: list[tuple[Any, Any]]) -> bool:
    """Whether each pair's first part is above the one before."""
    return len(pairs) < 2 or all(
        before[0] < after[0] for before, after in itertools.pairwise(pairs)
    )


def unpack_fields(data: bytes, what: str) -> tuple[Any, ...]:
    """Unpack bytes from the network that must be a list. Raises Malformed."""
    try:
        value = unpack(data)
    except CodecError as fault:
        raise Malformed(f"{what}: {fault}") from fault
    if type(value) is not tuple:
        raise Malformed(f"{what}: a {type(value).__name__} instead of a list")
    return value


def shown(value: object) -> str:
    """A value from the network for an error's text. Of anything but a number only the type: the
    text of lists in lists may be beyond the stack.
    """
    return str(value) if type(value) is int else f"a {type(value).__name__}"


def byte_fields(data: bytes, count: int, what: str) -> tuple[bytes, ...]:
    """Unpack exactly `count` byte strings in their one encoding. Raises Malformed."""
    fields = unpack_fields(data, what)
    if [*map(type, fields)] != [bytes] * count:
        raise Malformed(f"{what}: not {count} byte strings")
    # msgpack has several length prefixes for one string; only the shortest is ours, so that altered
    # bytes never pass for the same frame.
    if pack(fields) != data:
        raise Malformed(f"{what}: not in its one encoding")
    return fields


def pairs_of(flat: object, left: type, right: type, what: str, limit: int) -> list[tuple[Any, Any]]:
    """The pairs of a flat list from the network, each of the two types. Malformed, Oversized."""
    if type(flat) is not tuple or len(flat) % 2:
        raise Malformed(f"{what} are not a list of pairs")
    if len(flat) > 2 * limit:
        raise Oversized(f"{len(flat) // 2} {what}, above {limit}")
    if [*map(type, flat)] != [left, right] * (len(flat) // 2):
        raise Malformed(f"{what} with members of wrong types")
    return [*zip(flat[::2], flat[1::2], strict=True)]


def _split(raw: bytes) -> tuple[bytes, ...]:
    if len(raw) > MAX_FRAME_BYTES:
        raise Oversized(f"a frame of {len(raw)} bytes, above {MAX_FRAME_BYTES}")
    return byte_fields(raw, 5, "frame")


def _deps_fault(header: Header) -> str | None:
    if len(header.deps) > MAX_DEPS:
        return f"{len(header.deps)} deps, above {MAX_DEPS}"
    before = 0
    for session, seq in header.deps:
        if not before < session <= MAX_SESSION or not 0 < seq <= MAX_SEQ:
            return f"dep ({session}, {seq}) is out of range or order, or its session is there twice"
        if session == header.session:
            return "a frame depends on its own session's past by its seqs, never by deps"
        before = session
    return None


def _extensions_fault(extensions: Mapping[str, bytes]) -> str | None:
    if len(extensions) > MAX_EXTENSIONS:
        return f"{len(extensions)} extensions, above {MAX_EXTENSIONS}"
    size = 0
    for key, value in extensions.items():
        if not 0 < len(key.encode()) <= MAX_EXTENSION_KEY_BYTES:
            return f"an extension's name is 1 to {MAX_EXTENSION_KEY_BYTES} bytes"
        size += len(value)
    if size > MAX_EXTENSION_BYTES:
        return f"extensions of more than {MAX_EXTENSION_BYTES} bytes"
    return None
