"""Who wrote this: the authority certifies replicas (X.509), a replica certifies its sessions.

    authority (self-signed X.509, Ed25519)
      └─ replica (X.509, Ed25519; the same certificate proves the replica in TLS)
           └─ session (our own few bytes, signed by the replica's key; its key signs frames)

    session certificate = pack([payload, signature by the replica's key])
    payload = pack([version, mesh, session, replica, public key, replica's X.509 as DER])

A replica's certificate says what it may do: its role as `urn:statemesh:role:…` and its right to
give others snapshots as `urn:statemesh:right:snapshots`, both among its alternative names. One that
says nothing is a member's with that right. An observer reads; what it signs is void everywhere.

Expiry is not judged here: whether a frame is accepted must not depend on the reader's clock, or
replicas would diverge. TLS and links look at it; taking rights away is the roster's business.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from crdt.errors import InvalidId, InvalidValue
from crdt.ids import RANDOM_BITS
from crdt.structure import pack
from persistence.cache import BoundedCache
from persistence.frame import (
    BadSignature,
    ForeignMesh,
    Malformed,
    Oversized,
    UnknownVersion,
    byte_fields,
    shown,
    unpack_fields,
)
from persistence.genesis import Genesis, mesh_uri
from persistence.limits import (
    CERTIFICATE_VERSION,
    MAX_CERTIFICATE_BYTES,
    MAX_KNOWN_REPLICAS,
    MAX_KNOWN_SESSIONS,
    MAX_SESSION,
    MESH_ID_BYTES,
    PUBLIC_KEY_BYTES,
    SIGNATURE_BYTES,
)

MEMBER: Final = "member"
OBSERVER: Final = "observer"
AUTHORITY: Final = "authority"
ROLES: Final = (MEMBER, OBSERVER, AUTHORITY)
_ROLE_URI: Final = "urn:statemesh:role:"
_SNAPSHOTS_URI: Final = "urn:statemesh:right:snapshots"
# 63 as in a DNS label, so that it fits a certificate's common name and a host name alike.
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
# Signatures by one kind of key say what they are for: none can be passed off as another.
_SESSION_CONTEXT: Final = b"statemesh session 1\0"
# A host whose clock is far behind must still be able to talk TLS to the mesh it just joined.
_BACKDATED: Final = timedelta(days=366)
_AUTHORITY_LASTS: Final = timedelta(days=36_525)
_REPLICA_LASTS: Final = timedelta(days=36_500)
# DER: a SEQUENCE with a two-byte length; the algorithm id-Ed25519; a BIT STRING of 64 bytes.
_SEQUENCE: Final = bytes.fromhex("3082")
_ED25519_TAIL: Final = bytes.fromhex("300506032b6570034100")
_TAIL_BYTES: Final = len(_ED25519_TAIL) + SIGNATURE_BYTES
# What was found out about bytes is true for every `Trust` of a process. Whether the authority is
# ours, and the session another's already, is each one's own matter.
_PROVEN: Final[BoundedCache[bytes, tuple[int, Ed25519PublicKey]]] = BoundedCache(MAX_KNOWN_REPLICAS)
"""{certificate: (its session, that one's key)} where both signatures in it are good."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_X509_FAULTS: Final = (
    ValueError,
    TypeError,
    InvalidSignature,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.ExtensionNotFound,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)


class ReplicaCertificate(NamedTuple):
    """What the authority says about a replica. `expires_ms` in Unix milliseconds."""

    name: str
    key: Ed25519PublicKey
    role: str
    snapshots: bool
    serial: int
    expires_ms: int
    der: bytes

    @property
    def writes(self) -> bool:
        """Whether its frames have any effect."""
        return self.role == MEMBER

    @property
    def gives_snapshots(self) -> bool:
        """Whether others may join its snapshots."""
        return self.role == MEMBER and self.snapshots


def check_name(name: str, what: str = "replica name") -> str:
    """The name itself, if it may name a replica (or a mesh); InvalidId otherwise."""
    if _NAME.fullmatch(name) is None:
        raise InvalidId(
            f"{name!r} is not a {what}: 1 to 63 ASCII letters, digits, '.', '_' or '-', "
            "the first one a letter or digit"
        )
    return name


def issue_authority(
    key: Ed25519PrivateKey, name: str, mesh: bytes, created_ms: int, serial: bytes
) -> x509.Certificate:
    """The self-signed certificate of a mesh's authority, which issues replicas only."""
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "statemesh"),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )
    usage = _key_usage(authority=True)
    return (
        _builder(subject, subject, key.public_key(), created_ms, _AUTHORITY_LASTS, serial)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(mesh_uri(mesh))]),
            critical=False,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, None)
    )


def issue_replica(
    authority: x509.Certificate,
    authority_key: Ed25519PrivateKey,
    replica: str,
    public_key: Ed25519PublicKey,
    now_ms: int,
    serial: bytes,
    role: str = MEMBER,
    snapshots: bool = True,
    lasts_ms: int | None = None,
) -> x509.Certificate:
    """A replica's certificate: proves its name in TLS, both ways, and certifies its sessions.

    `lasts_ms` milliseconds from now on; None: a hundred years. Raises InvalidId for the name and
    InvalidValue for the role.
    """
    if role not in ROLES:
        raise InvalidValue(f"{role!r} is not a role; use one of {', '.join(ROLES)}")
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, check_name(replica))])
    lasts = _REPLICA_LASTS if lasts_ms is None else timedelta(milliseconds=lasts_ms)
    names: list[x509.GeneralName] = [x509.DNSName(replica)]
    if (role, snapshots) != (MEMBER, True):
        names.append(x509.UniformResourceIdentifier(_ROLE_URI + role))
        if snapshots and role == MEMBER:
            names.append(x509.UniformResourceIdentifier(_SNAPSHOTS_URI))
    return (
        _builder(subject, authority.subject, public_key, now_ms, lasts, serial)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(authority=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage(
                [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            ),
            critical=False,
        )
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()),
            critical=False,
        )
        .sign(authority_key, None)
    )


@functools.lru_cache(MAX_KNOWN_REPLICAS)
def verify_replica(authority: x509.Certificate, der: bytes) -> ReplicaCertificate:
    """Name, key and rights that a replica's certificate proves. Raises BadSignature.

    The authority's signature is checked over the bare bytes: no parser sees what nobody vouches
    for.
    """
    try:
        _verify_issued(authority, der)
        certificate = x509.load_der_x509_certificate(der)
        certificate.verify_directly_issued_by(authority)
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        key = certificate.public_key()
        names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        replica = check_name(str(names[0].value) if len(names) == 1 else "")
        others = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        role, snapshots = _rights(others.get_values_for_type(x509.UniformResourceIdentifier))
        expires = (certificate.not_valid_after_utc - _EPOCH) // timedelta(milliseconds=1)
    except (*_X509_FAULTS, InvalidId) as fault:
        raise BadSignature(
            f"a certificate that this mesh's authority did not issue to a replica: {fault}"
        ) from fault
    if constraints.ca or not isinstance(key, Ed25519PublicKey):
        raise BadSignature(f"the certificate of {replica!r} is not a replica's: wrong use or key")
    serial = certificate.serial_number
    return ReplicaCertificate(replica, key, role, snapshots, serial, expires, der)


def _rights(uris: list[str]) -> tuple[str, bool]:
    """Role and right to give snapshots. Raises ValueError for a role that is not known here: whom
    one program lets write, all must.
    """
    roles = [uri.removeprefix(_ROLE_URI) for uri in uris if uri.startswith(_ROLE_URI)]
    if not roles:
        return MEMBER, True
    if len(roles) > 1 or roles[0] not in ROLES:
        raise ValueError(f"role {roles} is not known here; run a newer statemesh on this replica")
    return roles[0], _SNAPSHOTS_URI in uris


def _verify_issued(authority: x509.Certificate, der: bytes) -> None:
    """Verify what RFC 5280, 4.1 says a certificate is: {signed part, algorithm, signature}.

    Ours are all of one shape: a two-byte length in front, and Ed25519 behind (RFC 8410).
    """
    if der[:2] != _SEQUENCE or int.from_bytes(der[2:4], "big") != len(der) - 4:
        raise ValueError("not a certificate of the authority's form")
    signed, tail = der[4:-_TAIL_BYTES], der[-_TAIL_BYTES:]
    key = authority.public_key()
    if not tail.startswith(_ED25519_TAIL) or not isinstance(key, Ed25519PublicKey):
        raise ValueError("not signed with Ed25519")
    key.verify(tail[len(_ED25519_TAIL) :], signed)


@dataclass(frozen=True, slots=True)
class SessionKey:
    """What a session signs with, and the certificate that goes with its first frames."""

    session: int
    certificate: bytes = field(repr=False)
    key: Ed25519PrivateKey = field(repr=False)

    def sign(self, data: bytes) -> bytes:
        """An Ed25519 signature (64 bytes). The caller puts its context in front of `data`."""
        return self.key.sign(data)


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """A session that is believed: who runs it, the key that verifies it, the proof to pass on."""

    session: int
    replica: str
    key: Ed25519PublicKey = field(repr=False)
    certificate: bytes = field(repr=False)
    certified: ReplicaCertificate = field(repr=False)

    @property
    def role(self) -> str:
        """What the session's replica may do: one of `ROLES`."""
        return self.certified.role

    @property
    def snapshots(self) -> bool:
        """Whether others may join snapshots of this session."""
        return self.certified.gives_snapshots


def certify_session(
    mesh: bytes,
    replica: str,
    replica_key: Ed25519PrivateKey,
    der: bytes,
    seed: bytes,
    born: Callable[[int], int],
) -> SessionKey:
    """A new session's key (from 32 unpredictable bytes), its id and its certificate.

    `born` makes the id from its random bits. These are a hash of the key and of the replica's
    certificate, and the session's own key signs beside the replica's: so nobody else can have an
    id certified that is taken, and cut its author off from whoever hears of that first.
    """
    key = Ed25519PrivateKey.from_private_bytes(seed)
    public = key.public_key().public_bytes_raw()
    session = born(session_bits(public, der))
    payload = pack([CERTIFICATE_VERSION, mesh, session, replica, public, der])
    signed = _SESSION_CONTEXT + payload
    return SessionKey(session, pack([payload, replica_key.sign(signed), key.sign(signed)]), key)


def session_bits(public: bytes, der: bytes) -> int:
    """The low 42 bits of the id of the session that has this key, of the replica so certified."""
    digest = hashlib.blake2b(public + der, digest_size=8, person=b"statemesh.sessn")
    return int.from_bytes(digest.digest()) & ((1 << RANDOM_BITS) - 1)


class Trust:
    """The sessions a replica knows to belong to its mesh. Those it was told to keep stay; of the
    others so many, and the longest unused is forgotten.

    Forgetting those is harmless: the frame that needs the session is refused as UnknownSession, and
    the certificate is asked for again. Of a session in a shard's frontier it is not: the shard's
    snapshots would leave its certificate out, and the folder could not be opened again.
    """

    def __init__(self, genesis: Genesis) -> None:
        self._genesis = genesis
        self._kept: dict[int, SessionInfo] = {}
        self._sessions: BoundedCache[int, SessionInfo] = BoundedCache(MAX_KNOWN_SESSIONS)
        self._replicas: BoundedCache[bytes, ReplicaCertificate] = BoundedCache(MAX_KNOWN_REPLICAS)

    def __repr__(self) -> str:
        return f"<Trust keeps {len(self._kept)} sessions, {len(self._sessions)} heard of lately>"

    def get(self, session: int) -> SessionInfo | None:
        """What is known of a session; None if its certificate was not seen, or forgotten."""
        return self._kept.get(session) or self._sessions.get(session)

    def keep(self, session: int) -> bool:
        """Never forget this session; False if it is not known (any more)."""
        info = self.get(session)
        if info is not None:
            self._kept[session] = info
        return info is not None

    def keep_all(self, certificates: Mapping[int, bytes], sessions: Iterable[int]) -> None:
        """Never forget those of the sessions that are certified here. Raises as `learn`."""
        for session in sessions:
            if certificate := certificates.get(session):
                self.learn(certificate)
                self.keep(session)

    def certificates(self, sessions: Iterable[int]) -> list[bytes]:
        """The certificates of those of the given sessions that are known, in the order given."""
        found = (self.get(session) for session in sessions)
        return [info.certificate for info in found if info is not None]

    def learn(self, certificate: bytes) -> SessionInfo:
        """Verify a session certificate up to the authority and remember the session. Idempotent.

        Raises Malformed, Oversized, UnknownVersion, ForeignMesh, or BadSignature (also where the
        session is already certified for another key: the first certificate stays).
        """
        if len(certificate) > MAX_CERTIFICATE_BYTES:
            raise Oversized(
                f"a certificate of {len(certificate)} bytes, above {MAX_CERTIFICATE_BYTES}"
            )
        proven = _PROVEN.get(certificate)
        if proven and (known := self.get(proven[0])) and known.certificate == certificate:
            return known
        payload, signature, possession = byte_fields(certificate, 3, "session certificate")
        session, replica, public, der = self._payload(payload)
        known = self.get(session)
        if known is not None and known.certificate == certificate:
            return known
        certified = self._replica(der)
        if certified.name != replica:
            raise BadSignature(f"{certified.name!r} certified a session in the name of {replica!r}")
        if proven:
            key = proven[1]
        else:
            try:
                certified.key.verify(signature, _SESSION_CONTEXT + payload)
                key = Ed25519PublicKey.from_public_bytes(public)
                key.verify(possession, _SESSION_CONTEXT + payload)
            except (InvalidSignature, ValueError) as fault:
                raise BadSignature(f"session {session} is not certified by {replica!r}") from fault
            _PROVEN.put(certificate, (session, key))
        if known is not None:
            # A signature may be made anew; that says nothing against its author.
            if (known.replica, known.key) != (replica, key):
                raise BadSignature(f"session {session} of {known.replica!r} is certified otherwise")
            return known
        info = SessionInfo(session, replica, key, certificate, certified)
        self._sessions.put(session, info)
        return info

    def _payload(self, payload: bytes) -> tuple[int, str, bytes, bytes]:
        fields = unpack_fields(payload, "session certificate")
        version = fields[0] if fields else None
        if type(version) is not int or version != CERTIFICATE_VERSION:
            raise UnknownVersion(
                f"session certificate version {shown(version)} is not known here; "
                "run a newer statemesh on this replica"
            )
        kinds = [type(value) for value in fields]
        if kinds != [int, bytes, int, str, bytes, bytes]:
            raise Malformed("a session certificate with fields of wrong number or types")
        _, mesh, session, replica, public, der = fields
        if len(mesh) != MESH_ID_BYTES or len(public) != PUBLIC_KEY_BYTES:
            raise Malformed("a session certificate with fields of wrong lengths")
        if mesh != self._genesis.id:
            raise ForeignMesh(
                f"a session certificate of mesh {mesh.hex()} reached mesh {self._genesis.id.hex()}"
            )
        if not 0 < session <= MAX_SESSION:
            raise Malformed(f"session {session} is not in 1..{MAX_SESSION}")
        if session & ((1 << RANDOM_BITS) - 1) != session_bits(public, der):
            raise BadSignature(f"session {session} is not the one this key and replica may have")
        return session, replica, public, der

    def _replica(self, der: bytes) -> ReplicaCertificate:
        known = self._replicas.get(der)
        if known is None:
            known = verify_replica(self._genesis.authority, der)
            self._replicas.put(der, known)
        return known


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: Ed25519PublicKey,
    now_ms: int,
    lasts: timedelta,
    serial: bytes,
) -> x509.CertificateBuilder:
    # By arithmetic from 1970: a simulated wall clock may say anything, and must be allowed to.
    start = _EPOCH + timedelta(milliseconds=now_ms)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        # RFC 5280: positive and at most 20 bytes, hence 19 bytes of serial and the lowest bit set.
        .serial_number(int.from_bytes(serial[:19], "big") | 1)
        .not_valid_before(start - _BACKDATED)
        .not_valid_after(start + lasts)
    )


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
