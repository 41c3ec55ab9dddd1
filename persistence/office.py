"""The authority's folder at work: inviting, admitting, revoking, changing keys.

    office = Office(Path("authority"))
    token = office.invite(uses=3, addresses=["10.0.0.5:7401"])     # hand it to whoever is to join
    office.revoke("agent-x", "its disk was stolen", authority)

Each call is one step that other processes see whole: `mesh authority` may run while `mesh revoke`
does its work. What a step allows leaves only once the step is on disk. The authority's key is
needed for what is signed (certificates, rosters), and for nothing else.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from crdt.errors import CallerError
from persistence import folder as layout
from persistence.base import Clock, Entropy, FolderError, FrameError
from persistence.certificates import MEMBER, check_name, verify_replica
from persistence.genesis import Genesis
from persistence.identity import Authority, mesh_key_lines, read_genesis
from persistence.invitations import (
    INVITATION_BYTES,
    MAX_ADDRESSES,
    SECRET_BYTES,
    Invitation,
    Member,
    Token,
    authority_fingerprint,
    secret_hash,
)
from persistence.limits import MESH_KEY_BYTES
from persistence.register import RegisterFile, member_of
from persistence.roster import (
    Revocation,
    Roster,
    first_roster,
    key_fingerprint,
    read_roster,
    sign_roster,
)
from persistence.system import SystemClock, SystemEntropy

__all__ = ("Admission", "Office")

DAY_MS: Final = 86_400_000
INVITATION_LASTS_MS: Final = DAY_MS
CERTIFICATE_LASTS_MS: Final = 365 * DAY_MS


@dataclass(frozen=True, slots=True)
class Admission:
    """What a replica gets that joins: its certificate, and what its mesh is. `keys` are secret;
    `roster` is b"" where the authority has said nothing yet.
    """

    certificate: bytes
    genesis: Genesis
    roster: bytes
    keys: dict[int, bytes] = field(repr=False)


class Office:
    """See the module."""

    def __init__(
        self, directory: Path, *, clock: Clock | None = None, entropy: Entropy | None = None
    ) -> None:
        self._directory = directory
        self._clock = clock or SystemClock()
        self._entropy = entropy or SystemEntropy()
        if not (directory / layout.AUTHORITY_KEY).exists():
            raise FolderError(
                f"{directory} is no authority's folder; make one with "
                f"`mesh init {directory} --name NAME`"
            )
        self.genesis = read_genesis(directory)
        self._file = RegisterFile(directory)

    def __repr__(self) -> str:
        return f"<Office of {self.genesis} in {self._directory}>"

    def invite(
        self,
        *,
        role: str = MEMBER,
        snapshots: bool = True,
        ttl_ms: int = INVITATION_LASTS_MS,
        uses: int = 1,
        lasts_ms: int | None = CERTIFICATE_LASTS_MS,
        addresses: Sequence[str] = (),
    ) -> Token:
        """A new invitation. `ttl_ms`: how long it can be used; `lasts_ms`: how long certificates
        count that it brings. Raises CallerError.
        """
        if len(addresses) > MAX_ADDRESSES:
            raise CallerError(f"a token names at most {MAX_ADDRESSES} addresses")
        if lasts_ms is not None and lasts_ms <= 0:
            raise CallerError("a certificate must count for some time; give a positive --valid")
        now = self._clock.wall_ms()
        name, secret = self._entropy.token(INVITATION_BYTES), self._entropy.token(SECRET_BYTES)
        invitation = Invitation(
            name.hex(), secret_hash(secret), role, snapshots and role == MEMBER, now + ttl_ms, uses,
            lasts_ms,
        )  # fmt: skip
        with self._file.change() as register:
            self._file.write(register.inviting(invitation, now))
        fingerprint = authority_fingerprint(self.genesis.authority_der)
        return Token(self.genesis.id, fingerprint, tuple(addresses), name, secret, now + ttl_ms)

    def withdraw(self, invitation: str) -> None:
        """End an invitation. Raises CallerError where there is none of that id."""
        with self._file.change() as register:
            self._file.write(register.withdrawing(invitation))

    def admit(
        self, invitation: bytes, secret: bytes, name: str, key: Ed25519PublicKey,
        authority: Authority,
    ) -> Admission:  # fmt: skip
        """Let a replica in, or give one that is in the same again. Raises JoinRefused, InvalidId.

        The use is on disk before this returns, so before the certificate leaves.
        """
        check_name(name)
        public = key.public_bytes_raw().hex()
        now = self._clock.wall_ms()
        with self._file.change() as register:
            found, member = register.admit(invitation.hex(), secret, name, public, now)
            if member is not None:
                return self._admission(base64.b64decode(member.certificate))
            certificate = authority.certify(
                name, key, self._clock, self._entropy, found.role, found.snapshots, found.lasts_ms
            )
            certified = verify_replica(self.genesis.authority, certificate)
            fresh = member_of(certified, now, found.id)
            self._file.write(register.admitted(found.id, fresh))
            return self._admission(certificate)

    def members(self) -> list[Member]:
        """Who has joined, by name; revoked ones too."""
        members = self._file.read().members
        return [members[name] for name in sorted(members)]

    def invitations(self) -> list[Invitation]:
        """Which invitations there are, the oldest first."""
        return list(self._file.read().invitations.values())

    def revoke(self, name: str, reason: str, authority: Authority) -> Roster:
        """Revoke every certificate in this name; the new roster. Raises CallerError.

        Doing it again after a crash half-way finishes it.
        """
        now = self._clock.wall_ms()
        with self._file.change() as register:
            roster = self.roster()[0]
            register, member = register.revoked(name, now, reason)
            for serial in (member.serial, *member.former):
                row = Revocation(int(serial, 16), name, now, reason)
                roster = roster.revoking(row, now)
            # The roster first: what counts is what members hear.
            self._publish(roster, authority)
            self._file.write(register)
        return roster

    def rotate(self, authority: Authority) -> Roster:
        """Make a new mesh key and have everybody seal with it; the new roster. Raises CallerError.

        Keys of before stay, to open what was sealed with them.
        """
        now = self._clock.wall_ms()
        with self._file.change():
            roster = self.roster()[0]
            keys = dict(read_genesis(self._directory).keys)
            key_id = max(roster.keys) + 1
            # There already if an earlier call came to its end between the two files.
            key = keys.setdefault(key_id, self._entropy.token(MESH_KEY_BYTES))
            layout.replace_file(self._directory / layout.MESH_KEY, mesh_key_lines(keys))
            fingerprint = key_fingerprint(self.genesis.id, key_id, key)
            roster = roster.sealing_with(key_id, fingerprint, now)
            self._publish(roster, authority)
        return roster

    def roster(self) -> tuple[Roster, bytes]:
        """What the authority last said, and its bytes (b"" for nothing yet). Raises FolderError."""
        path = self._directory / layout.ROSTER
        try:
            blob = path.read_bytes()
        except FileNotFoundError:
            return first_roster(self.genesis), b""
        except OSError as fault:
            raise FolderError(f"cannot read {path}: {fault}") from fault
        try:
            return read_roster(self.genesis, blob), blob
        except FrameError as fault:
            raise FolderError(f"{path}: {fault}; restore it from a backup") from fault

    def keys(self) -> dict[int, bytes]:
        """The mesh keys that the roster names. Secret."""
        held, roster = read_genesis(self._directory).keys, self.roster()[0]
        return {number: held[number] for number in sorted(roster.keys) if number in held}

    def _admission(self, certificate: bytes) -> Admission:
        return Admission(certificate, self.genesis, self.roster()[1], self.keys())

    def _publish(self, roster: Roster, authority: Authority) -> None:
        blob = sign_roster(self.genesis.id, authority.key, roster)
        layout.replace_file(self._directory / layout.ROSTER, blob)
