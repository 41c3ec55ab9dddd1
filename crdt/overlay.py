"""One transaction: an overlay that collects it, and the commit that makes it part of the shard.

The shard sees nothing before `commit`, which checks everything first and then applies everything.
So a body that raises has changed nothing, and a body that returns has changed all it meant to.
"""

from collections.abc import Iterator, Sequence
from typing import NoReturn

from crdt.clock import HybridClock
from crdt.errors import EditMisuse, InvalidValue, OutOfBounds, ReadOnly, TransactionTooLarge
from crdt.ids import week_of
from crdt.lattice import Entry, Shard
from crdt.limits import MAX_BODY_BYTES, MAX_LABEL_BYTES, MAX_OPERATIONS
from crdt.operation import Operation, Removal, Transaction, is_valid, operations_bytes
from crdt.types.expect import refuse
from crdt.types.text import Insert, TextEdit, TextState

_MAX_TRANSACTION_BYTES = MAX_BODY_BYTES // 2

_Entries = tuple[Entry, ...] | list[Entry]


class _TextDraft:
    """The content of one Text field inside an overlay, and the edits that led there."""

    __slots__ = ("edits", "value")

    def __init__(self, value: str) -> None:
        self.value = value
        self.edits: list[TextEdit] = []


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
        self._texts: dict[tuple[str, bytes], _TextDraft] = {}
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
    def texts(self) -> dict[tuple[str, bytes], tuple[TextEdit, ...]]:
        """The recorded text edits by (document, path), in the order they were made."""
        return {key: tuple(draft.edits) for key, draft in self._texts.items() if draft.edits}

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
        for path, entries in self._shard.under(document, prefix):
            if path not in changed:
                yield path, entries
        for path in changed:
            if path.startswith(prefix):
                entries = self.entries(document, path)
                if entries:
                    yield path, entries

    def text(self, document: str, path: bytes) -> str:
        if self._closed:
            self._ended()
        draft = self._texts.get((document, path))
        if draft is not None:
            return draft.value
        state = self._shard.text(document, path)
        return "" if state is None else state.value()

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
        self._operations.append(Operation(document, path, payload, tuple(removals)))
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

    def replace(self, document: str, path: bytes, payload: bytes) -> None:
        live = self.entries(document, path)
        operations, session = self._operations, self.session
        done = self._base + len(operations)
        if not live:
            removals: tuple[Removal, ...] = ()
        else:
            removals = (Removal(path, False, self._seen(live, done)),)
        operations.append(Operation(document, path, payload, removals))
        entries = ((session, done + 1, payload),)
        changed = self._changed.get(document)
        if changed is None:
            self._changed[document] = {path: entries}
        else:
            changed[path] = entries

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

    def edit_text(self, document: str, path: bytes, edit: TextEdit) -> None:
        if self._closed:
            self._ended()
        draft = self._texts.get((document, path))
        if draft is None:
            draft = _TextDraft(self.text(document, path))
        value, index = draft.value, edit.index
        if isinstance(edit, Insert):
            end, piece = index, edit.text
            _check_unicode(document, piece)
        else:
            end, piece = index + edit.length, ""
        if not 0 <= index <= end <= len(value):
            raise OutOfBounds(
                f"{document}: positions {index} to {end} are outside a text of {len(value)}"
            )
        if end == index and not piece:
            return
        draft.value = value[:index] + piece + value[end:]
        draft.edits.append(edit)
        self._texts[document, path] = draft

    def _ended(self) -> NoReturn:
        raise ReadOnly("the edit has ended; open a new one with `with replica.edit(…)`")


def _check_unicode(document: str, piece: str) -> None:
    try:
        piece.encode()
    except UnicodeEncodeError as error:
        raise InvalidValue(
            f"{document}: a text takes no lone surrogates ({error.reason})"
        ) from error


def commit(
    shard: Shard,
    overlay: Overlay,
    type: str,
    actor: str,
    caused_by: str,
) -> Transaction | None:
    """Apply the overlay to its shard as one transaction, close it, and return what goes into the
    frame.

    None if nothing was written. Raises, before anything is changed: EditMisuse if the overlay has
    ended or is of another shard, if the session is closed, or wrote to the shard since the overlay
    was made; TransactionTooLarge if no frame could carry it; OutOfBounds if a text would become too
    large; InvalidValue for a label that is too long. Heads are the caller's: they move when the
    frame is cut.
    """
    if not overlay.writable:
        raise EditMisuse("this edit has ended already; it cannot be committed a second time")
    if overlay.shard is not shard:
        raise EditMisuse("this edit was opened on another shard")
    session, first = overlay.session, overlay.base + 1
    if week_of(session) < shard.floor:
        raise EditMisuse("this session has been closed by the mesh; open the replica again")
    if shard.frontier.get(session, 0) + 1 != first:
        raise EditMisuse("another edit of this session was committed while this one was open")
    texts = overlay.texts
    written = overlay.operations
    if not written and not texts:
        overlay.close()
        return None
    _check_labels(type, actor, caused_by)
    _check_operations(written, len(texts))
    _check_texts(shard, session, list(texts.items())[1:], operations_bytes(written))
    stamp = overlay.stamp()
    overlay.close()
    operations = list(written)
    for (document, path), edits in texts.items():
        payload = shard.edit_text(session, document, path, edits)
        operations.append(Operation(document, path, payload))
    transaction = Transaction(type, actor, stamp, caused_by, tuple(operations))
    shard.apply_transactions(session, first, (transaction,))
    return transaction


def _check_labels(*labels: str) -> None:
    for label in labels:
        if type(label) is not str:
            refuse("a transaction", "str as type, actor and caused_by", label)
        if len(label) * 4 > MAX_LABEL_BYTES and len(label.encode()) > MAX_LABEL_BYTES:
            raise InvalidValue(f"{label!r:.60}… is a label of more than {MAX_LABEL_BYTES} bytes")


def _check_operations(operations: Sequence[Operation], texts: int) -> None:
    """What every receiver will check of each operation."""
    if len(operations) + texts > MAX_OPERATIONS:
        raise TransactionTooLarge(
            f"{len(operations)} operations in one transaction, at most {MAX_OPERATIONS}: split it"
        )
    for operation in operations:
        if not is_valid(operation):
            place = f"{operation.document}, path {operation.path.hex()}"
            raise InvalidValue(f"{place}: what was written is not valid there")


def _check_texts(
    shard: Shard,
    session: int,
    texts: Sequence[tuple[tuple[str, bytes], tuple[TextEdit, ...]]],
    size: int,
) -> None:
    """Make edits of texts on copies, to learn whether they are refused, and whether all of the
    transaction (`size` bytes besides) fits into one frame.

    pycrdt cannot take an edit back, so where several texts are edited, only the first edit may
    still fail when it is made; it has its own bound, for which there is room.
    """
    for (document, path), edits in texts:
        state = shard.text(document, path)
        copy = TextState() if state is None else TextState.load(state.encode())
        size += operations_bytes([Operation(document, path, copy.edit(session, edits))])
    if size > _MAX_TRANSACTION_BYTES:
        raise TransactionTooLarge(
            f"a transaction of about {size} bytes, at most {_MAX_TRANSACTION_BYTES}: split it"
        )
