"""Invitations: who may join a mesh, until when and how often; and who has joined. Pure.

A *token* is what an invitation looks like to whoever is to join: where to ask, whom to believe
there, and a secret. It is one word of base64url text with a format in front and a checksum inside.
The authority keeps only a hash of the secret. Who has the token can join: hand it over as you would
a password. What the authority knows is a `Register`, kept as JSON; every change to it is on disk
before anything that it allows leaves.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from crdt.errors import CallerError, CodecError, MeshError
from crdt.structure import pack, unpack
from persistence.certificates import MEMBER, OBSERVER
from persistence.limits import MESH_ID_BYTES

__all__ = (
    "Invitation",
    "JoinRefused",
    "Member",
    "Register",
    "Token",
    "TokenDamaged",
    "authority_fingerprint",
    "secret_hash",
)

TOKEN_PREFIX: Final = "mesh1."  # noqa: S105 - a format, not a secret
SECRET_BYTES: Final = 32
INVITATION_BYTES: Final = 8
FINGERPRINT_BYTES: Final = 32
MAX_ADDRESSES: Final = 8
MAX_USES: Final = 1_000_000
MAX_INVITATIONS: Final = 10_000
MAX_FORMER: Final = 64
MAX_TOKEN_CHARACTERS: Final = 4_096
RESERVED_NAME: Final = "mesh-authority"
REGISTER_FORMAT: Final = 1
KEPT_MS: Final = 30 * 86_400_000
"""So long after its end an invitation still says why it is refused; then it is forgotten."""
_CHECK_BYTES: Final = 4
_MAX_MS: Final = 2**53 - 1


class TokenDamaged(CallerError):
    """What was given is not a token, or not all of one."""


class JoinRefused(MeshError):
    """Whoever wanted to join may not. `code` is one of `unknown`, `expired`, `used up`, `revoked`,
    `name taken`, `reserved`, `proof`, `busy`.
    """

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Token:
    """See the module. `authority` is the SHA-256 of the authority's certificate."""

    mesh: bytes
    authority: bytes
    addresses: tuple[str, ...]
    invitation: bytes
    secret: bytes = field(repr=False)
    expires_ms: int

    def text(self) -> str:
        """The token as one word."""
        data = pack(
            [
                self.mesh, self.authority, list(self.addresses), self.invitation, self.secret,
                self.expires_ms,
            ]
        )  # fmt: skip
        return TOKEN_PREFIX + base64.urlsafe_b64encode(_check(data) + data).decode().rstrip("=")

    @staticmethod
    def parse(text: str) -> Token:
        """The token in this text. Raises TokenDamaged, naming what is wrong with it."""
        word = text.strip()
        if len(word) > MAX_TOKEN_CHARACTERS:
            raise TokenDamaged(f"a token has at most {MAX_TOKEN_CHARACTERS} characters")
        if not word.startswith(TOKEN_PREFIX):
            raise TokenDamaged(
                f"this is not a token of a format known here (they start with {TOKEN_PREFIX!r}): "
                "copy what `mesh invite` printed, or install a newer statemesh"
            )
        coded = word.removeprefix(TOKEN_PREFIX)
        try:
            raw = base64.b64decode(coded + "=" * (-len(coded) % 4), b"-_", validate=True)
            check, data = raw[:_CHECK_BYTES], raw[_CHECK_BYTES:]
            return _token(check, data)
        except (ValueError, CodecError) as fault:
            raise TokenDamaged(
                f"the token is damaged ({fault}): copy all of what `mesh invite` printed"
            ) from None


def _token(check: bytes, data: bytes) -> Token:
    if check != _check(data):
        raise ValueError("its checksum is wrong")
    fields: Any = unpack(data, max_items=MAX_ADDRESSES)
    kinds = [bytes, bytes, tuple, bytes, bytes, int]
    if type(fields) is not tuple or [type(each) for each in fields] != kinds:
        raise ValueError("its fields are of wrong number or types")
    mesh, authority, addresses, invitation, secret, expires = fields
    sizes = [len(mesh), len(authority), len(invitation), len(secret)]
    if sizes != [MESH_ID_BYTES, FINGERPRINT_BYTES, INVITATION_BYTES, SECRET_BYTES]:
        raise ValueError("its fields are of wrong lengths")
    if not all(type(one) is str and len(one) <= 255 for one in addresses):
        raise ValueError("its addresses are none")
    return Token(mesh, authority, addresses, invitation, secret, expires)


def _check(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_CHECK_BYTES, person=b"statemesh.token").digest()


def secret_hash(secret: bytes) -> str:
    """What the authority keeps of a secret. It has 256 random bits: no salt and no slow hash."""
    return hashlib.sha256(b"statemesh invitation 1\0" + secret).hexdigest()


def authority_fingerprint(der: bytes) -> bytes:
    """What a token says of the authority's certificate."""
    return hashlib.sha256(der).digest()


@dataclass(frozen=True, slots=True)
class Invitation:
    """What the authority keeps of an invitation. `lasts_ms`: how long certificates count that are
    issued for it, in milliseconds; None: for the mesh's lifetime.
    """

    id: str
    secret: str
    role: str
    snapshots: bool
    expires_ms: int
    uses_left: int
    lasts_ms: int | None = None
    withdrawn: bool = False


@dataclass(frozen=True, slots=True)
class Member:
    """The latest certificate issued in a name. `key` is the public key, `serial` the certificate's,
    both in hex; `certificate` its DER in base64; `former` are the serials of certificates issued in
    this name before, which may not be over yet. `revoked_ms` None: it counts.
    """

    name: str
    key: str
    serial: str
    role: str
    snapshots: bool
    issued_ms: int
    expires_ms: int
    certificate: str
    invitation: str = ""
    revoked_ms: int | None = None
    reason: str = ""
    former: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Register:
    """All that an authority remembers. Immutable: each change is a new one, to be written first."""

    invitations: Mapping[str, Invitation] = field(default_factory=dict)
    members: Mapping[str, Member] = field(default_factory=dict)

    def inviting(self, invitation: Invitation, now_ms: int) -> Register:
        """With one more invitation; those that ended long ago are forgotten. Raises CallerError."""
        if invitation.role not in (MEMBER, OBSERVER):
            raise CallerError(f"nobody is invited as {invitation.role!r}; use member or observer")
        if not 1 <= invitation.uses_left <= MAX_USES:
            raise CallerError(f"an invitation is for 1 to {MAX_USES} uses")
        if not now_ms < invitation.expires_ms <= _MAX_MS:
            raise CallerError("an invitation must end in the future; give a positive --ttl")
        kept = {
            one.id: one for one in self.invitations.values() if one.expires_ms + KEPT_MS > now_ms
        }
        if len(kept) >= MAX_INVITATIONS:
            raise CallerError(
                f"{len(kept)} invitations are the most kept; use --uses for many replicas"
            )
        return replace(self, invitations={**kept, invitation.id: invitation})

    def withdrawing(self, invitation: str) -> Register:
        """Without this invitation: it admits nobody any more. Raises CallerError."""
        found = self.invitations.get(invitation)
        if found is None:
            raise CallerError(f"there is no invitation {invitation!r}")
        gone = replace(found, withdrawn=True)
        return replace(self, invitations={**self.invitations, invitation: gone})

    def admit(
        self, invitation: str, secret: bytes, name: str, key: str, now_ms: int
    ) -> tuple[Invitation, Member | None]:
        """The invitation by which this key may join in this name; and what it has already, if it
        joined before and that still counts: then it gets the same again and uses nothing up.

        Raises JoinRefused. Who does not know the secret learns nothing but that.
        """
        found = self.invitations.get(invitation)
        # Compared even where there is none, so that the time it takes tells nothing.
        expected = found.secret if found else secret_hash(b"")
        if not hmac.compare_digest(expected, secret_hash(secret)) or found is None:
            raise JoinRefused(
                "unknown", "this authority has no such invitation; ask it for a new token"
            )
        if found.withdrawn:
            raise JoinRefused("revoked", "the invitation was withdrawn; ask for a new token")
        if name == RESERVED_NAME:
            raise JoinRefused("reserved", f"{name!r} is the authority's own name; choose another")
        member = self.members.get(name)
        if member is not None and member.revoked_ms is None:
            if member.key != key:
                raise JoinRefused(
                    "name taken",
                    f"replica {name!r} has joined with another key; choose another name, or have "
                    f"the old one revoked with `mesh revoke`",
                )
            if not _renewable(member, now_ms):
                return found, member
        if found.expires_ms <= now_ms:
            raise JoinRefused("expired", "the invitation has expired; ask for a new token")
        if found.uses_left <= 0:
            raise JoinRefused("used up", "the invitation is used up; ask for a new token")
        if member is not None and member.revoked_ms is not None and member.key == key:
            raise JoinRefused(
                "revoked", f"replica {name!r} was revoked with this key; join in a new folder"
            )
        return found, None

    def admitted(self, invitation: str, member: Member) -> Register:
        """With one use less and this member."""
        found = self.invitations[invitation]
        used = replace(found, uses_left=found.uses_left - 1)
        return replace(
            self,
            invitations={**self.invitations, invitation: used},
            members=self.enrolled(member).members,
        )

    def enrolled(self, member: Member) -> Register:
        """With a member that was let in by hand."""
        before = self.members.get(member.name)
        if before is not None and before.revoked_ms is None:
            former = (*before.former, before.serial)[-MAX_FORMER:]
            member = replace(member, former=former)
        return replace(self, members={**self.members, member.name: member})

    def revoked(self, name: str, now_ms: int, reason: str) -> tuple[Register, Member]:
        """With this member marked as revoked, and the member. Raises CallerError."""
        member = self.members.get(name)
        if member is None:
            raise CallerError(
                f"no replica {name!r} has joined this mesh; `mesh members` lists those that have"
            )
        if member.revoked_ms is not None:
            raise CallerError(f"replica {name!r} is revoked already")
        gone = replace(member, revoked_ms=now_ms, reason=reason)
        return replace(self, members={**self.members, name: gone}), gone

    def to_json(self) -> bytes:
        """The register's bytes."""
        facts = {
            "format": REGISTER_FORMAT,
            "invitations": [asdict(one) for one in self.invitations.values()],
            "members": [asdict(one) for one in self.members.values()],
        }
        return (json.dumps(facts, indent=1) + "\n").encode()

    @staticmethod
    def from_json(data: bytes) -> Register:
        """Raises ValueError for what `to_json` did not make."""
        facts = json.loads(data)
        if not isinstance(facts, dict) or facts.get("format") != REGISTER_FORMAT:
            raise ValueError("its format is not known here; install a newer statemesh")
        try:
            invitations = [Invitation(**one) for one in facts["invitations"]]
            members = [
                Member(**{**one, "former": tuple(one["former"])}) for one in facts["members"]
            ]
        except (TypeError, KeyError) as fault:
            raise ValueError(str(fault)) from None
        return Register({one.id: one for one in invitations}, {one.name: one for one in members})


def _renewable(member: Member, now_ms: int) -> bool:
    """Whether its certificate is over, or in the last quarter of its time."""
    lasts = member.expires_ms - member.issued_ms
    return now_ms >= member.expires_ms - lasts // 4
