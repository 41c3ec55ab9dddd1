"""State that many replicas change at once and that always comes together again.

Declare a document type by annotating a class; read and write it through a replica (see package
`mesh`):

    class Task(Document):
        title: Register[str]                                    # the latest write is read
        owner: MultiValue[str]                                  # all concurrent writes are
        done: Flag                                              # enable wins; or DisableWins()
        effort: Counter                                         # additions add up
        tokens: BoundedCounter                                  # never below AtLeast(0)
        best: Maximum[int]                                      # Minimum likewise
        labels: Set[str]                                        # add wins; or RemoveWins()
        findings: Map[str, Register[dict[str, Any]]]            # children merge
        log: Annotated[Feed[str], Keep(100)]                    # in the order of clocks
        steps: Sequence[str]                                    # a list, reordered by everybody
        notes: Text                                             # prose, with formats
        state: Decided[str]                                     # the coordinator's outcome

Rules for values: Check. Names and versions: Wire, Default, Convert, Formerly. What each type means,
costs and does not guarantee: docs/types.md; the rest of a class: docs/documents.md.
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
    TransactionTooLarge,
    UnknownField,
)
from crdt.plain import Written
from crdt.types.bounded import BoundedCounter
from crdt.types.counter import Counter
from crdt.types.cursor import Cursor
from crdt.types.decided import Decided
from crdt.types.expect import Check
from crdt.types.extremum import Maximum, Minimum
from crdt.types.feed import Feed
from crdt.types.field import (
    AtLeast,
    Convert,
    Default,
    DisableWins,
    Formerly,
    Keep,
    RemoveWins,
    Wire,
)
from crdt.types.flag import Flag
from crdt.types.map import Map
from crdt.types.multivalue import MultiValue
from crdt.types.register import Register
from crdt.types.sequence import Sequence
from crdt.types.set import Set
from crdt.types.text_field import Text

__all__ = [
    "AtLeast",
    "BoundedCounter",
    "CallerError",
    "Check",
    "CodecError",
    "Convert",
    "Counter",
    "CrossShardTransaction",
    "Cursor",
    "Decided",
    "Default",
    "DisableWins",
    "Document",
    "EditMisuse",
    "Feed",
    "Flag",
    "Formerly",
    "InvalidId",
    "InvalidValue",
    "Keep",
    "Map",
    "Maximum",
    "MeshError",
    "Minimum",
    "MultiValue",
    "OutOfBounds",
    "PeerError",
    "ReadOnly",
    "Register",
    "RemoveWins",
    "SchemaError",
    "Sequence",
    "ServiceError",
    "Set",
    "Text",
    "TransactionTooLarge",
    "UnknownField",
    "Wire",
    "Written",
]
