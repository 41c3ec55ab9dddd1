"""The AES-GCM ciphers of one mesh: a key for each use, session, shard and mesh key."""

from __future__ import annotations

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from crdt.structure import pack
from persistence.cache import BoundedCache
from persistence.frame import UnknownKey
from persistence.genesis import Genesis, derive
from persistence.limits import MAX_CACHED_KEYS


class Ciphers:
    """AES-GCM objects by what their key is for: deriving a key costs more than sealing a small
    frame.
    """

    def __init__(self, genesis: Genesis) -> None:
        self._genesis = genesis
        self._known: BoundedCache[tuple[bytes, int, int, int], AESGCM] = BoundedCache(
            MAX_CACHED_KEYS
        )

    def get(self, use: bytes, session: int, shard: int, key_id: int) -> AESGCM:
        """For this use of a mesh key that is here, by one session in one shard."""
        name = (use, session, shard, key_id)
        if (cipher := self._known.get(name)) is None:
            info = use + b"\0" + pack([session, shard, key_id])
            cipher = AESGCM(derive(self._genesis.keys[key_id], self._genesis.id, info))
            self._known.put(name, cipher)
        return cipher

    def find(self, use: bytes, session: int, shard: int, key_id: int) -> AESGCM:
        """The same. Raises UnknownKey where the key is not here."""
        if key_id not in self._genesis.keys:
            raise UnknownKey(
                f"sealed with mesh key {key_id}, which this replica has not yet; it comes with the "
                "roster from any peer that has it",
                key_id,
            )
        return self.get(use, session, shard, key_id)
