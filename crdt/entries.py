"""The live entries of a shard, by document and path, with what must be kept up with them.

Besides the entries there are each document's generation (its older ones are gone for good), an
index of what lies below which prefix, and a record of what the digest does not know yet.

Copies are made on write: `freeze` hands out all there is at one instant at the cost of one entry a
document, and a document is copied when it is next changed.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Final

from crdt.digest import MODULUS, EntryHash
from crdt.holding import Entry, Holding, Many, add, copy_of, entries_of, payload_at
from crdt.ids import Dot
from crdt.operation import Operation
from crdt.prefixes import PrefixIndex
from crdt.types.guards import GUARDED_BYTES

Before = Entry | dict[Dot, bytes | None] | None
"""What a path held when the digest was last asked for: its one entry, nothing, or, if it held
many, the payload (None: absent) of each dot that changed since.
"""

Documents = Mapping[str, Mapping[bytes, Holding]]

_THAWED: Final = object()


class EntryStore:
    """Entries by document and path. Knows nothing of frontiers: what to add and to remove is said
    by the shard.
    """

    __slots__ = (
        "_below", "_dirty", "_frozen", "_generation_sum", "_hash", "_sum",
        "count", "documents", "generations",
    )  # fmt: skip

    def __init__(self, digest_key: bytes) -> None:
        self.documents: dict[str, dict[bytes, Holding]] = {}
        self.generations: dict[str, int] = {}
        self.count = 0
        self._hash = EntryHash(digest_key)
        self._sum = 0
        self._dirty: dict[str, dict[bytes, Before]] = {}
        self._generation_sum = 0
        self._below = PrefixIndex()
        self._frozen: dict[str, None] = {}  # documents that a snapshot shares with us

    # ------------------------------------------------------------------------------------- reading

    def holding(self, document: str, path: bytes) -> Holding | None:
        """What lies at exactly this path."""
        fields = self.documents.get(document)
        return None if fields is None else fields.get(path)

    def paths_under(self, document: str, prefix: bytes) -> list[bytes]:
        """The paths with live entries that are `prefix` or lie below it; all of the document's for
        b"".
        """
        fields = self.documents.get(document)
        if fields is None:
            return []
        if not prefix:
            return list(fields)
        below = self._below.below(document, prefix)
        if prefix in fields:
            below.append(prefix)
        return below

    def freeze(self) -> Documents:
        """All entries at this instant. Nobody changes what is returned, and it never changes."""
        self._frozen = dict.fromkeys(self.documents)
        return self.documents.copy()

    def _thaw(self, document: str) -> None:
        """Before a document's first change since it was frozen: go on with a copy of it."""
        if self._frozen.pop(document, _THAWED) is None:
            fields = self.documents[document]
            self.documents[document] = {path: copy_of(held) for path, held in fields.items()}

    # ------------------------------------------------------------------------------------- writing

    def replace(self, session: int, seq: int, operation: Operation) -> bool:
        """Perform the most common operation in one step: overwrite a path's only entry, which the
        author had seen.

        False: it is another kind of operation, and nothing was done.
        """
        document, path, payload, removals, generation = operation
        if payload is None or len(removals) != 1:
            return False
        target, prefix, seen = removals[0]
        if prefix or len(seen) != 1 or target != path or path[-1] in GUARDED_BYTES:
            return False
        if (generation or self.generations) and generation != self.generations.get(document, 0):
            return False
        if self._frozen:
            self._thaw(document)
        fields = self.documents.get(document)
        if fields is None:
            return False
        held = fields.get(path)
        if not isinstance(held, tuple):
            return False
        seen_session, seen_seq = seen[0]
        if held[0] != seen_session or held[1] > seen_seq:
            return False
        dirty = self._dirty.get(document)
        if dirty is None:
            self._dirty[document] = {path: held}
        elif path not in dirty:
            dirty[path] = held
        elif isinstance(dirty[path], dict):
            self._note_dot(document, path, held[0], held[1], held[2])
            self._note_dot(document, path, session, seq, None)
        fields[path] = (session, seq, payload)
        return True

    def put(self, document: str, path: bytes, session: int, seq: int, payload: bytes) -> None:
        """Add an entry; its dot must not be there yet."""
        if self._frozen:
            self._thaw(document)
        fields = self.documents.get(document)
        if fields is None:
            fields = self.documents[document] = {}
        held = fields.get(path)
        self._note(document, path, held, session, seq, None)
        self.count += 1
        if held is None:
            fields[path] = (session, seq, payload)
            self._below.add(document, path)
        elif isinstance(held, tuple):
            many: Many = {held[0]: (held[1], held[2])}
            add(many, session, seq, payload)
            fields[path] = many
        else:
            add(held, session, seq, payload)

    def adopt(self, document: str, fields: Mapping[bytes, Holding]) -> bool:
        """Take over all entries of a document in one step. False: something of it is here, or was
        when the digest was last asked for, and nothing was done.
        """
        if document in self.documents or document in self._dirty or not fields:
            return False
        self.documents[document] = {path: copy_of(held) for path, held in fields.items()}
        self._dirty[document] = dict.fromkeys(fields)
        for path, held in fields.items():
            self._below.add(document, path)
            self.count += 1 if isinstance(held, tuple) else len(entries_of(held))
        return True

    def discard(self, document: str, path: bytes, session: int, seq: int) -> None:
        """Remove the entry of one dot, if it is there."""
        if self._frozen:
            self._thaw(document)
        held = self.holding(document, path)
        payload = payload_at(held, session, seq)
        if held is None or payload is None:
            return
        self._note(document, path, held, session, seq, payload)
        self.count -= 1
        if isinstance(held, tuple):
            self._drop_path(document, path)
            return
        row = held[session]
        if isinstance(row, tuple):
            del held[session]
        else:
            del row[seq]
            if len(row) == 1:
                held[session] = next(iter(row.items()))
        self._settle(document, path, held)

    def overwrite(self, document: str, path: bytes, session: int, seq: int, payload: bytes) -> None:
        """Change the payload under a dot. Only for two payloads that met under one dot."""
        self.discard(document, path, session, seq)
        self.put(document, path, session, seq, payload)
        held = self.holding(document, path)
        if isinstance(held, dict):
            row = held[session]
            if isinstance(row, dict):
                held[session] = dict(sorted(row.items()))  # readers rely on the order of seqs

    def remove_seen(self, document: str, path: bytes, seen: Iterable[Dot]) -> None:
        """Remove the entries at a path that `seen` covers: those of its sessions up to its seqs."""
        held = self.holding(document, path)
        if held is None:
            return
        if isinstance(held, tuple):
            for session, seq in seen:
                if session == held[0] and held[1] <= seq:
                    self.discard(document, path, held[0], held[1])
                    return
            return
        for session, upto in seen:
            row = held.get(session)
            if row is None:
                continue
            gone = (row[0],) if isinstance(row, tuple) else tuple(row)
            for seq in gone:
                if seq <= upto:
                    self.discard(document, path, session, seq)
            # The last removal but one turned the holding into a flat entry.
            held = self.holding(document, path)
            if held is None or isinstance(held, tuple):
                self.remove_seen(document, path, seen)
                return

    def retire(self, document: str, generation: int) -> None:
        """Begin a document's next generation: all it held is gone."""
        for path in self.paths_under(document, b""):
            for session, seq, _ in entries_of(self.documents[document][path]):
                self.discard(document, path, session, seq)
        before = self.generations.get(document, 0)
        hashed = self._hash.generation
        self._generation_sum += hashed(document, generation) - hashed(document, before)
        self.generations[document] = generation

    def _settle(self, document: str, path: bytes, many: Many) -> None:
        """Bring a holding that shrank back into its smallest form."""
        if len(many) == 1:
            ((session, row),) = many.items()
            if isinstance(row, tuple):
                self.documents[document][path] = (session, row[0], row[1])

    def _drop_path(self, document: str, path: bytes) -> None:
        fields = self.documents[document]
        del fields[path]
        if not fields:
            del self.documents[document]
        dirty = self._dirty[document]
        if dirty[path] is None:  # came and went between two digests
            del dirty[path]
            if not dirty:
                del self._dirty[document]
        self._below.drop(document, path)

    # -------------------------------------------------------------------------------------- digest

    def _note(
        self,
        document: str,
        path: bytes,
        held: Holding | None,
        session: int,
        seq: int,
        old: bytes | None,
    ) -> None:
        """Remember, before a change of one dot, what the digest still counts there."""
        dirty = self._dirty.setdefault(document, {})
        if path not in dirty:
            dirty[path] = {(session, seq): old} if isinstance(held, dict) else held
        elif isinstance(dirty[path], dict):
            self._note_dot(document, path, session, seq, old)

    def _note_dot(
        self, document: str, path: bytes, session: int, seq: int, old: bytes | None
    ) -> None:
        changed = self._dirty[document][path]
        assert isinstance(changed, dict)
        dot = (session, seq)
        if dot not in changed:
            changed[dot] = old
        elif (
            changed[dot] is None
            and payload_at(self.holding(document, path), session, seq) is not None
        ):
            # It came and goes between two digests: nothing to remember, however often that happens.
            del changed[dot]

    def sum(self) -> int:
        """The digest's sum over all entries; costs what changed since it was last asked for."""
        self.hash_some(len(self._dirty))
        return (self._sum + self._generation_sum) % MODULUS

    def hash_some(self, documents: int) -> int:
        """Do a part of what `sum` has to, of so many changed documents; how many are left."""
        total = self._sum
        for document in list(itertools.islice(self._dirty, documents)):
            total += self._difference(document, self._dirty.pop(document))
        self._sum = total % MODULUS
        if not self._dirty:
            self._dirty.clear()  # or its table stays as large as it ever was
        return len(self._dirty)

    def _difference(self, document: str, changes: Mapping[bytes, Before]) -> int:
        """What a document's changes add to the sum."""
        total = 0
        hashed = self._hash.entry
        for path, before in changes.items():
            held = self.holding(document, path)
            if isinstance(before, dict):
                for (session, seq), old in before.items():
                    now = payload_at(held, session, seq)
                    if now != old:
                        total -= 0 if old is None else hashed(document, path, session, seq, old)
                        total += 0 if now is None else hashed(document, path, session, seq, now)
            elif before != held:
                total -= 0 if before is None else hashed(document, path, *before)
                if held is not None:
                    for entry in entries_of(held):
                        total += hashed(document, path, *entry)
        return total

    def document_sum(self, document: str) -> int:
        """The sum over one document's entries, computed afresh."""
        hashed = self._hash.entry
        of_generation = self._hash.generation(document, self.generations.get(document, 0))
        return of_generation + sum(
            hashed(document, path, *entry)
            for path, holding in self.documents.get(document, {}).items()
            for entry in entries_of(holding)
        )
