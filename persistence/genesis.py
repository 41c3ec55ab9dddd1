"""What a mesh is made with and never changes: its id, shard count and authority; and its keys.

Every key of the mesh derives from the mesh key by HKDF-SHA256 (RFC 5869) under a label of its own,
so that no two uses share a key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding

FIRST_KEY_ID: Final = 1


class KeyRing(Mapping[int, bytes]):
    """The mesh keys that one replica holds: {key id: 32 bytes}. It grows and never shrinks, so that
    whatever was sealed once can be opened. No key appears in its repr.
    """

    def __init__(self, keys: Mapping[int, bytes]) -> None:
        self._keys = dict(keys)
        self._wanted = 0

    def __getitem__(self, key_id: int) -> bytes:
        return self._keys[key_id]

    def __iter__(self) -> Iterator[int]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def __repr__(self) -> str:
        return f"<KeyRing of keys {sorted(self._keys)}, seals with {self.seals}>"

    @property
    def seals(self) -> int:
        """The id of the key that seals: the one asked for if it is here, else the newest here."""
        return self._wanted if self._wanted in self._keys else max(self._keys)

    def add(self, key_id: int, key: bytes) -> None:
        """One more key. One that is there already stays as it is."""
        self._keys.setdefault(key_id, key)

    def seal_with(self, key_id: int) -> None:
        """Seal with this key, as soon as it is here."""
        self._wanted = key_id


@dataclass(frozen=True)
class Genesis:
    """The facts of one mesh, as each of its replicas holds them. The mesh keys are secret.

    `id` is 16 bytes, `created_ms` Unix milliseconds, `authority_der` the authority's certificate,
    `keys` {key id: 32 bytes}: one of them seals, all of them open. Each Genesis has a ring of its
    own, which the roster makes grow (`persistence.roster`): it is the one thing that changes.
    """

    id: bytes
    name: str
    shards: int
    created_ms: int
    authority_der: bytes = field(repr=False)
    keys: Mapping[int, bytes] = field(repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "keys", KeyRing(self.keys))

    @property
    def ring(self) -> KeyRing:
        """`keys`, as what they are."""
        assert isinstance(self.keys, KeyRing)
        return self.keys

    @cached_property
    def authority(self) -> x509.Certificate:
        """The certificate everything else is certified by."""
        return x509.load_der_x509_certificate(self.authority_der)

    @property
    def key_id(self) -> int:
        """The id of the mesh key that new frames are sealed with."""
        return self.ring.seals

    @cached_property
    def digest_key(self) -> bytes:
        """32 bytes that key the shards' digests; from the first key: rotation changes no digest."""
        return derive(self.keys[FIRST_KEY_ID], self.id, b"statemesh digest")

    def __str__(self) -> str:
        return f"mesh {self.name!r} ({self.id.hex()})"


def derive(key: bytes, mesh: bytes, info: bytes) -> bytes:
    """32 bytes for the use that `info` names."""
    return HKDF(SHA256(), length=32, salt=mesh, info=info).derive(key)


def mesh_uri(mesh: bytes) -> str:
    """How the authority's certificate names the mesh it belongs to."""
    return f"urn:statemesh:{mesh.hex()}"


def certificate_der(certificate: x509.Certificate) -> bytes:
    """The bytes of a certificate."""
    return certificate.public_bytes(Encoding.DER)
