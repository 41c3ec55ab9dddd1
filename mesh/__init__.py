"""statemesh: a live local copy of the state a fleet of agents shares.

from mesh import Durability, Replica
"""

from crdt.errors import (
    CallerError,
    CodecError,
    CrossShardTransaction,
    EditMisuse,
    InvalidId,
    InvalidValue,
    MeshError,
    OutOfBounds,
    PeerError,
    ReadOnly,
    SchemaError,
    ServiceError,
    TransactionTooLarge,
    UnknownField,
)
from mesh.durability import Durability, FlushResult, FlushTimeout
from mesh.editing import Backpressure, ObserverReadOnly, ReplicaClosed
from mesh.environment import (
    CoordinatorUnavailable,
    Environment,
    InvalidTransition,
    LinkClosed,
    PartHealth,
    PeerRefused,
    Transition,
    UnknownMachine,
)
from mesh.flushing import DurableHandle
from mesh.forks import Fork
from mesh.heartbeats import PresenceChange
from mesh.peers import PeerInfo, PeerLag
from mesh.presence import Present
from mesh.replica import Replica
from mesh.settings import Settings, SettingsError, load_settings
from mesh.subscription import NotSubscribed
from mesh.sync import SyncReplica, SyncWatcher
from mesh.watch import Change, Watcher
from persistence.base import FolderError, FrameError, StorageError

__all__ = (
    "Backpressure",
    "CallerError",
    "Change",
    "CodecError",
    "CoordinatorUnavailable",
    "CrossShardTransaction",
    "Durability",
    "DurableHandle",
    "EditMisuse",
    "Environment",
    "FlushResult",
    "FlushTimeout",
    "FolderError",
    "Fork",
    "FrameError",
    "InvalidId",
    "InvalidTransition",
    "InvalidValue",
    "LinkClosed",
    "MeshError",
    "NotSubscribed",
    "ObserverReadOnly",
    "OutOfBounds",
    "PartHealth",
    "PeerError",
    "PeerInfo",
    "PeerLag",
    "PeerRefused",
    "PresenceChange",
    "Present",
    "ReadOnly",
    "Replica",
    "ReplicaClosed",
    "SchemaError",
    "ServiceError",
    "Settings",
    "SettingsError",
    "StorageError",
    "SyncReplica",
    "SyncWatcher",
    "TransactionTooLarge",
    "Transition",
    "UnknownField",
    "UnknownMachine",
    "Watcher",
    "load_settings",
)
