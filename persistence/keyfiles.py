"""Private keys in files: PEM, PKCS #8, encrypted by a passphrase or protected by their mode."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from persistence.base import FolderError

__all__ = ("PassphraseNeeded", "private_pem", "read_file", "read_key")


class PassphraseNeeded(FolderError):
    """The authority's key is encrypted, and no passphrase or a wrong one was given."""


def read_key(path: Path, passphrase: bytes = b"") -> Ed25519PrivateKey:
    """The key in a file. Raises FolderError; PassphraseNeeded if a right one is all it lacks."""
    data = read_file(path)
    encrypted = b"ENCRYPTED PRIVATE KEY" in data
    if encrypted and not passphrase:
        raise PassphraseNeeded(
            f"{path} is protected by a passphrase; give it with --passphrase-file, or in "
            "STATEMESH_PASSPHRASE"
        )
    try:
        key = load_pem_private_key(data, passphrase if encrypted else None)
    except (ValueError, TypeError) as fault:
        if encrypted:
            raise PassphraseNeeded(f"the passphrase does not open {path}; try again") from fault
        raise FolderError(f"{path} is damaged; restore it from a backup") from fault
    if not isinstance(key, Ed25519PrivateKey):
        raise FolderError(f"{path} is not an Ed25519 key; restore it from a backup")
    return key


def read_file(path: Path) -> bytes:
    """What is in a file. Raises FolderError."""
    try:
        return path.read_bytes()
    except OSError as fault:
        raise FolderError(f"cannot read {path}: {fault}") from fault


def private_pem(key: Ed25519PrivateKey, passphrase: bytes = b"") -> bytes:
    """What a file of this key contains; encrypted where a passphrase is given."""
    protection: KeySerializationEncryption = NoEncryption()
    if passphrase:
        protection = BestAvailableEncryption(passphrase)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection)
