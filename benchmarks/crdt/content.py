"""What the benchmarks of state work on: our shards and pycrdt's documents with the same content."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, Final

from pycrdt import Doc, Map

from crdt import Document, Register, Text
from crdt.access import Overlay, commit
from crdt.clock import HybridClock
from crdt.document import document_id
from crdt.ids import new_session
from crdt.lattice import Shard
from crdt.operation import Transaction, encode_body
from persistence.system import SystemClock, SystemEntropy

ACTOR: Final = "benchmark"
KEY: Final = bytes(32)
FIELDS: Final = 10
BATCH: Final = 100
"""Operations in one frame, and keys in one of pycrdt's transactions."""


class Note(Document):
    """Ten small fields and a text."""

    f0: Register[str]
    f1: Register[str]
    f2: Register[str]
    f3: Register[str]
    f4: Register[str]
    f5: Register[str]
    f6: Register[str]
    f7: Register[str]
    f8: Register[str]
    f9: Register[str]
    text: Text


class Site:
    """A shard of ours that one session writes to, as a replica does in memory."""

    def __init__(self) -> None:
        clock = SystemClock()
        self.shard = Shard(KEY)
        self.session = new_session(clock.wall_ms(), int.from_bytes(SystemEntropy().token(8)))
        self.clock = HybridClock(clock.wall_ms)

    def begin(self) -> Overlay:
        """A transaction; `end` it."""
        return Overlay(self.shard, self.session, self.clock)

    def end(self, overlay: Overlay) -> Transaction | None:
        """Commit it."""
        return commit(self.shard, overlay, "edit", ACTOR, "")

    def bodies(self, numbers: Sequence[int], fields: int, value: str) -> list[bytes]:
        """Write the entries of these numbers, so many in one document; the bodies of the frames
        that say so.
        """
        made = []
        for batch in batches(numbers):
            overlay = self.begin()
            for number in batch:
                document, field = divmod(number, fields)
                note = Note.bind(overlay, document_id(Note, str(document)))
                setattr(note, f"f{field}", value)
            transaction = self.end(overlay)
            assert transaction is not None
            made.append(encode_body([transaction]))
        return made


def batches(numbers: Sequence[int]) -> Iterator[Sequence[int]]:
    """The numbers, in order, `BATCH` at a time."""
    for first in range(0, len(numbers), BATCH):
        yield numbers[first : first + BATCH]


def site_with(entries: int, fields: int = FIELDS) -> Site:
    """A site with so many live registers of a small value."""
    site = Site()
    site.bodies(range(entries), fields, "value")
    return site


def key_of(number: int, fields: int = FIELDS) -> str:
    """The key in pycrdt's one map of what is a document's field with us."""
    return f"Note/{number // fields}/f{number % fields}"


def new_map() -> tuple[Doc[Any], Map[Any]]:
    """A document of pycrdt's with an empty map."""
    doc: Doc[Any] = Doc()
    return doc, doc.get("m", type=Map)


def map_with(entries: int, fields: int = FIELDS) -> tuple[Doc[Any], Map[Any]]:
    """A map of pycrdt's with the content of `site_with`."""
    doc, mapping = new_map()
    write(doc, mapping, [key_of(number, fields) for number in range(entries)], "value")
    return doc, mapping


def write(doc: Doc[Any], mapping: Map[Any], keys: Sequence[str], value: str) -> None:
    """Set these keys, `BATCH` in one transaction."""
    left = iter(keys)
    while batch := list(itertools.islice(left, BATCH)):
        with doc.transaction():
            for key in batch:
                mapping[key] = value
