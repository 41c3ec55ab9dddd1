"""Making a mesh, letting replicas into it, and what a replica proves itself with.

    authority = create_genesis(Path("authority"), "fleet", shards=16)      # once per mesh
    provision(Path("authority"), Path("agents/a"), "agent-a")              # once per replica
    identity = open_identity(Path("agents/a"))                             # at every start

Whoever holds the authority's folder may let replicas in; whoever holds a replica's folder is that
replica. A single-user mesh keeps its authority in the user's own data folder: see
`default_authority`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding

from crdt.errors import CallerError, InvalidId
from crdt.ids import new_session
from persistence import folder as layout
from persistence.base import Clock, Entropy, FolderError, FrameError
from persistence.certificates import (
    MEMBER,
    ReplicaCertificate,
    SessionInfo,
    SessionKey,
    Trust,
    certify_session,
    check_name,
    issue_authority,
    issue_replica,
    verify_replica,
)
from persistence.frame import BadSignature
from persistence.genesis import FIRST_KEY_ID, Genesis, certificate_der, mesh_uri
from persistence.keyfiles import PassphraseNeeded, private_pem, read_file, read_key
from persistence.limits import (
    FOLDER_FORMAT,
    MAX_KEY_ID,
    MAX_SHARDS,
    MESH_ID_BYTES,
    MESH_KEY_BYTES,
)
from persistence.register import RegisterFile, member_of
from persistence.roster import first_roster, read_roster
from persistence.system import SystemClock, SystemEntropy

__all__ = (
    "Authority",
    "Genesis",
    "Identity",
    "PassphraseNeeded",
    "SessionInfo",
    "SessionKey",
    "Trust",
    "create_genesis",
    "default_authority",
    "found_mesh",
    "mesh_key_lines",
    "open_authority",
    "open_identity",
    "pending_key",
    "provision",
    "read_genesis",
    "replace_certificate",
    "write_identity",
)

DEFAULT_SHARDS: Final = 16
_SERIAL_BYTES: Final = 19


@dataclass(frozen=True, slots=True)
class Identity:
    """One replica of one mesh: what it knows of the mesh, its name, its certificate and its key.

    `roster` is what the authority last said, as it signed it; b"" if it has said nothing.
    """

    mesh: Genesis
    replica: str
    certificate: bytes = field(repr=False)
    key: Ed25519PrivateKey = field(repr=False)
    folder: Path | None = None
    roster: bytes = field(default=b"", repr=False)

    @property
    def certified(self) -> ReplicaCertificate:
        """What the certificate says: role, rights, serial, end. Raises BadSignature."""
        return verify_replica(self.mesh.authority, self.certificate)

    def keep(self, roster: bytes, keys: Mapping[int, bytes]) -> None:
        """Bring these mesh keys and this roster to disk; nothing for one in memory.

        Keys first, each file as a whole. Raises StorageError.
        """
        if self.folder is not None:
            place = self.folder / layout.IDENTITY
            layout.replace_file(place / layout.MESH_KEY, mesh_key_lines(keys))
            if roster:
                layout.replace_file(place / layout.ROSTER, roster)

    @property
    def certificate_pem_path(self) -> Path:
        """The replica's certificate for TLS. CallerError for an identity that is only in memory."""
        return self._file(layout.REPLICA_CERTIFICATE)

    @property
    def key_path(self) -> Path:
        """The replica's private key for TLS (PEM, PKCS #8, not encrypted)."""
        return self._file(layout.REPLICA_KEY)

    @property
    def authority_pem_path(self) -> Path:
        """The certificate that every peer's must be issued by."""
        return self._file(layout.AUTHORITY_CERTIFICATE)

    def new_session(self, clock: Clock, entropy: Entropy, floor: int = 0) -> SessionKey:
        """A session that never was before: its id, its signing key, certified by this replica.

        It is born now, or in the week `floor` if that is later. Two of one week have the same id
        once in 2^42; the caller draws again if it knows the id.
        """
        return certify_session(
            self.mesh.id,
            self.replica,
            self.key,
            self.certificate,
            entropy.token(32),
            lambda bits: new_session(clock.wall_ms(), bits, floor),
        )

    def _file(self, name: str) -> Path:
        if self.folder is None:
            raise CallerError(f"the identity of {self.replica!r} was never written to a folder")
        return self.folder / layout.IDENTITY / name


@dataclass(frozen=True, slots=True)
class Authority:
    """A mesh and the key that lets replicas into it. Keep it off machines that run replicas."""

    mesh: Genesis
    key: Ed25519PrivateKey = field(repr=False)

    def issue(
        self,
        replica: str,
        clock: Clock,
        entropy: Entropy,
        *,
        role: str = MEMBER,
        snapshots: bool = True,
        lasts_ms: int | None = None,
    ) -> Identity:
        """A new replica's identity, in memory. Issuing a name twice gives two valid identities."""
        check_name(replica)
        key = _new_key(entropy)
        certificate = self.certify(
            replica, key.public_key(), clock, entropy, role, snapshots, lasts_ms
        )
        # Keys come to each replica by itself, so each has a ring of its own.
        return Identity(dataclasses.replace(self.mesh), replica, certificate, key)

    def certify(
        self,
        replica: str,
        key: Ed25519PublicKey,
        clock: Clock,
        entropy: Entropy,
        role: str = MEMBER,
        snapshots: bool = True,
        lasts_ms: int | None = None,
    ) -> bytes:
        """The certificate (DER) of a replica that keeps its key to itself. See `issue_replica`."""
        return certificate_der(
            issue_replica(
                self.mesh.authority,
                self.key,
                replica,
                key,
                clock.wall_ms(),
                entropy.token(_SERIAL_BYTES),
                role,
                snapshots,
                lasts_ms,
            )
        )


def found_mesh(name: str, shards: int, clock: Clock, entropy: Entropy) -> Authority:
    """A new mesh, in memory. Raises InvalidId (name) and CallerError (number of shards)."""
    check_name(name, "mesh name")
    if not 1 <= shards <= MAX_SHARDS:
        raise CallerError(f"a mesh has 1 to {MAX_SHARDS} shards, not {shards}")
    mesh = entropy.token(MESH_ID_BYTES)
    key = _new_key(entropy)
    created = clock.wall_ms()
    certificate = issue_authority(key, name, mesh, created, entropy.token(_SERIAL_BYTES))
    keys = {FIRST_KEY_ID: entropy.token(MESH_KEY_BYTES)}
    return Authority(Genesis(mesh, name, shards, created, certificate_der(certificate), keys), key)


def create_genesis(
    directory: Path,
    name: str,
    shards: int = DEFAULT_SHARDS,
    *,
    passphrase: bytes = b"",
    clock: Clock | None = None,
    entropy: Entropy | None = None,
) -> Authority:
    """Found a mesh and write its authority's folder, at once or not at all.

    With a passphrase the authority's key is encrypted by it; else its file's mode 600 is all that
    protects it. The mesh keys lie beside it in plain, as in every replica's folder. Raises
    FolderError where the folder exists with something in it.
    """
    authority = found_mesh(name, shards, clock or SystemClock(), entropy or SystemEntropy())
    files = _mesh_files(authority.mesh)
    files[layout.AUTHORITY_KEY] = private_pem(authority.key, passphrase)
    if not layout.publish_folder(directory, files):
        raise FolderError(f"{directory} is not empty; found a mesh in a new folder")
    return authority


def open_authority(directory: Path, passphrase: bytes = b"") -> Authority:
    """The authority whose folder this is. Raises FolderError; PassphraseNeeded if that is all."""
    genesis = read_genesis(directory)
    return Authority(genesis, read_key(directory / layout.AUTHORITY_KEY, passphrase))


def provision(
    authority_dir: Path,
    replica_dir: Path,
    name: str,
    *,
    clock: Clock | None = None,
    entropy: Entropy | None = None,
) -> Identity:
    """Let a replica into the mesh: write everything it needs into `replica_dir/identity/`.

    It appears at once or not at all. Doing it again for the same replica of the same mesh changes
    nothing. Raises InvalidId for the name, and FolderError where the folder belongs to another mesh
    or another replica.
    """
    authority = open_authority(authority_dir)
    check_name(name)
    place = replica_dir / layout.IDENTITY
    if not place.exists():
        clock = clock or SystemClock()
        identity = authority.issue(name, clock, entropy or SystemEntropy())
        register = RegisterFile(authority_dir)
        # Whether we won a race or lost it: what counts is what is on disk now.
        with register.change() as known:
            if write_identity(replica_dir, identity):
                member = member_of(identity.certified, clock.wall_ms())
                register.write(known.enrolled(member))
    found = open_identity(replica_dir)
    if found.mesh.id != authority.mesh.id:
        raise FolderError(
            f"{replica_dir} belongs to {found.mesh}, not to {authority.mesh}; use another folder"
        )
    if found.replica != name:
        raise FolderError(
            f"{replica_dir} belongs to replica {found.replica!r}, not to {name!r}; "
            "use another folder"
        )
    return found


def write_identity(directory: Path, identity: Identity) -> bool:
    """Write everything a replica needs into `directory/identity/`, at once or not at all.

    False, and nothing changes, where there is one already. Raises StorageError.
    """
    files = _mesh_files(identity.mesh)
    certificate = x509.load_der_x509_certificate(identity.certificate)
    files[layout.REPLICA_CERTIFICATE] = certificate.public_bytes(Encoding.PEM)
    files[layout.REPLICA_KEY] = private_pem(identity.key)
    if identity.roster:
        files[layout.ROSTER] = identity.roster
    return layout.publish_folder(directory / layout.IDENTITY, files)


def pending_key(directory: Path, entropy: Entropy | None = None) -> Ed25519PrivateKey:
    """The key of a replica that is about to join, made at the first call and kept in its folder."""
    path = directory / layout.JOINING_KEY
    if not path.exists():
        layout.make_private(directory)
        layout.replace_file(path, private_pem(_new_key(entropy or SystemEntropy())))
    return read_key(path)


def _new_key(entropy: Entropy) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(entropy.token(32))


def replace_certificate(directory: Path, der: bytes) -> None:
    """Put the same replica's renewed certificate in place of its old one. Raises StorageError."""
    certificate = x509.load_der_x509_certificate(der)
    path = directory / layout.IDENTITY / layout.REPLICA_CERTIFICATE
    layout.replace_file(path, certificate.public_bytes(Encoding.PEM))


def open_identity(directory: Path) -> Identity:
    """The identity in a data folder. Raises FolderError: none, damaged, or of a newer format."""
    place = directory / layout.IDENTITY
    if not place.is_dir():
        raise FolderError(
            f"{directory} holds no identity, so no replica "
            "lives there; name a replica's data folder, or make one with `provision`"
        )
    genesis = read_genesis(place)
    der = certificate_der(_read_certificate(place / layout.REPLICA_CERTIFICATE))
    key = read_key(place / layout.REPLICA_KEY)
    try:
        certified = verify_replica(genesis.authority, der)
    except BadSignature as fault:
        raise FolderError(f"{place}: {fault}; provision the replica anew") from fault
    if certified.key.public_bytes_raw() != key.public_key().public_bytes_raw():
        raise FolderError(f"{place}: certificate and key don't match; provision the replica anew")
    return Identity(genesis, certified.name, der, key, directory, _read_roster(place, genesis))


def _read_roster(place: Path, genesis: Genesis) -> bytes:
    """The roster in a folder, whose key the ring then seals with; b"" if there is none."""
    path = place / layout.ROSTER
    if not path.exists():
        genesis.ring.seal_with(first_roster(genesis).seals)
        return b""
    blob = read_file(path)
    try:
        genesis.ring.seal_with(read_roster(genesis, blob).seals)
    except FrameError as fault:
        raise FolderError(f"{path}: {fault}; delete it, the next peer brings it again") from fault
    return blob


def default_authority(
    environ: Mapping[str, str] = os.environ,
    *,
    clock: Clock | None = None,
    entropy: Entropy | None = None,
) -> Path:
    """The authority's folder of this user's own mesh, created at first use; racing is safe.

    It lies in `$STATEMESH_HOME`, else in the platform's folder for user data.
    """
    home = _user_home(environ)
    layout.make_private(home)
    place = home / "authority"
    if not (place / layout.GENESIS).exists():
        # Rename alone would decide the race; the lock saves the loser from making keys in vain.
        with layout.FolderLock(home / layout.LOCK, owner=True, wait=True):
            if not (place / layout.GENESIS).exists():
                create_genesis(place, "personal", clock=clock, entropy=entropy)
    return place


def _user_home(environ: Mapping[str, str]) -> Path:
    named = environ.get("STATEMESH_HOME")
    if named:
        return Path(named).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "statemesh"
    data = environ.get("XDG_DATA_HOME")
    # The XDG specification: a relative path in it is to be ignored.
    if data and Path(data).is_absolute():
        return Path(data) / "statemesh"
    return Path.home() / ".local" / "share" / "statemesh"


def _mesh_files(genesis: Genesis) -> dict[str, bytes]:
    facts = {
        "format": FOLDER_FORMAT,
        "mesh": genesis.id.hex(),
        "name": genesis.name,
        "shards": genesis.shards,
        "created_ms": genesis.created_ms,
    }
    return {
        layout.GENESIS: (json.dumps(facts, indent=2) + "\n").encode(),
        layout.AUTHORITY_CERTIFICATE: genesis.authority.public_bytes(Encoding.PEM),
        layout.MESH_KEY: mesh_key_lines(genesis.keys),
    }


def mesh_key_lines(keys: Mapping[int, bytes]) -> bytes:
    """The file of mesh keys: id and key, a line each."""
    return "".join(f"{number} {key.hex()}\n" for number, key in sorted(keys.items())).encode()


def read_genesis(place: Path) -> Genesis:
    """The mesh whose authority's folder this is. Needs no passphrase. Raises FolderError."""
    facts = _read_facts(place / layout.GENESIS)
    authority = _read_certificate(place / layout.AUTHORITY_CERTIFICATE)
    genesis = Genesis(
        facts["mesh"],
        facts["name"],
        facts["shards"],
        facts["created_ms"],
        certificate_der(authority),
        _read_mesh_keys(place / layout.MESH_KEY),
    )
    names = authority.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    if names.get_values_for_type(x509.UniformResourceIdentifier) != [mesh_uri(genesis.id)]:
        raise FolderError(f"{place} mixes files of two meshes; restore it from a backup")
    return genesis


def _read_facts(path: Path) -> dict[str, Any]:
    damaged = f"{path} is damaged; restore it from a backup"
    try:
        facts = json.loads(read_file(path))
    except ValueError as fault:
        raise FolderError(damaged) from fault
    if not isinstance(facts, dict):
        raise FolderError(damaged)
    found = facts.get("format")
    if type(found) is int and found > FOLDER_FORMAT:
        raise FolderError(
            f"{path.parent} has format {found}, and this program reads up to {FOLDER_FORMAT}; "
            "install a newer statemesh"
        )
    kinds = {"format": int, "mesh": str, "name": str, "shards": int, "created_ms": int}
    if any(type(facts.get(key)) is not kind for key, kind in kinds.items()):
        raise FolderError(damaged)
    try:
        facts["mesh"] = bytes.fromhex(facts["mesh"])
        check_name(facts["name"], "mesh name")
    except (ValueError, InvalidId) as fault:
        raise FolderError(damaged) from fault
    if not 1 <= facts["shards"] <= MAX_SHARDS or len(facts["mesh"]) != MESH_ID_BYTES:
        raise FolderError(damaged)
    return facts


def _read_mesh_keys(path: Path) -> dict[int, bytes]:
    keys = {}
    try:
        for line in read_file(path).decode("ascii").splitlines():
            number, key = line.split()
            keys[int(number)] = bytes.fromhex(key)
    except ValueError as fault:
        raise FolderError(f"{path} is damaged; restore it from a backup") from fault
    sound = all(
        0 < number <= MAX_KEY_ID and len(key) == MESH_KEY_BYTES for number, key in keys.items()
    )
    if FIRST_KEY_ID not in keys or not sound:
        raise FolderError(f"{path} is damaged; restore it from a backup")
    return keys


def _read_certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(read_file(path))
    except ValueError as fault:
        raise FolderError(f"{path} is damaged ({fault}); restore it from a backup") from fault
