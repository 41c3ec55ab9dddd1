"""What a mesh is made with and never changes: its id, shard count, authority and secret.

Every key of the mesh derives from the mesh key by HKDF-SHA256 (RFC 5869) under a label of its own,
so that no two uses share a key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding

FIRST_KEY_ID: Final = 1


@dataclass(frozen=True)
class Genesis:
    """The facts of one mesh, as each of its replicas holds them. The mesh keys are secret.

    `id` is 16 bytes, `created_ms` Unix milliseconds, `authority_der` the authority's certificate,
    `keys` {key id: 32 bytes}: the newest (greatest id) seals, all of them open.
    """

    id: bytes
    name: str
    shards: int
    created_ms: int
    authority_der: bytes = field(repr=False)
    keys: Mapping[int, bytes] = field(repr=False)

    @cached_property
    def authority(self) -> x509.Certificate:
        """The certificate everything else is certified by."""
        return x509.load_der_x509_certificate(self.authority_der)

    @property
    def key_id(self) -> int:
        """The id of the mesh key that new frames are sealed with."""
        return max(self.keys)

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
