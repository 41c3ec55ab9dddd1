"""Every bound that a receiver enforces, in one place.

All of them are pure functions of bytes: two replicas that read the same bytes come to the same
verdict, whatever else they hold. Changing one changes what is valid on the wire, so it needs a new
format version. Sizes are bytes unless the name says otherwise. The trade is the same everywhere:
large enough that honest use never meets the bound, small enough that one hostile member cannot
make a receiver spend more than it sent.
"""

from __future__ import annotations

from typing import Final

MAX_DEPTH: Final = 32
"""How deep lists and dicts may nest in one value."""

MAX_VALUE_BYTES: Final = 1 << 20
"""The canonical encoding of one value."""

MAX_PAYLOAD_BYTES: Final = MAX_VALUE_BYTES + 16
"""One payload: a value and the stamp or epoch in front of it."""

MAX_NAME_BYTES: Final = 128
"""The UTF-8 of one wire name of a field."""

MAX_PATH_BYTES: Final = 1024
"""One path, and so one set element or map key."""

MAX_PATH_DEPTH: Final = 8
"""How many maps may lie inside each other, the field itself included."""

MAX_DOCUMENT_ID_BYTES: Final = 512
"""The UTF-8 of a whole document id, `Type/name`."""

MAX_GENERATION: Final = (1 << 53) - 1
"""How often one document can be deleted for good."""

MAX_LABEL_BYTES: Final = 256
"""The UTF-8 of a transaction's type, actor or cause."""

MAX_TEXT_UPDATE_BYTES: Final = 1 << 20
"""The yrs update of one text operation."""

MAX_SEQ: Final = (1 << 53) - 1
"""The highest sequence number: exact in every language a reader may be written in."""

MAX_STAMP: Final = (1 << 64) - 1
"""The highest stamp; a writer that would go above it stays at it and is ordered by its dot."""

MAX_EPOCH: Final = (1 << 63) - 1
"""The highest epoch of a decided value."""

MAX_OPERATIONS: Final = 1 << 17
"""Operations in one frame body, and so in one transaction."""

MAX_BODY_SESSIONS: Final = 1 << 17
"""Sessions that the removals of one frame body name. No writer's transactions get there: what they
name counts for their bytes.
"""

MAX_BODY_BYTES: Final = 4 << 20
"""One encoded frame body: well above any sensible transaction, and small enough that a full inbox
of them fits in memory.
"""

MAX_SNAPSHOT_BYTES: Final = 1 << 31
"""One encoded shard snapshot."""

MAX_CONFLICTS: Final = 1024
"""How many conflicting dots a shard remembers as evidence; later ones are resolved but not kept."""
