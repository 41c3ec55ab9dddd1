"""What two replicas say to each other: frozen messages, their bytes, and nothing else.

`encode` and `decode` know every word there is; the words are in the files beside this one.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from mesh.wire import gossip, hello, presence, repair, roster, subscription
from mesh.wire.codec import MAX_MESSAGE_BYTES, WIRE_NEWEST, WIRE_OLDEST, Unknown, Vocabulary
from mesh.wire.gossip import Graft, Prune
from mesh.wire.hello import Bye, Hello, Ping
from mesh.wire.repair import (
    MAX_CERTIFICATES,
    MAX_FRAMES,
    SNAPSHOT_PART_BYTES,
    Certificates,
    Frames,
    Frontier,
    Journaled,
    Range,
    Request,
    Served,
    SnapshotPart,
    Summary,
    SummaryRow,
    Want,
    WantCertificates,
    WantRest,
    WantSnapshot,
)
from mesh.wire.roster import MeshKeys, RosterNews, RosterVersion, WantKeys
from mesh.wire.subscription import Holds

__all__ = (
    "MAX_CERTIFICATES",
    "MAX_FRAMES",
    "MAX_MESSAGE_BYTES",
    "SNAPSHOT_PART_BYTES",
    "VOCABULARY",
    "WIRE_NEWEST",
    "WIRE_OLDEST",
    "Bye",
    "Certificates",
    "Frames",
    "Frontier",
    "Graft",
    "Hello",
    "Holds",
    "Journaled",
    "MeshKeys",
    "Message",
    "Ping",
    "Prune",
    "Range",
    "Request",
    "RosterNews",
    "RosterVersion",
    "Served",
    "SnapshotPart",
    "Summary",
    "SummaryRow",
    "Unknown",
    "Want",
    "WantCertificates",
    "WantKeys",
    "WantRest",
    "WantSnapshot",
    "decode",
    "encode",
)

Message: TypeAlias = Any
"""An instance of the class of some word, or `Unknown`."""

VOCABULARY = Vocabulary(
    (
        *hello.WORDS,
        *repair.WORDS,
        *gossip.WORDS,
        *presence.WORDS,
        *roster.WORDS,
        *subscription.WORDS,
    )
)
encode = VOCABULARY.encode
decode = VOCABULARY.decode
