"""What the writers of a rehearsal share: a document with a field of every kind that grows."""

from __future__ import annotations

from crdt import Counter, Document, Feed, Register, Set, Text

KEPT, GONE = "kept", "gone"
"""How names begin: of documents that are made and never deleted, and made and then deleted."""


class Specimen(Document):
    """One document that all write (`shared-…`), or that one session alone does."""

    value: Register[int]
    edits: Counter
    members: Set[str]
    log: Feed[str]
    text: Text
