"""What the authority last said about the mesh: who was let out of it, and which keys it uses.

    roster  = pack([payload, signature by the authority's key])
    payload = pack([format, mesh, version, issued at, [revoked …], [[key id, fingerprint] …],
                    id of the key that seals])
    revoked = [serial, name, at, reason, [[session, shard, seq] …]]

The highest version counts; a mesh without a roster is at version 0. Whoever has one may pass it
on, as the authority's own bytes: it verifies alone and holds no secret. Mesh keys themselves travel
over links only; what is in the roster is their fingerprints, so that no member can slip in a key of
its own. A replica's certificate is revoked by its serial: the name may be given to a new one.

The list at the end of a row is the cut table: the last seq of each session and shard that counts.
It is in the format and empty; nobody is judged by it yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from crdt.errors import CallerError
from crdt.structure import pack
from persistence.frame import (
    BadSignature,
    ForeignMesh,
    Malformed,
    Oversized,
    UnknownVersion,
    byte_fields,
    unpack_fields,
)
from persistence.genesis import FIRST_KEY_ID, Genesis
from persistence.limits import (
    MAX_KEY_ID,
    MAX_ROSTER_BYTES,
    MAX_ROSTER_KEYS,
    MAX_ROSTER_REVOKED,
    MAX_SEQ,
    MAX_SESSION,
    MAX_SHARDS,
    MAX_STAMP,
    MESH_KEY_BYTES,
)

__all__ = (
    "FINGERPRINT_BYTES",
    "Revocation",
    "Roster",
    "first_roster",
    "key_fingerprint",
    "read_roster",
    "sign_roster",
)

ROSTER_FORMAT: Final = 1
FINGERPRINT_BYTES: Final = 32
REASON_CHARACTERS: Final = 200
_CONTEXT: Final = b"statemesh roster 1\0"
_SERIAL_BYTES: Final = 20
_MAX_VERSION: Final = 2**53 - 1


@dataclass(frozen=True, slots=True)
class Revocation:
    """A certificate that counts no more. `at_ms` in Unix milliseconds, `reason` for people.

    `cuts` {(session, shard): last seq that counts}; empty: whatever was written stays.
    """

    serial: int
    name: str
    at_ms: int
    reason: str = ""
    cuts: Mapping[tuple[int, int], int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Roster:
    """See the module. `keys` {key id: fingerprint}; `seals` is the id of one of them."""

    version: int
    issued_ms: int
    revoked: Mapping[int, Revocation]
    keys: Mapping[int, bytes]
    seals: int

    def revoking(self, revocation: Revocation, now_ms: int) -> Roster:
        """The next version, in which this certificate is revoked too.

        Raises CallerError where no more fit: expired ones leave with a new mesh.
        """
        if len(self.revoked) >= MAX_ROSTER_REVOKED:
            raise CallerError(f"a roster revokes at most {MAX_ROSTER_REVOKED} certificates")
        revoked = {**self.revoked, revocation.serial: revocation}
        return replace(self, version=self.version + 1, issued_ms=now_ms, revoked=revoked)

    def sealing_with(self, key_id: int, fingerprint: bytes, now_ms: int) -> Roster:
        """The next version, in which this key seals. Raises CallerError where no more keys fit."""
        if len(self.keys) >= MAX_ROSTER_KEYS:
            raise CallerError(f"a mesh has at most {MAX_ROSTER_KEYS} keys, old ones included")
        keys = {**self.keys, key_id: fingerprint}
        return replace(self, version=self.version + 1, issued_ms=now_ms, keys=keys, seals=key_id)

    def holds(self, mesh: bytes, key_id: int, key: bytes) -> bool:
        """Whether this is the mesh key of that id, and not somebody's invention."""
        return len(key) == MESH_KEY_BYTES and self.keys.get(key_id) == key_fingerprint(
            mesh, key_id, key
        )


def first_roster(genesis: Genesis) -> Roster:
    """What holds while the authority has said nothing: nobody is out, the first key seals."""
    fingerprint = key_fingerprint(genesis.id, FIRST_KEY_ID, genesis.keys[FIRST_KEY_ID])
    return Roster(0, genesis.created_ms, {}, {FIRST_KEY_ID: fingerprint}, FIRST_KEY_ID)


def key_fingerprint(mesh: bytes, key_id: int, key: bytes) -> bytes:
    """32 bytes that tell a mesh key apart and say nothing about it (it has 256 random bits)."""
    facts = pack([mesh, key_id])
    return blake2b(
        facts, digest_size=FINGERPRINT_BYTES, key=key, person=b"statemesh.fngprt"
    ).digest()


def sign_roster(mesh: bytes, key: Ed25519PrivateKey, roster: Roster) -> bytes:
    """The roster's bytes, signed by the authority's key."""
    revoked = [
        [
            one.serial.to_bytes(_SERIAL_BYTES, "big"), one.name, one.at_ms,
            one.reason[:REASON_CHARACTERS],
            [[session, shard, seq] for (session, shard), seq in sorted(one.cuts.items())],
        ]
        for one in roster.revoked.values()
    ]  # fmt: skip
    keys = [[number, fingerprint] for number, fingerprint in sorted(roster.keys.items())]
    payload = pack(
        [ROSTER_FORMAT, mesh, roster.version, roster.issued_ms, revoked, keys, roster.seals]
    )
    return pack([payload, key.sign(_CONTEXT + payload)])


def read_roster(genesis: Genesis, blob: bytes) -> Roster:
    """The roster in these bytes, if this mesh's authority signed it.

    Raises Oversized, Malformed, BadSignature, ForeignMesh, UnknownVersion; verified before it is
    looked at any closer.
    """
    if len(blob) > MAX_ROSTER_BYTES:
        raise Oversized(f"a roster of {len(blob)} bytes, above {MAX_ROSTER_BYTES}")
    payload, signature = byte_fields(blob, 2, "roster")
    key = genesis.authority.public_key()
    assert isinstance(key, Ed25519PublicKey)
    try:
        key.verify(signature, _CONTEXT + payload)
    except InvalidSignature as fault:
        raise BadSignature("a roster that this mesh's authority did not sign") from fault
    fields = unpack_fields(payload, "roster")
    found = fields[0] if fields else None
    if type(found) is not int or found != ROSTER_FORMAT:
        raise UnknownVersion(
            f"roster format {found!r} is not known here; run a newer statemesh on this replica"
        )
    if [type(each) for each in fields] != [int, bytes, int, int, tuple, tuple, int]:
        raise Malformed("a roster with fields of wrong number or types")
    _, mesh, version, issued, rows, keys, seals = fields
    if mesh != genesis.id:
        raise ForeignMesh(f"a roster of mesh {mesh.hex()} reached mesh {genesis.id.hex()}")
    if not 0 < version <= _MAX_VERSION or not 0 <= issued <= MAX_STAMP:
        raise Malformed("a roster with a version or time out of range")
    if len(rows) > MAX_ROSTER_REVOKED or len(keys) > MAX_ROSTER_KEYS:
        raise Oversized(f"a roster of {len(rows)} revocations and {len(keys)} keys")
    revocations = [_revocation(row) for row in rows]
    known = dict(_key(row) for row in keys)
    if seals not in known or FIRST_KEY_ID not in known or len(known) != len(keys):
        raise Malformed("a roster whose keys do not fit together")
    return Roster(version, issued, {one.serial: one for one in revocations}, known, seals)


def _revocation(row: Any) -> Revocation:
    if type(row) is not tuple or [type(each) for each in row] != [bytes, str, int, str, tuple]:
        raise Malformed("a roster with a revocation that is none")
    serial, name, at_ms, reason, cuts = row
    if len(serial) != _SERIAL_BYTES or len(name) > 63 or len(reason) > REASON_CHARACTERS:
        raise Malformed("a roster with a revocation out of bounds")
    return Revocation(
        int.from_bytes(serial, "big"), name, at_ms, reason, dict(_cut(cut) for cut in cuts)
    )


def _cut(cut: Any) -> tuple[tuple[int, int], int]:
    if type(cut) is not tuple or [type(each) for each in cut] != [int, int, int]:
        raise Malformed("a roster with a cut that is none")
    session, shard, seq = cut
    if not (0 < session <= MAX_SESSION and 0 <= shard < MAX_SHARDS and 0 <= seq <= MAX_SEQ):
        raise Malformed("a roster with a cut out of range")
    return (session, shard), seq


def _key(row: Any) -> tuple[int, bytes]:
    if type(row) is not tuple or [type(each) for each in row] != [int, bytes]:
        raise Malformed("a roster with a key that is none")
    number, fingerprint = row
    if not 0 < number <= MAX_KEY_ID or len(fingerprint) != FINGERPRINT_BYTES:
        raise Malformed("a roster with a key out of range")
    return number, fingerprint
