"""Making a mesh, letting replicas into it, and what a replica proves itself with.

    authority = create_genesis(Path("authority"), "fleet", shards=16)      # once per mesh
    provision(Path("authority"), Path("agents/a"), "agent-a")              # once per replica
    identity = open_identity(Path("agents/a"))                             # at every start

Whoever holds the authority's folder may let replicas in; whoever holds a replica's folder is that
replica. A single-user mesh keeps its authority in the user's own data folder: see
`default_authority`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from crdt.errors import CallerError, InvalidId
from crdt.ids import new_session
from persistence import folder as layout
from persistence.base import Clock, Entropy, FolderError
from persistence.certificates import (
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
from persistence.limits import (
    FOLDER_FORMAT,
    MAX_KEY_ID,
    MAX_SHARDS,
    MESH_ID_BYTES,
    MESH_KEY_BYTES,
)
from persistence.system import SystemClock, SystemEntropy

__all__ = (
    "Authority",
    "Genesis",
    "Identity",
    "SessionInfo",
    "SessionKey",
    "Trust",
    "create_genesis",
    "default_authority",
    "found_mesh",
    "open_authority",
    "open_identity",
    "provision",
)

DEFAULT_SHARDS: Final = 16
_SERIAL_BYTES: Final = 19


@dataclass(frozen=True, slots=True)
class Identity:
    """One replica of one mesh: what it knows of the mesh, its name, its certificate and its key."""

    mesh: Genesis
    replica: str
    certificate: bytes = field(repr=False)
    key: Ed25519PrivateKey = field(repr=False)
    folder: Path | None = None

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

    def issue(self, replica: str, clock: Clock, entropy: Entropy) -> Identity:
        """A new replica's identity, in memory. Issuing a name twice gives two valid identities."""
        check_name(replica)
        key = Ed25519PrivateKey.from_private_bytes(entropy.token(32))
        certificate = issue_replica(
            self.mesh.authority,
            self.key,
            replica,
            key.public_key(),
            clock.wall_ms(),
            entropy.token(_SERIAL_BYTES),
        )
        return Identity(self.mesh, replica, certificate_der(certificate), key)


def found_mesh(name: str, shards: int, clock: Clock, entropy: Entropy) -> Authority:
    """A new mesh, in memory. Raises InvalidId (name) and CallerError (number of shards)."""
    check_name(name, "mesh name")
    if not 1 <= shards <= MAX_SHARDS:
        raise CallerError(f"a mesh has 1 to {MAX_SHARDS} shards, not {shards}")
    mesh = entropy.token(MESH_ID_BYTES)
    key = Ed25519PrivateKey.from_private_bytes(entropy.token(32))
    created = clock.wall_ms()
    certificate = issue_authority(key, name, mesh, created, entropy.token(_SERIAL_BYTES))
    keys = {FIRST_KEY_ID: entropy.token(MESH_KEY_BYTES)}
    return Authority(Genesis(mesh, name, shards, created, certificate_der(certificate), keys), key)


def create_genesis(
    directory: Path,
    name: str,
    shards: int = DEFAULT_SHARDS,
    *,
    clock: Clock | None = None,
    entropy: Entropy | None = None,
) -> Authority:
    """Found a mesh and write its authority's folder, at once or not at all.

    Raises FolderError where the folder exists with something in it.
    """
    authority = found_mesh(name, shards, clock or SystemClock(), entropy or SystemEntropy())
    files = _mesh_files(authority.mesh)
    files[layout.AUTHORITY_KEY] = _private_pem(authority.key)
    if not layout.publish_folder(directory, files):
        raise FolderError(f"{directory} is not empty; found a mesh in a new folder")
    return authority


def open_authority(directory: Path) -> Authority:
    """The authority whose folder this is. Raises FolderError."""
    genesis = _read_genesis(directory)
    return Authority(genesis, _read_key(directory / layout.AUTHORITY_KEY))


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
        identity = authority.issue(name, clock or SystemClock(), entropy or SystemEntropy())
        files = _mesh_files(identity.mesh)
        certificate = x509.load_der_x509_certificate(identity.certificate)
        files[layout.REPLICA_CERTIFICATE] = certificate.public_bytes(Encoding.PEM)
        files[layout.REPLICA_KEY] = _private_pem(identity.key)
        # Whether we won a race or lost it: what counts is what is on disk now.
        layout.publish_folder(place, files)
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


def open_identity(directory: Path) -> Identity:
    """The identity in a data folder. Raises FolderError: none, damaged, or of a newer format."""
    place = directory / layout.IDENTITY
    if not place.is_dir():
        raise FolderError(
            f"{directory} holds no identity, so no replica "
            "lives there; name a replica's data folder, or make one with `provision`"
        )
    genesis = _read_genesis(place)
    der = certificate_der(_read_certificate(place / layout.REPLICA_CERTIFICATE))
    key = _read_key(place / layout.REPLICA_KEY)
    try:
        replica, public = verify_replica(genesis.authority, der)
    except BadSignature as fault:
        raise FolderError(f"{place}: {fault}; provision the replica anew") from fault
    if public.public_bytes_raw() != key.public_key().public_bytes_raw():
        raise FolderError(f"{place}: certificate and key don't match; provision the replica anew")
    return Identity(genesis, replica, der, key, directory)


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
    keys = "".join(f"{number} {key.hex()}\n" for number, key in sorted(genesis.keys.items()))
    return {
        layout.GENESIS: (json.dumps(facts, indent=2) + "\n").encode(),
        layout.AUTHORITY_CERTIFICATE: genesis.authority.public_bytes(Encoding.PEM),
        layout.MESH_KEY: keys.encode(),
    }


def _read_genesis(place: Path) -> Genesis:
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
        facts = json.loads(_read(path))
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
        for line in _read(path).decode("ascii").splitlines():
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
        return x509.load_pem_x509_certificate(_read(path))
    except ValueError as fault:
        raise FolderError(f"{path} is damaged ({fault}); restore it from a backup") from fault


def _read_key(path: Path) -> Ed25519PrivateKey:
    try:
        key = load_pem_private_key(_read(path), None)
    except (ValueError, TypeError) as fault:
        raise FolderError(f"{path} is damaged; restore it from a backup") from fault
    if not isinstance(key, Ed25519PrivateKey):
        raise FolderError(f"{path} is not an Ed25519 key; restore it from a backup")
    return key


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as fault:
        raise FolderError(f"cannot read {path}: {fault}") from fault


def _private_pem(key: Ed25519PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
