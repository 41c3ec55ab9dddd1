"""Overlay: a transaction that is being written, over a shard that sees nothing of it before it is
committed (`crdt.commit`).
"""

from collections.abc import Iterator, Sequence
from typing import NoReturn

from crdt.clock import HybridClock
from crdt.drafts import Draft, as_sequence, as_text, draft_of
from crdt.errors import OutOfBounds, ReadOnly
from crdt.lattice import Entry, Shard
from crdt.limits import MAX_GENERATION
from crdt.operation import Operation, Removal, new
from crdt.texts import SharedEdit
from crdt.types.cursor import Cursor
from crdt.types.formats import Spans
from crdt.types.slots import Slots

_Entries = tuple[Entry, ...] | list[Entry]

# Building a named tuple through its own constructor costs three times as much.


class _Retired(dict[bytes, _Entries]):
    """What the paths of a document hold that this transaction deleted for good: of the shard's
    entries none.
    """

    def get(self, path: bytes, default: _Entries = ()) -> _Entries:  # type: ignore[override]
        return dict.get(self, path, default)


class Overlay:
    """One transaction on one shard, not yet part of it.

    Dots are predicted (own frontier + 1, 2, …), so reads inside the edit behave as they will after
    it; `commit` refuses if another commit of the same session came between. After `close` every use
    raises ReadOnly. Texts are edited as plain strings here and become one yrs update per field at
    commit, after all other operations, because pycrdt cannot roll back.
    """

    __slots__ = (
        "_base",
        "_changed",
        "_clock",
        "_closed",
        "_generations",
        "_operations",
        "_shard",
        "_texts",
        "session",
    )

    def __init__(self, shard: Shard, session: int, clock: HybridClock) -> None:
        self.session = session
        self._operations: list[Operation] = []
        self._shard = shard
        self._clock = clock
        self._base = shard.frontier.get(session, 0)
        # What the paths written to hold now; a list comes on top of what the shard holds there, so
        # that appending to a long feed does not copy it.
        self._changed: dict[str, dict[bytes, _Entries]] = {}
        self._texts: dict[tuple[str, bytes], Draft] = {}
        self._generations: dict[str, int] = {}  # those that this transaction begins
        self._closed = False

    def __repr__(self) -> str:
        state = "ended" if self._closed else "open"
        return f"<Overlay {state}, {len(self._operations)} operations, {len(self._texts)} texts>"

    @property
    def writable(self) -> bool:
        return not self._closed

    @property
    def closed(self) -> bool:
        """Whether the transaction has ended."""
        return self._closed

    @property
    def shard(self) -> Shard:
        """The shard this transaction will be committed to."""
        return self._shard

    @property
    def base(self) -> int:
        """The session's last seq when the overlay was made; its operations follow it without a
        hole.
        """
        return self._base

    @property
    def operations(self) -> tuple[Operation, ...]:
        """What was written so far, text edits aside; their seqs follow `base`."""
        return tuple(self._operations)

    @property
    def texts(self) -> dict[tuple[str, bytes], tuple[SharedEdit, ...]]:
        """The recorded text edits by (document, path), in the order they were made."""
        return {key: tuple(draft.edits) for key, draft in self._texts.items() if draft.edits}

    @property
    def edits_texts(self) -> bool:
        """Whether any text may have been edited."""
        return bool(self._texts)

    @property
    def documents(self) -> frozenset[str]:
        """Ids of the documents this transaction has written to so far."""
        return frozenset(
            [operation.document for operation in self._operations]
            + [document for document, _ in self.texts]
        )

    def close(self) -> None:
        """End the transaction: from now on every read and write through it raises ReadOnly."""
        self._closed = True

    def entries(self, document: str, path: bytes) -> tuple[Entry, ...]:
        if self._closed:
            self._ended()
        changed = self._changed.get(document)
        if changed is not None:
            found = changed.get(path)
            if isinstance(found, tuple):
                return found
            if found is not None:
                return tuple(sorted((*self._shard.entries(document, path), *found)))
        return self._shard.entries(document, path)

    def last_entries(self, document: str, path: bytes) -> tuple[Entry, ...]:
        if self._closed:
            self._ended()
        found = self._changed.get(document, {}).get(path)
        if isinstance(found, tuple):
            return tuple({entry[0]: entry for entry in found}.values())
        last = self._shard.last_entries(document, path)
        if found is None:
            return last
        return (*(entry for entry in last if entry[0] != self.session), found[-1])

    def under(self, document: str, prefix: bytes) -> Iterator[tuple[bytes, tuple[Entry, ...]]]:
        if self._closed:
            self._ended()
        changed = self._changed.get(document)
        if changed is None:
            return self._shard.under(document, prefix)
        return self._merged(document, changed, prefix)

    def _merged(
        self, document: str, changed: dict[bytes, _Entries], prefix: bytes
    ) -> Iterator[tuple[bytes, tuple[Entry, ...]]]:
        if not isinstance(changed, _Retired):
            for path, entries in self._shard.under(document, prefix):
                if path not in changed:
                    yield path, entries
        for path in changed:
            if path.startswith(prefix):
                entries = self.entries(document, path)
                if entries:
                    yield path, entries

    def text(self, document: str, path: bytes) -> str:
        draft = self._known_draft(document, path)
        return "" if draft is None else as_text(draft).value

    def text_length(self, document: str, path: bytes) -> int:
        if self._closed:
            self._ended()
        draft = self._texts.get((document, path))
        if draft is not None:
            return draft.length
        # Without a draft: every insertion asks for the length.
        state = None if document in self._generations else self._shard.shared(document, path)
        return 0 if state is None else len(state)

    def spans(self, document: str, path: bytes) -> Spans:
        draft = self._known_draft(document, path)
        return [] if draft is None else as_text(draft).spans()

    def slots(self, document: str, path: bytes) -> Slots:
        draft = self._known_draft(document, path)
        return Slots() if draft is None else as_sequence(draft).slots

    def cursor(self, document: str, path: bytes, index: int, before: bool) -> Cursor:
        return self._draft(document, path).cursor(document, index, before)

    def position(self, document: str, path: bytes, cursor: Cursor) -> int:
        return self._draft(document, path).position(cursor)

    def _known_draft(self, document: str, path: bytes) -> Draft | None:
        """What this transaction sees of a text or sequence; None if nothing was ever written."""
        if self._closed:
            self._ended()
        draft = self._texts.get((document, path))
        if draft is None and document not in self._generations:
            state = self._shard.shared(document, path)
            return None if state is None else draft_of(path, state)
        return draft

    def _draft(self, document: str, path: bytes) -> Draft:
        return self._known_draft(document, path) or draft_of(path, None)

    def text_paths(self, document: str) -> tuple[bytes, ...]:
        if self._closed:
            self._ended()
        own = [path for other, path in self._texts if other == document]
        kept = () if document in self._generations else self._shard.text_paths(document)
        return tuple(dict.fromkeys((*kept, *own)))

    def stamp(self, greatest: int = 0) -> int:
        if self._closed:
            self._ended()
        return self._clock.after(greatest) if greatest else self._clock.now()

    def removal(
        self, document: str, path: bytes, *, prefix: bool = False, own: bool = False
    ) -> Removal | None:
        live: Sequence[Entry]
        if prefix:
            live = [entry for _, entries in self.under(document, path) for entry in entries]
        else:
            live = self.entries(document, path)
        if own:
            live = [entry for entry in live if entry[0] == self.session]
        if not live:
            return None
        return Removal(path, prefix, self._seen(live, self._base + len(self._operations)))

    def write(
        self, document: str, path: bytes, payload: bytes | None, removals: Sequence[Removal] = ()
    ) -> None:
        if self._closed:
            self._ended()
        if payload is None and not removals:
            return
        changed = self._changed.get(document)
        if changed is None:
            changed = self._changed[document] = {}
        for removal in removals:
            self._remove(document, changed, removal)
        generation = self.generation(document)
        self._operations.append(Operation(document, path, payload, tuple(removals), generation))
        if payload is None:
            return
        entry = (self.session, self._base + len(self._operations), payload)
        before = changed.get(path)
        if isinstance(before, tuple):
            changed[path] = tuple(sorted((*before, entry)))
        elif before is None:
            changed[path] = [entry]
        else:
            before.append(entry)

    def replace(
        self, document: str, path: bytes, payload: bytes, live: tuple[Entry, ...] | None = None
    ) -> None:
        if live is None or self._closed:
            live = self.entries(document, path)
        operations, session = self._operations, self.session
        done = self._base + len(operations)
        if not live:
            removals: tuple[Removal, ...] = ()
        else:
            removals = (new(Removal, (path, False, self._seen(live, done))),)
        generation = self.generation(document)
        operations.append(new(Operation, (document, path, payload, removals, generation)))
        entries = ((session, done + 1, payload),)
        changed = self._changed.get(document)
        if changed is None:
            self._changed[document] = {path: entries}
        else:
            changed[path] = entries

    def retire(self, document: str) -> None:
        """Delete a document for good: one operation, which begins its next generation. It reads as
        empty from now on, and what is written is of that generation. Raises OutOfBounds after
        MAX_GENERATION of them.
        """
        if self._closed:
            self._ended()
        generation = self.generation(document) + 1
        if generation > MAX_GENERATION:
            raise OutOfBounds(f"{document} was deleted {MAX_GENERATION} times: use another id")
        self._generations[document] = generation
        self._operations.append(Operation(document, b"", None, (), generation))
        self._changed[document] = _Retired()
        for key in [key for key in self._texts if key[0] == document]:
            del self._texts[key]

    @property
    def retired(self) -> frozenset[str]:
        """The documents that this transaction deletes for good."""
        return frozenset(self._generations)

    def generation(self, document: str) -> int:
        """The generation of a document that is written to."""
        begun = self._generations.get(document) if self._generations else None
        return self._shard.generation(document) if begun is None else begun

    def _seen(self, live: Sequence[Entry], done: int) -> tuple[tuple[int, int], ...]:
        """Up to which seq this transaction, `done` seqs far, has seen the authors of entries."""
        session, frontier = self.session, self._shard.frontier
        if len(live) == 1:
            author, seq, _ = live[0]
            return ((author, done if author == session else max(seq, frontier.get(author, 0))),)
        seen: dict[int, int] = {}
        for author, seq, _ in live:
            # A session below the floor is no longer in the frontier; its live entries are all
            # there is of it.
            seen[author] = max(seq, seen.get(author, 0), frontier.get(author, 0))
        if session in seen:
            seen[session] = done
        return tuple(sorted(seen.items()))

    def _remove(self, document: str, changed: dict[bytes, _Entries], removal: Removal) -> None:
        if removal.prefix:
            touched = list(self.under(document, removal.path))
        else:
            touched = [(removal.path, self.entries(document, removal.path))]
        seen = dict(removal.seen)
        for path, entries in touched:
            changed[path] = tuple(entry for entry in entries if entry[1] > seen.get(entry[0], 0))

    def edit_text(self, document: str, path: bytes, edit: SharedEdit) -> None:
        draft = self._draft(document, path)
        draft.record(document, edit)
        self._texts[document, path] = draft

    def _ended(self) -> NoReturn:
        raise ReadOnly("the edit has ended; open a new one with `with replica.edit(…)`")
