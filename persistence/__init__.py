"""Frames, and where they live: identity and sealing, the journal on disk, and reading it from
outside.

Below `mesh` and above `crdt`. `base` holds the ports with their guarantees; the adapters behind
them (`sqlite`, `memory`) hold no protocol logic and pass one suite, `conformance`.
"""

from persistence.base import (
    Clock,
    Entropy,
    FolderError,
    FrameError,
    FrameRecord,
    Journal,
    Probe,
    SnapshotRecord,
    StorageError,
)
from persistence.frame import (
    BadSignature,
    ForeignMesh,
    Header,
    Malformed,
    Oversized,
    UnknownKey,
    UnknownSession,
    UnknownVersion,
    frame_hash,
)
from persistence.identity import (
    Authority,
    Genesis,
    Identity,
    SessionInfo,
    SessionKey,
    Trust,
    create_genesis,
    default_authority,
    found_mesh,
    open_authority,
    open_identity,
    provision,
)
from persistence.inspect import LoadedFolder, load_folder
from persistence.journal import Recovered, recover, recover_journal
from persistence.memory import MemoryJournal
from persistence.sealing import Draft, OpenedFrame, OpenedSnapshot, Opener, Sealer
from persistence.sqlite import SqliteJournal, open_journal

__all__ = (
    "Authority",
    "BadSignature",
    "Clock",
    "Draft",
    "Entropy",
    "FolderError",
    "ForeignMesh",
    "FrameError",
    "FrameRecord",
    "Genesis",
    "Header",
    "Identity",
    "Journal",
    "LoadedFolder",
    "Malformed",
    "MemoryJournal",
    "OpenedFrame",
    "OpenedSnapshot",
    "Opener",
    "Oversized",
    "Probe",
    "Recovered",
    "Sealer",
    "SessionInfo",
    "SessionKey",
    "SnapshotRecord",
    "SqliteJournal",
    "StorageError",
    "Trust",
    "UnknownKey",
    "UnknownSession",
    "UnknownVersion",
    "create_genesis",
    "default_authority",
    "found_mesh",
    "frame_hash",
    "load_folder",
    "open_authority",
    "open_identity",
    "open_journal",
    "provision",
    "recover",
    "recover_journal",
)
