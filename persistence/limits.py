"""Every bound of this package, in one place.

Bounds on what arrives are the same at the author's and at the reader's side: whatever may be sealed
may be opened everywhere. They are part of the wire format: raise one only together with the frame
version.
"""

from __future__ import annotations

from typing import Final

from crdt.ids import MAX_SESSION
from crdt.limits import MAX_BODY_BYTES, MAX_OPERATIONS, MAX_SEQ, MAX_STAMP

__all__ = (
    "CERTIFICATE_VERSION",
    "COMPRESS_FROM_BYTES",
    "COMPRESS_LEVEL",
    "FOLDER_FORMAT",
    "FRAME_VERSION",
    "HASH_BYTES",
    "MAX_BODY_BYTES",
    "MAX_CACHED_FLUSHES",
    "MAX_CACHED_FRAMES",
    "MAX_CACHED_FRAME_BYTES",
    "MAX_CACHED_KEYS",
    "MAX_CERTIFICATE_BYTES",
    "MAX_CHECKED_BYTES",
    "MAX_COMMIT_BYTES",
    "MAX_DEPS",
    "MAX_EXTENSIONS",
    "MAX_EXTENSION_BYTES",
    "MAX_EXTENSION_KEY_BYTES",
    "MAX_FRAME_BYTES",
    "MAX_FRAME_OPERATIONS",
    "MAX_KEY_ID",
    "MAX_KNOWN_FRAMES",
    "MAX_KNOWN_REPLICAS",
    "MAX_KNOWN_SESSIONS",
    "MAX_POLICY",
    "MAX_READ_FRAMES",
    "MAX_ROSTER_BYTES",
    "MAX_ROSTER_KEYS",
    "MAX_ROSTER_REVOKED",
    "MAX_SEQ",
    "MAX_SESSION",
    "MAX_SHARDS",
    "MAX_SNAPSHOT_BYTES",
    "MAX_SNAPSHOT_SESSIONS",
    "MAX_STAMP",
    "MESH_ID_BYTES",
    "MESH_KEY_BYTES",
    "PUBLIC_KEY_BYTES",
    "SIGNATURE_BYTES",
    "SNAPSHOT_VERSION",
)

FRAME_VERSION: Final = 1
SNAPSHOT_VERSION: Final = 1
CERTIFICATE_VERSION: Final = 1
# The layout of a data folder and of its journal. Readers refuse a greater one and name the cure.
FOLDER_FORMAT: Final = 1

MESH_ID_BYTES: Final = 16
MESH_KEY_BYTES: Final = 32
HASH_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
PUBLIC_KEY_BYTES: Final = 32

MAX_SHARDS: Final = 4096
MAX_KEY_ID: Final = 2**32 - 1
MAX_POLICY: Final = 2**53 - 1

# What the authority says fits in one message of a link.
MAX_ROSTER_BYTES: Final = 2 * 1024 * 1024
MAX_ROSTER_REVOKED: Final = 4096
MAX_ROSTER_KEYS: Final = 256

# Room for header, siblings, signature and certificate beside a body that did not compress.
MAX_FRAME_BYTES: Final = MAX_BODY_BYTES + 256 * 1024
MAX_FRAME_OPERATIONS: Final = MAX_OPERATIONS
# Heads of a shard: as many sessions as can have written without having seen each other.
MAX_DEPS: Final = 4096
MAX_EXTENSIONS: Final = 16
MAX_EXTENSION_KEY_BYTES: Final = 64
MAX_EXTENSION_BYTES: Final = 4096
MAX_CERTIFICATE_BYTES: Final = 8 * 1024

# A whole shard, compressed or not. SQLite holds blobs up to 1 GB; memory is the tighter bound.
MAX_SNAPSHOT_BYTES: Final = 256 * 1024 * 1024
MAX_SNAPSHOT_SESSIONS: Final = 200_000

# Below this zlib's own overhead eats what it saves.
COMPRESS_FROM_BYTES: Final = 160
# Level 1: bodies are small and sealed on the way to disk; higher levels save 5 % for three times
# the time.
COMPRESS_LEVEL: Final = 1

# Caches. An entry is at most ~2 kB, and a miss costs one signature check or one key derivation.
MAX_CACHED_KEYS: Final = 8192
MAX_CACHED_FLUSHES: Final = 4096
MAX_CACHED_FRAMES: Final = 2048
MAX_CACHED_FRAME_BYTES: Final = 2 << 10
# About 300 bytes each.
MAX_KNOWN_FRAMES: Final = 16_384
MAX_KNOWN_SESSIONS: Final = 65_536
MAX_KNOWN_REPLICAS: Final = 4096

# One transaction of the journal: what group commit takes at once.
MAX_COMMIT_BYTES: Final = 32 * 1024 * 1024
MAX_READ_FRAMES: Final = 65_536
# `PRAGMA quick_check` reads the whole file: done at opening up to this size, row checksums cover
# the rest.
MAX_CHECKED_BYTES: Final = 64 * 1024 * 1024
