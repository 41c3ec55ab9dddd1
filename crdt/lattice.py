"""The lattice: the state of one shard, and the two ways it grows.

`apply` takes one operation after another, in causal order; `join` takes a whole other state. Both
give the same result: the join of a semilattice, so that replicas that have the same operations
have the same state, however and in whatever causal order these came. After Almeida, Shoker,
Baquero: "Delta State Replicated Data Types" (2018), with one causal context for the whole shard,
its frontier.

An entry lives until an operation whose author had seen it removes it, or until its document begins
a new generation. State that only says that something is gone does not exist, but for a document's
generation: what the frontier covers and no entry shows has been removed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from crdt.digest import MODULUS
from crdt.entries import EntryStore
from crdt.holding import Entry, entries_of, last_of, payload_at
from crdt.ids import Dot, week_of
from crdt.joining import join_entries
from crdt.limits import MAX_CONFLICTS
from crdt.operation import Operation, Removal, Transaction, is_valid
from crdt.paths import TypeCode, leaf_code
from crdt.snapshot import DIGEST_BYTES, ShardSnapshot
from crdt.texts import SharedEdit, SharedState, TextStore
from crdt.types.guards import GUARDED, GUARDED_BYTES, continues, may_remove
from crdt.types.text import TextState

__all__ = ("Entry", "Shard")

_NO_ENTRIES: Final[tuple[Entry, ...]] = ()
_SHARED: Final = frozenset({TypeCode.TEXT, TypeCode.SEQUENCE})
# What the paths end in of which more is asked than of plain fields; others may end so too.
_SPECIAL_BYTES: Final = GUARDED_BYTES + bytes(sorted(_SHARED))


class Shard:
    """One shard's state. Not thread-safe; does no I/O.

    `floor`: sessions born in an earlier week are closed, and everything they wrote counts as seen.
    `frontier`: up to which seq each session's operations were applied. `heads`: the applied
    frames, as {session: last seq}, that no other applied frame depends on. `conflicts`: (document,
    path, dot) where two payloads met under one dot.

    All three mappings may be read by anyone and are changed here only.
    """

    def __init__(self, digest_key: bytes = b"") -> None:
        self.floor = 0
        self.frontier: dict[int, int] = {}
        self.heads: dict[int, int] = {}
        self.conflicts: list[tuple[str, bytes, Dot]] = []
        self._store = EntryStore(digest_key)
        self._texts = TextStore(digest_key)
        self._documents = self._store.documents

    def __repr__(self) -> str:
        return (
            f"<Shard of {len(self._documents)} documents, {self.entry_count} entries, "
            f"{len(self.frontier)} sessions>"
        )

    # ------------------------------------------------------------------------------------- reading

    @property
    def entry_count(self) -> int:
        """How many entries are live, texts not counted."""
        return self._store.count

    def seen(self, session: int, seq: int) -> bool:
        """Whether this operation was applied (or its session is closed, which says the same)."""
        return seq <= self.frontier.get(session, 0) or week_of(session) < self.floor

    def entries(self, document: str, path: bytes) -> tuple[Entry, ...]:
        """The live entries at exactly this path, sorted by dot."""
        fields = self._documents.get(document)
        if fields is None:
            return _NO_ENTRIES
        held = fields.get(path)
        if held is None:
            return _NO_ENTRIES
        return (held,) if isinstance(held, tuple) else tuple(entries_of(held))

    def last_entries(self, document: str, path: bytes) -> tuple[Entry, ...]:
        """Of the live entries at exactly this path, each session's last one. Costs the number of
        sessions, not of entries.
        """
        fields = self._documents.get(document)
        held = None if fields is None else fields.get(path)
        return _NO_ENTRIES if held is None else last_of(held)

    def under(self, document: str, prefix: bytes) -> Iterator[tuple[bytes, tuple[Entry, ...]]]:
        """Path and live entries of `prefix` itself and of all that lies in it; b"" is the whole
        document.

        `prefix` ends where a component of a path ends; others find nothing. The set of paths is
        that of the first step; the order is not promised. Costs what it yields, not what the
        document holds.
        """
        for path in self._store.paths_under(document, prefix):
            entries = self.entries(document, path)
            if entries:
                yield path, entries

    def exists(self, document: str) -> bool:
        """Whether the document has a live entry or a text that is not empty."""
        return document in self._documents or self._texts.shows(document)

    def documents(self, type_prefix: str | None = None) -> Iterator[str]:
        """The ids of existing documents, of one type if `type_prefix` ("Task", or "Task/") is
        given.

        The set is that of the first step; the order is not promised.
        """
        start = (
            ""
            if type_prefix is None
            else type_prefix
            if type_prefix.endswith("/")
            else type_prefix + "/"
        )
        others = [each for each in self._texts.documents() if each not in self._documents]
        for document in (*self._documents, *others):
            if document.startswith(start) and self.exists(document):
                yield document

    def generation(self, document: str) -> int:
        """How often the document was deleted for good: entries and texts are of this generation."""
        return self._store.generations.get(document, 0)

    def text(self, document: str, path: bytes) -> TextState | None:
        """The text at a path; None if nobody has written there. It belongs to the shard: read it
        only.
        """
        found = self._texts.get(document, path)
        return found if isinstance(found, TextState) else None

    def shared(self, document: str, path: bytes) -> SharedState | None:
        """The text or sequence at a path; None if nobody has written there. It belongs to the
        shard: read it only.
        """
        return self._texts.get(document, path)

    def text_paths(self, document: str) -> tuple[bytes, ...]:
        """Where the document has texts, empty ones included."""
        return self._texts.paths(document)

    def edit_text(
        self, session: int, document: str, path: bytes, edits: Sequence[SharedEdit], *,
        fresh: bool = False,
    ) -> bytes:  # fmt: skip
        """Perform a local author's edits of a text or sequence at once, and return the payload of
        the one operation that says so; the caller applies that operation next. `fresh`: on an empty
        text, because an operation before that one begins the document's next generation.

        Raises OutOfBounds or InvalidValue as YrsState.edit does; then nothing was changed.
        """
        return self._texts.edit(document, path, session, edits, fresh=fresh)

    def digest(self) -> bytes:
        """16 bytes over all entries and the visible content of all texts; costs what changed since
        last time.
        """
        return ((self._store.sum() + self._texts.sum()) % MODULUS).to_bytes(DIGEST_BYTES)

    def hash_some(self, documents: int) -> int:
        """Do a part of the work of `digest`, of so many changed documents; how many are left."""
        return self._store.hash_some(documents)

    def document_digest(self, document: str) -> bytes:
        """8 bytes over one document, computed afresh."""
        total = self._store.document_sum(document) + self._texts.document_sum(document)
        return (total % MODULUS).to_bytes(DIGEST_BYTES)[:8]

    # ------------------------------------------------------------------------------------ applying

    def apply(self, session: int, seq: int, operation: Operation) -> None:
        """Apply one operation of any origin. Its seq is used up also if it is void.

        `seq` must be the session's next, and everything the operation's author had seen must be
        here. One that was applied before changes nothing (but see `conflicts`).
        """
        if self.seen(session, seq):
            self._compare(session, seq, operation)
            return
        self._expect(session, seq)
        self.frontier[session] = seq
        if is_valid(operation):
            self._perform(session, seq, operation)

    def apply_transactions(
        self, session: int, first: int, transactions: Sequence[Transaction], skip_upto: int = 0
    ) -> None:
        """Apply a frame's body, as `decode_body` gave it: its operations are proven and not proven
        again.

        `first` is the seq of its first operation. Those up to `skip_upto`, or applied before,
        change nothing.
        """
        if week_of(session) < self.floor:
            return
        done = self.frontier.get(session, 0)
        self._expect(session, max(first, done + 1))
        skip_upto = max(skip_upto, done)
        seq = first - 1
        replace = self._store.replace
        try:
            for transaction in transactions:
                for operation in transaction.operations:
                    seq += 1
                    if seq <= skip_upto:
                        self._compare(session, seq, operation)
                    elif not replace(session, seq, operation):
                        self._perform(session, seq, operation)
        finally:
            if seq > skip_upto:
                self.frontier[session] = seq

    def use_up(self, session: int, first: int, last: int) -> None:
        """Let the seqs of a void frame pass: nothing is applied, and what follows them can be.

        Costs nothing, however many they are: a frame may claim more operations than it has bytes.
        """
        if week_of(session) < self.floor:
            return
        done = self.frontier.get(session, 0)
        self._expect(session, max(first, done + 1))
        self.frontier[session] = max(last, done)

    def frame_applied(self, session: int, first: int, last: int, deps: Sequence[Dot]) -> None:
        """Say that the frame of seqs `first` … `last`, which depends on `deps`, has just been
        applied.

        It becomes a head; its own predecessor and the heads that it depends on no longer are.
        """
        assert first <= last <= self.frontier.get(session, 0), (session, first, last)
        for other, seq in deps:
            if self.heads.get(other, seq + 1) <= seq:
                del self.heads[other]
        self.heads[session] = last

    def raise_floor(self, floor: int) -> None:
        """Close all sessions born before week `floor`. Everything they wrote must have been
        applied here.
        """
        if floor <= self.floor:
            return
        self.floor = floor
        self.frontier = {s: seq for s, seq in self.frontier.items() if week_of(s) >= floor}
        self.heads = {s: seq for s, seq in self.heads.items() if week_of(s) >= floor}

    def _expect(self, session: int, seq: int) -> None:
        expected = self.frontier.get(session, 0) + 1
        assert seq == expected, (
            f"seq {seq} of session {session} before {expected}: frames go through the inbox"
        )

    def _perform(self, session: int, seq: int, operation: Operation) -> None:
        """Carry out a valid operation."""
        document, path, payload, removals, generation = operation
        store = self._store
        if generation or store.generations:
            current = store.generations.get(document, 0)
            if generation < current:
                return
            if generation > current:
                self._retire(document, generation)
        if payload is not None and path[-1] in _SPECIAL_BYTES:
            code = leaf_code(path)
            if code in _SHARED:
                self._texts.apply(document, path, session, payload)
                return
            if code is TypeCode.BOUNDED and not self._continues(document, path, session, payload):
                return  # void: its removals neither
        for removal in removals:
            if removal.prefix:
                for target in store.paths_under(document, removal.path):
                    self._remove(session, operation, target, removal)
            else:
                self._remove(session, operation, removal.path, removal)
        if payload is not None:
            store.put(document, path, session, seq, payload)

    def _remove(self, session: int, operation: Operation, path: bytes, removal: Removal) -> None:
        """Take what a removal's author had seen at one path, unless that is guarded from it."""
        if path[-1] not in GUARDED_BYTES or leaf_code(path) not in GUARDED:
            self._store.remove_seen(operation.document, path, removal.seen)
            return
        code, seen = leaf_code(path), dict(removal.seen)
        own_place = path == operation.path and not removal.prefix
        payload = operation.payload if own_place else None
        for owner, number, held in self.entries(operation.document, path):
            if number <= seen.get(owner, 0) and may_remove(code, owner, held, session, payload):
                self._store.discard(operation.document, path, owner, number)

    def _continues(self, document: str, path: bytes, session: int, payload: bytes) -> bool:
        """Whether a row of a bounded counter takes nothing back of its session's last one."""
        return all(
            continues(held, payload)
            for owner, _, held in self.entries(document, path)
            if owner == session
        )

    def _retire(self, document: str, generation: int) -> None:
        """Begin a document's next generation: what it held is gone, and what still comes for an
        older one never shows.
        """
        self._store.retire(document, generation)
        self._texts.drop(document)

    # ------------------------------------------------------------------------------------- joining

    def snapshot(self) -> ShardSnapshot:
        """The whole state at this instant. Costs one entry a document; what changes afterwards is
        copied then, document by document.
        """
        return ShardSnapshot(
            floor=self.floor,
            frontier=dict(self.frontier),
            heads=dict(self.heads),
            documents=self._store.freeze(),
            texts=self._texts.encode(),
            generations=dict(self._store.generations),
            digest=self.digest(),
        )

    @property
    def is_empty(self) -> bool:
        """Whether nothing was ever applied."""
        return not self.frontier and not self.floor

    def adopt(self, other: Shard) -> set[str]:
        """Become what another shard is, at once, and return its documents: as a join with it, while
        this one is empty. Nobody may use the other one afterwards.
        """
        assert self.is_empty, "only a join keeps what is here"
        self.floor, self.heads, self.conflicts = other.floor, other.heads, other.conflicts
        self.frontier.update(other.frontier)
        self._store, self._texts, self._documents = other._store, other._texts, other._documents
        return set(self.documents())

    def join(self, snapshot: ShardSnapshot) -> set[str]:
        """Take over everything a snapshot knows; returns the documents that changed.

        Commutative, associative, idempotent, and equal to applying the operations it was made of.
        Raises CodecError, with nothing changed, if a text state in it is not valid. Costs one
        comparison a document, and what differs.
        """
        mine, theirs = self._store.generations, snapshot.generations
        outdated = {each for each, g in mine.items() if g > theirs.get(each, 0)}
        newer = {each: g for each, g in theirs.items() if g > mine.get(each, 0)}
        changed = {each for each in newer if self.exists(each)}
        texts = {each: fields for each, fields in snapshot.texts.items() if each not in outdated}
        changed |= self._texts.join(texts, afresh=newer)
        for document, generation in newer.items():
            self._store.retire(document, generation)
        changed |= join_entries(self._store, self.seen, snapshot, outdated, newer, self._resolve)
        self._join_context(snapshot)
        return changed

    def _join_context(self, snapshot: ShardSnapshot) -> None:
        """Heads, frontier and floor. A head that the other side has seen, and no longer lists, is
        one no more.
        """
        heads = {
            session: seq
            for session, seq in self.heads.items()
            if snapshot.heads.get(session) == seq or not snapshot.seen(session, seq)
        }
        heads.update((s, seq) for s, seq in snapshot.heads.items() if not self.seen(s, seq))
        self.heads = heads
        for session, seq in snapshot.frontier.items():
            if week_of(session) >= self.floor and seq > self.frontier.get(session, 0):
                self.frontier[session] = seq
        self.raise_floor(snapshot.floor)

    def _compare(self, session: int, seq: int, operation: Operation) -> None:
        """An operation came again: should its live payload differ, the larger one stays."""
        if operation.generation != self.generation(operation.document):
            return
        held = payload_at(self._store.holding(operation.document, operation.path), session, seq)
        payload = operation.payload
        if held is not None and payload is not None and held != payload and is_valid(operation):
            self._resolve(operation.document, operation.path, session, seq, held, payload)

    def _resolve(
        self, document: str, path: bytes, session: int, seq: int, held: bytes, rival: bytes
    ) -> None:
        """Two payloads under one dot: a cloned machine or an attacker. Keep the larger one, and
        the evidence.
        """
        if rival > held:
            self._store.overwrite(document, path, session, seq, rival)
        evidence = (document, path, (session, seq))
        if len(self.conflicts) < MAX_CONFLICTS and evidence not in self.conflicts:
            self.conflicts.append(evidence)
