"""State that many replicas change at once and that always comes together again.

Declare a document type by annotating a class; read and write it through a replica (see package
`mesh`):

    class Task(Document):
        title: Register[str]
        done: Flag
        effort: Counter
        labels: Set[str]
        findings: Map[str, Register[dict[str, Any]]]
        log: Feed[str]
        notes: Text
"""

from crdt.document import Document
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
    UnknownField,
)
from crdt.types.counter import Counter
from crdt.types.decided import Decided
from crdt.types.feed import Feed
from crdt.types.field import Default, DisableWins, Keep, Wire
from crdt.types.flag import Flag
from crdt.types.map import Map
from crdt.types.register import Register
from crdt.types.set import Set
from crdt.types.text_field import Text

__all__ = [
    "CallerError",
    "CodecError",
    "Counter",
    "CrossShardTransaction",
    "Decided",
    "Default",
    "DisableWins",
    "Document",
    "EditMisuse",
    "Feed",
    "Flag",
    "InvalidId",
    "InvalidValue",
    "Keep",
    "Map",
    "MeshError",
    "OutOfBounds",
    "PeerError",
    "ReadOnly",
    "Register",
    "SchemaError",
    "ServiceError",
    "Set",
    "Text",
    "UnknownField",
    "Wire",
]
