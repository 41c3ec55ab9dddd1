"""Sealing frames and snapshots, and opening them: verified before anything inside is decrypted or
decoded.

A body is compressed if that makes it smaller (one flag byte in front says so), then sealed with
AES-256-GCM. The key is HKDF(mesh key; session, shard, key id) and the nonce the frame's first seq,
which a session uses once per shard: that is why a frame, once sealed, is kept and never sealed
anew. The header is authenticated along with the body. One Ed25519 signature covers all frames of a
flush.

A snapshot's nonce is a keyed hash of its header and content (as in SIV modes, RFC 5297): equal
snapshots seal alike, those that differ in anything never share a nonce, strangers learn nothing
from it, and no state is needed.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final, NamedTuple, TypeAlias

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from crdt.errors import CallerError, InvalidValue
from crdt.structure import pack
from persistence.cache import BoundedCache
from persistence.certificates import SessionInfo, SessionKey, Trust
from persistence.ciphers import Ciphers
from persistence.frame import (
    BadSignature,
    ForeignMesh,
    Frame,
    Header,
    Malformed,
    Oversized,
    UnknownSession,
    UnknownVersion,
    byte_fields,
    encode_frame,
    encode_header,
    hash_parts,
    header_fault,
    pairs_of,
    parse_frame,
    shown,
    unpack_fields,
)
from persistence.genesis import Genesis, derive
from persistence.identity import Identity
from persistence.limits import (
    COMPRESS_FROM_BYTES,
    COMPRESS_LEVEL,
    FRAME_VERSION,
    HASH_BYTES,
    MAX_BODY_BYTES,
    MAX_CACHED_FLUSHES,
    MAX_SNAPSHOT_BYTES,
    MAX_SNAPSHOT_SESSIONS,
    MAX_STAMP,
    SNAPSHOT_VERSION,
)

# What a session's signature is for is signed with it: a snapshot can't be passed off as a flush.
_FLUSH_CONTEXT: Final = b"statemesh flush 1\0"
_SNAPSHOT_CONTEXT: Final = b"statemesh snapshot 1\0"
_FRAME_KEY: Final = b"statemesh frame"
_SNAPSHOT_KEY: Final = b"statemesh snapshot"
_SNAPSHOT_NONCE_KEY: Final = b"statemesh snapshot nonce"
_PLAIN: Final = b"\0"
_DEFLATED: Final = b"\1"
_NONCE_BYTES: Final = 12
# Leaves room for header, signature and certificate around what does not compress.
_MAX_CONTENT_BYTES: Final = MAX_SNAPSHOT_BYTES - (64 << 10)

Flushes: TypeAlias = BoundedCache[tuple[int, bytes, bytes], bool]
"""(session, siblings, signature) of flushes whose signature is known to be good."""


class Draft(NamedTuple):
    """What a flush wants sealed for one shard. `body` is `crdt.operation.encode_body`'s.

    `deps` may come in any order and may contain the own session's head: it is left out here.
    `previous` is the hash of the session's frame before this one in the same shard (b"" for its
    first); None means: as sealed here.
    """

    shard: int
    first: int
    last: int
    deps: Sequence[tuple[int, int]]
    stamp: int
    previous: bytes | None
    body: bytes
    extensions: Mapping[str, bytes] = {}
    policy: int = 0


@dataclass(frozen=True, slots=True)
class VerifiedFrame:
    """A frame of this mesh, proven to be its session's, still sealed. Not `writes`: its author may
    not, so `decrypt` gives it an empty body, which all readers, at any time, take for a void one.
    """

    header: Header
    frame: Frame = field(repr=False)
    replica: str
    writes: bool = True


@dataclass(frozen=True, slots=True)
class OpenedFrame:
    """A frame of this mesh, proven to be its session's. `body` is decoded by
    `crdt.operation.decode_body`.
    """

    header: Header
    body: bytes = field(repr=False)
    hash: bytes = field(repr=False)
    replica: str


@dataclass(frozen=True, slots=True)
class OpenedSnapshot:
    """A whole shard as a replica of this mesh had it. `body` is `crdt.snapshot.encode_snapshot`'s.

    `chain` holds the hash of the last contained frame of each session {session: hash};
    `certificates`, all of them verified, that of each session {session: certificate}; `maker` is
    who signed it, with the rights its certificate gives.
    """

    shard: int
    session: int
    replica: str
    stamp: int
    body: bytes = field(repr=False)
    chain: Mapping[int, bytes] = field(repr=False)
    certificates: Mapping[int, bytes] = field(repr=False)
    maker: SessionInfo = field(repr=False)


class Sealer:
    """Seals what one session writes. One per session: it is what keeps a nonce from being used
    twice.

    `known`: the `Opener.known` of who reads its own frames back, and need not verify them then.
    """

    def __init__(
        self, identity: Identity, session_key: SessionKey, known: Flushes | None = None
    ) -> None:
        self._genesis = identity.mesh
        self._key = session_key
        self._ciphers = Ciphers(identity.mesh)
        self._known = known
        # Per shard: the last seq sealed, and that frame's hash.
        self._sealed: dict[int, tuple[int, bytes]] = {}

    @property
    def session(self) -> int:
        """The session whose frames these are."""
        return self._key.session

    @property
    def certificate(self) -> bytes:
        """The session's certificate, for those who need it apart from a frame."""
        return self._key.certificate

    def seal(self, drafts: Sequence[Draft]) -> list[bytes]:
        """The frames of one flush, in the order of the drafts, under one signature.

        More drafts than the mesh has shards get a signature per that many. Raises InvalidValue for
        a draft that nobody would accept and CallerError for seqs sealed before (keep a frame's
        bytes to send it again); then none is sealed.
        """
        tips = dict(self._sealed)
        parts = [self._seal_one(draft, tips) for draft in drafts]
        self._sealed = tips
        frames: list[bytes] = []
        size = self._genesis.shards
        for start in range(0, len(parts), size):
            flush = parts[start : start + size]
            siblings = b"".join(part.hash for part in flush)
            signature = self._key.sign(_FLUSH_CONTEXT + self._genesis.id + siblings)
            if self._known is not None:
                self._known.put((self._key.session, siblings, signature), True)
            frames += (
                encode_frame(
                    part.header,
                    siblings,
                    signature,
                    self._key.certificate if part.first == 1 else b"",
                    part.sealed,
                )
                for part in flush
            )
        return frames

    def seal_snapshot(
        self,
        shard: int,
        body: bytes,
        certificates: Sequence[bytes],
        chain: Mapping[int, bytes],
        stamp: int,
    ) -> bytes:
        """A whole shard, sealed and signed; in any thread. InvalidValue: beyond the bounds."""
        pairs: list[int | bytes] = []
        for session in sorted(chain):
            pairs += (session, chain[session])
        content = pack([body, pairs, list(certificates)])
        if len(content) > _MAX_CONTENT_BYTES or len(chain) > MAX_SNAPSHOT_SESSIONS:
            raise InvalidValue(
                f"a snapshot of {len(content)} bytes and {len(chain)} sessions, above "
                f"{_MAX_CONTENT_BYTES} bytes or {MAX_SNAPSHOT_SESSIONS} sessions; use more shards"
            )
        plain = _deflate(content)
        genesis, session, key_id = self._genesis, self._key.session, self._genesis.key_id
        facts = [SNAPSHOT_VERSION, genesis.id, shard, session, key_id, stamp]
        nonce = _snapshot_nonce(genesis, key_id, pack(facts), plain)
        header = pack([*facts, nonce])
        # Not by the ciphers that are kept: frames are sealed meanwhile, by another thread.
        cipher = Ciphers(genesis).get(_SNAPSHOT_KEY, session, shard, key_id)
        sealed = cipher.encrypt(nonce, plain, header)
        signature = self._key.sign(_snapshot_message(header, sealed))
        return pack([header, signature, self._key.certificate, sealed])

    def _seal_one(self, draft: Draft, tips: dict[int, tuple[int, bytes]]) -> _Part:
        upto, previous = tips.get(draft.shard, (0, b""))
        if 0 < draft.first <= upto:
            raise CallerError(
                f"shard {draft.shard}: seq {draft.first} was sealed before, and sealing it anew "
                "would use a nonce twice; keep the frame's bytes and send those again"
            )
        header = self._header(draft, previous if draft.previous is None else draft.previous)
        fault = header_fault(header, self._genesis.shards)
        if fault is None and len(draft.body) > MAX_BODY_BYTES:
            fault = f"a body of {len(draft.body)} bytes, above {MAX_BODY_BYTES}"
        if fault is not None:
            raise InvalidValue(f"a frame that nobody would accept: {fault}")
        encoded = encode_header(header)
        cipher = self._ciphers.get(_FRAME_KEY, header.session, header.shard, header.key_id)
        sealed = cipher.encrypt(_nonce(header.first), _deflate(draft.body), encoded)
        part = _Part(header.first, encoded, sealed, hash_parts(encoded, sealed))
        tips[draft.shard] = draft.last, part.hash
        return part

    def _header(self, draft: Draft, previous: bytes) -> Header:
        session = self._key.session
        return Header(
            version=FRAME_VERSION,
            mesh=self._genesis.id,
            shard=draft.shard,
            session=session,
            first=draft.first,
            last=draft.last,
            deps=tuple(sorted(dot for dot in draft.deps if dot[0] != session)),
            stamp=draft.stamp,
            key_id=self._genesis.key_id,
            policy=draft.policy,
            previous=previous,
            extensions=draft.extensions,
        )


class _Part(NamedTuple):
    first: int
    header: bytes
    sealed: bytes
    hash: bytes


class Opener:
    """Opens frames and snapshots of one mesh. Whatever the bytes: it returns or raises a
    FrameError.

    `known`: flushes whose signature is known to be good; None: those that are met here.
    """

    def __init__(self, genesis: Genesis, trust: Trust, known: Flushes | None = None) -> None:
        self._genesis = genesis
        self.trust = trust
        self._ciphers = Ciphers(genesis)
        # Of flushes that verified: their other frames need no second check.
        self.known: Flushes = BoundedCache(MAX_CACHED_FLUSHES) if known is None else known

    @property
    def genesis(self) -> Genesis:
        """The mesh whose frames these are."""
        return self._genesis

    def header(self, raw: bytes) -> Header:
        """What a frame says it is; form, bounds, version and mesh are checked, its author is *not*.

        Raises Oversized, Malformed, UnknownVersion, ForeignMesh.
        """
        return parse_frame(raw, self._genesis.id, self._genesis.shards).header

    def open(self, raw: bytes) -> tuple[Header, bytes]:
        """Header and body of a frame that its session has verifiably written. See `unseal`."""
        opened = self.unseal(raw)
        return opened.header, opened.body

    def unseal(self, raw: bytes) -> OpenedFrame:
        """Verify a frame, then decrypt and decompress it; a certificate in it is learned.

        Raises a FrameError: besides those of `header`, UnknownSession (learn its certificate, try
        again), BadSignature, UnknownKey.
        """
        return self.decrypt(self.verify(raw))

    def verify(self, raw: bytes) -> VerifiedFrame:
        """The first half of `unseal`, which costs little where the same flush was verified before:
        enough for who only wants to know what a frame is. Raises as `unseal`, but UnknownKey.
        """
        frame = parse_frame(raw, self._genesis.id, self._genesis.shards)
        info = self._author(frame)
        self._verify(frame, info)
        return VerifiedFrame(frame.header, frame, info.replica, info.certified.writes)

    def decrypt(self, verified: VerifiedFrame) -> OpenedFrame:
        """The second half of `unseal`. Raises UnknownKey, Malformed, Oversized."""
        header, frame = verified.header, verified.frame
        if not verified.writes:
            return OpenedFrame(header, b"", frame.hash, verified.replica)
        cipher = self._ciphers.find(_FRAME_KEY, header.session, header.shard, header.key_id)
        plain = _decrypt(cipher, _nonce(header.first), frame.sealed, frame.header_bytes)
        return OpenedFrame(header, _inflate(plain, MAX_BODY_BYTES), frame.hash, verified.replica)

    def open_snapshot(self, raw: bytes) -> OpenedSnapshot:
        """Verify and open a sealed snapshot, and learn the certificates in it. Raises a FrameError.

        Whether its maker was allowed to give it to others is judged by the caller, from `maker`.
        """
        if len(raw) > MAX_SNAPSHOT_BYTES:
            raise Oversized(f"a snapshot of {len(raw)} bytes, above {MAX_SNAPSHOT_BYTES}")
        header, signature, certificate, sealed = byte_fields(raw, 4, "snapshot")
        shard, session, key_id, stamp, nonce = self._snapshot_header(header)
        info = self.trust.learn(certificate)
        if info.session != session:
            raise BadSignature(
                f"a snapshot of session {session} with session {info.session}'s proof"
            )
        try:
            info.key.verify(signature, _snapshot_message(header, sealed))
        except InvalidSignature as fault:
            raise BadSignature(f"a snapshot that {info.replica!r} did not sign") from fault
        cipher = self._ciphers.find(_SNAPSHOT_KEY, session, shard, key_id)
        content = _inflate(_decrypt(cipher, nonce, sealed, header), MAX_SNAPSHOT_BYTES)
        body, chain, certificates = _snapshot_content(content)
        known = {self.trust.learn(each).session: each for each in certificates}
        return OpenedSnapshot(shard, session, info.replica, stamp, body, chain, known, info)

    def _author(self, frame: Frame) -> SessionInfo:
        session = frame.header.session
        if frame.certificate:
            info = self.trust.learn(frame.certificate)
            if info.session != session:
                raise BadSignature(
                    f"a frame of session {session} with session {info.session}'s certificate"
                )
            return info
        known = self.trust.get(session)
        if known is None:
            raise UnknownSession(
                f"session {session} has no certificate here yet; it comes with the session's first "
                "frame of any shard, with a snapshot, or on request",
                frame.header,
            )
        return known

    def _verify(self, frame: Frame, info: SessionInfo) -> None:
        siblings = frame.siblings
        hashes = (siblings[at : at + HASH_BYTES] for at in range(0, len(siblings), HASH_BYTES))
        if frame.hash not in hashes:
            raise BadSignature(f"a frame of {info.replica!r} that its flush does not contain")
        flush = (info.session, siblings, frame.signature)
        if self.known.get(flush):
            return
        try:
            info.key.verify(frame.signature, _FLUSH_CONTEXT + self._genesis.id + siblings)
        except InvalidSignature as fault:
            raise BadSignature(
                f"a frame of {info.replica!r} (session {info.session}) that it did not sign"
            ) from fault
        self.known.put(flush, True)

    def _snapshot_header(self, data: bytes) -> tuple[int, int, int, int, bytes]:
        fields = unpack_fields(data, "snapshot header")
        version = fields[0] if fields else None
        if type(version) is not int or version != SNAPSHOT_VERSION:
            raise UnknownVersion(
                f"snapshot version {shown(version)} is not known here; "
                "run a newer statemesh on this replica"
            )
        if [type(each) for each in fields] != [int, bytes, int, int, int, int, bytes]:
            raise Malformed("a snapshot header with fields of wrong number or types")
        _, mesh, shard, session, key_id, stamp, nonce = fields
        if mesh != self._genesis.id:
            raise ForeignMesh(
                f"a snapshot of mesh {mesh.hex()} reached mesh {self._genesis.id.hex()}"
            )
        if not 0 <= stamp <= MAX_STAMP or len(nonce) != _NONCE_BYTES:
            raise Malformed("a snapshot header with fields out of range")
        if not 0 <= shard < self._genesis.shards:
            raise Malformed(
                f"a snapshot of shard {shard}, in a mesh of {self._genesis.shards} shards"
            )
        return shard, session, key_id, stamp, nonce


def _nonce(first: int) -> bytes:
    return first.to_bytes(_NONCE_BYTES, "big")


def _snapshot_nonce(genesis: Genesis, key_id: int, facts: bytes, plain: bytes) -> bytes:
    key = derive(genesis.keys[key_id], genesis.id, _SNAPSHOT_NONCE_KEY)
    # `facts` says itself where it ends, so no two pairs run together into the same bytes.
    digest = blake2b(facts, digest_size=_NONCE_BYTES, key=key, person=b"statemesh-nonce")
    digest.update(plain)
    return digest.digest()


def _snapshot_message(header: bytes, sealed: bytes) -> bytes:
    return _SNAPSHOT_CONTEXT + hash_parts(header, sealed)


def _deflate(data: bytes) -> bytes:
    if len(data) >= COMPRESS_FROM_BYTES:
        small = zlib.compress(data, COMPRESS_LEVEL)
        if len(small) < len(data):
            return _DEFLATED + small
    return _PLAIN + data


def _inflate(data: bytes, limit: int) -> bytes:
    flag, content = data[:1], data[1:]
    if flag == _PLAIN:
        if len(content) > limit:
            raise Oversized(f"a body of {len(content)} bytes, above {limit}")
        return content
    if flag != _DEFLATED:
        raise Malformed(f"a body with the unknown compression flag {flag!r}")
    # One byte beyond the limit is asked for and never more: a bomb stops there.
    inflater = zlib.decompressobj()
    try:
        content = inflater.decompress(content, limit + 1)
    except zlib.error as fault:
        raise Malformed(f"a body that does not decompress: {fault}") from fault
    if len(content) > limit:
        raise Oversized(f"a body of more than {limit} bytes")
    if not inflater.eof or inflater.unused_data:
        raise Malformed("a compressed body that is cut short or has something behind it")
    return content


def _decrypt(cipher: AESGCM, nonce: bytes, sealed: bytes, header: bytes) -> bytes:
    try:
        return cipher.decrypt(nonce, sealed, header)
    except (InvalidTag, ValueError) as fault:
        # Its signature held: the author itself sealed nonsense, or with another key under this id.
        raise Malformed("signed by its author, but it does not decrypt") from fault


def _snapshot_content(content: bytes) -> tuple[bytes, dict[int, bytes], tuple[bytes, ...]]:
    fields = unpack_fields(content, "snapshot")
    if [type(each) for each in fields] != [bytes, tuple, tuple]:
        raise Malformed("a snapshot with fields of wrong number or types")
    body, flat, certificates = fields
    chain = dict(pairs_of(flat, int, bytes, "members of a snapshot's chain", MAX_SNAPSHOT_SESSIONS))
    if any(len(last) != HASH_BYTES for last in chain.values()):
        raise Malformed("a snapshot whose chain is not {session: hash}")
    if len(certificates) > MAX_SNAPSHOT_SESSIONS:
        raise Oversized(f"a snapshot with {len(certificates)} certificates")
    if any(type(each) is not bytes for each in certificates):
        raise Malformed("a snapshot whose certificates are not bytes")
    return body, chain, certificates
