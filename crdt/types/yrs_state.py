"""What a Text and a Sequence have in common: a yrs document behind a strict gate.

The order of concurrent insertions is YATA's (Nicolaescu, Jahns, Derntl, Klamma: "Near Real-Time
Peer-to-Peer Shared Editing on Extensible Data Types", GROUP 2016), as yrs implements it. An
operation is a yrs v1 update of one session; `crdt.types.yrs_check` says which ones take effect.

pycrdt cannot roll back and, should it ever panic, leaves its document in an unknown condition. So
a state keeps the last encoding of the document and the operations since, and rebuilds from them.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Generic, Self, TypeVar

from pycrdt import Array, Assoc, Doc, StickyIndex, Text, TransactionEvent

from crdt.errors import CodecError, InvalidValue, OutOfBounds
from crdt.limits import MAX_TEXT_UPDATE_BYTES
from crdt.types.cursor import Cursor
from crdt.types.yrs import (
    EMPTY_UPDATE,
    MAX_CLOCK,
    MAX_SESSION,
    MAX_SNAPSHOT_BYTES,
    MAX_UPDATE_ITEMS,
    MAX_UPDATE_UNITS,
    ROOT,
    Id,
    ParsedUpdate,
    Reader,
    parse_update,
)
from crdt.types.yrs_check import (
    Facts,
    Known,
    check_operation,
    check_snapshot,
    compatible,
    decode_clocks,
    decode_halves,
    encode_halves,
    joined_clocks,
    numbers,
)

R = TypeVar("R", Text, Array[Any])

MAX_STATE_BYTES = 1 << 23
"""A writer refuses to go on in a state that, encoded with its history, is larger than this."""
MAX_INSERTED_BYTES = MAX_TEXT_UPDATE_BYTES // 2
"""Bytes that one operation may insert; the rest of an update is room for ids."""
_LOG_BYTES = 1 << 14
_LOG_ENTRY_BYTES = 64  # what an update costs in memory besides its bytes


class YrsState(ABC, Generic[R]):
    """One text or sequence with its history, as one replica has it. Not thread-safe."""

    __slots__ = (
        "_base", "_doc", "_encoded", "_known", "_log", "_log_bytes", "_root", "_session",
        "_subscription", "_updates",
    )  # fmt: skip

    infos: ClassVar[frozenset[int]]
    """What its updates may hold (`crdt.types.yrs`)."""
    root_type: ClassVar[Any]
    """pycrdt's class for it."""
    _doc: Doc[Any]
    _root: R

    def __init__(self) -> None:
        self._known = Known()
        self._base = EMPTY_UPDATE
        self._log: list[bytes] = []
        self._log_bytes = 0
        self._encoded: bytes | None = None
        self._updates: list[bytes] = []
        self._subscription: Any = None
        self._rebuild(0)

    @classmethod
    def load(cls, data: bytes) -> Self:
        """The state an `encode` wrote. Raises CodecError if it is not a complete, valid one."""
        state = cls()
        state.merge(data)
        return state

    def copy(self) -> Self:
        """The same state, to be changed without this one."""
        other = type(self)()
        other._known = self._known.copy()
        other._base, other._log, other._log_bytes = self._base, self._log.copy(), self._log_bytes
        other._rebuild(self._session)
        return other

    @abstractmethod
    def __len__(self) -> int:
        """How many positions there are: characters of a text, slots of a sequence."""

    @abstractmethod
    def content(self) -> bytes:
        """What it shows, in the one form that equal states have; b"" if nothing."""

    @abstractmethod
    def edit(self, session: int, edits: Sequence[Any]) -> bytes:
        """Perform the edits, each on what the ones before it left, and return them as one operation
        of `session` (`EMPTY_UPDATE` if they change nothing).

        Raises OutOfBounds for a position outside, and if the operation, the state or the session's
        clock would become too large; InvalidValue for text that is not Unicode (lone surrogates).
        Then nothing has changed.
        """

    @abstractmethod
    def _changed(self, facts: Facts) -> None:
        """Called when an operation was applied that `edit` did not make."""

    @abstractmethod
    def _merged(self, parsed: ParsedUpdate) -> None:
        """Called when another state was joined: anything may have changed."""

    def apply(self, session: int, update: bytes) -> bool:
        """Apply an operation of `session`. False: it is void, nothing changed.

        Operations of one session come in their order, and after all that their author had seen.
        Whether one is void depends, for honest authors, on nothing but the operations before it.
        """
        try:
            facts = check_operation(parse_update(update, self.infos), session, self._known)
        except CodecError:
            return False
        if update != EMPTY_UPDATE:
            if not self._feed(update):
                return False
            self._take(session, update, facts)
            self._changed(facts)
        return True

    def encode(self) -> bytes:
        """The whole state: a yrs v1 update, and behind it the table of halves (see yrs_check).

        States of equal operations show the same, but have not always equal encodings. Costs nothing
        while nothing changes.
        """
        if self._encoded is None:
            if self._log:
                self._rebase()
            self._encoded = self._base + encode_halves(self._known.halves)
        return self._encoded

    def merge(self, data: bytes) -> bool:
        """Join another replica's `encode()`; True if that changed anything here.

        Idempotent, commutative, associative. Raises CodecError, with nothing changed, for what is
        not a complete valid state or contradicts this one.
        """
        if data == self.encode():
            return False
        parsed = parse_update(data, self.infos, MAX_SNAPSHOT_BYTES, trailer=True)
        theirs = check_snapshot(parsed, decode_halves(data, parsed.end))
        if not compatible(self._known, theirs):
            raise CodecError("the state contradicts this one: a session's text differs")
        joined = joined_clocks(self._known, theirs)
        before = self.content()
        if not self._feed(data[: parsed.end]):
            raise CodecError("pycrdt refused the state")
        if decode_clocks(self._doc.get_state()) != joined:
            self._rebuild(self._session)
            raise CodecError("the state has parts that pycrdt could not place")
        grown = joined != self._known.clocks
        self._known.clocks = joined
        for client, halves in theirs.halves.items():
            self._known.halves.setdefault(client, set()).update(halves)
        self._rebase()
        self._merged(parsed)
        return grown or self.content() != before

    # ------------------------------------------------------------------------------------- cursors

    def cursor(self, index: int, before: bool) -> Cursor:
        """The place at `index` (from 0 up to the length), told by the neighbour before it or after
        it.
        """
        at = index - 1 if before else index
        return Cursor(before, self._id_of(at) if 0 <= at < len(self) else None)

    def position(self, cursor: Cursor) -> int:
        """Where a cursor's place is now. Raises InvalidValue if its neighbour was never here."""
        if cursor.of is None:
            return 0 if cursor.before else len(self)
        client, clock = cursor.of
        if clock >= self._known.clocks.get(client, 0) or self._known.cuts_pair(client, clock + 1):
            raise InvalidValue(
                f"{cursor} is of another field, or of something that has not arrived here: get a "
                "new one with .cursor(…)"
            )
        behind = self._behind(cursor.of)
        return behind - 1 if self._is_shown(cursor.of) and not cursor.before else behind

    def _id_of(self, index: int) -> Id:
        """The id of what is at an index: of the last clock it takes."""
        found = Reader(StickyIndex.new(self._root, index + 1, Assoc.BEFORE).encode(), 1)
        return found.number(MAX_SESSION), found.number(MAX_CLOCK)

    def _behind(self, of: Id) -> int:
        """The index right behind an id that exists, or where that was."""
        return self._sticky(of, b"\x41")

    def _is_shown(self, of: Id) -> bool:
        return self._sticky(of, b"\x41") != self._sticky(of, b"\x00")

    def _sticky(self, of: Id, side: bytes) -> int:
        data = b"\x00" + numbers(*of) + side
        return StickyIndex.decode(data, self._root).get_index()

    # ------------------------------------------------------------------------------------- writing

    def _check_room(self, session: int, inserted: int) -> None:
        if inserted > MAX_INSERTED_BYTES:
            raise OutOfBounds(
                f"edit inserts {inserted} bytes, above {MAX_INSERTED_BYTES}: split it"
            )
        if self._known.clocks.get(session, 0) > MAX_CLOCK - MAX_UPDATE_UNITS:
            raise OutOfBounds(f"session {session} has written too much here; open a new session")
        if len(self._base) + self._log_bytes > MAX_STATE_BYTES:
            self._rebase()
            if len(self._base) > MAX_STATE_BYTES:
                raise OutOfBounds(
                    f"this field with its history takes {len(self._base)} bytes, above "
                    f"{MAX_STATE_BYTES}: go on in a new document"
                )

    def _write(self, session: int, steps: Sequence[Any], facts: Facts | None) -> bytes:
        """Perform steps and book them; `facts` of the operation they make, if they are plain.

        Whatever is raised, the state is as before.
        """
        if session != self._session:
            self._rebuild(session)
        try:
            update = self._perform(steps)
            if facts is None:
                facts = self._facts(session, update)
        except BaseException:
            self._rebuild(session)
            raise
        if update != EMPTY_UPDATE:
            self._take(session, update, facts)
        return update

    def _perform(self, steps: Sequence[Any]) -> bytes:
        """One pycrdt transaction, as an update. The caller rebuilds the document if this fails."""
        self._observe()
        updates = self._updates
        updates.clear()
        if len(steps) == 1:
            self._step(steps[0])
        else:
            with self._doc.transaction():
                for step in steps:
                    self._step(step)
        update = updates[0] if updates else EMPTY_UPDATE
        if len(update) > MAX_TEXT_UPDATE_BYTES:
            raise OutOfBounds(
                f"edit of {len(update)} bytes, above {MAX_TEXT_UPDATE_BYTES}: split it"
            )
        return update

    def _observe(self) -> None:
        """Subscribe to the document's updates, from one edit to the next as long as nothing else
        is done with it: every other transaction, reads included, would pay for it.
        """
        if self._subscription is None:
            take = self._updates.append  # nothing of this object: it could never be freed

            def caught(event: TransactionEvent) -> None:
                take(event.update)

            self._subscription = self._doc.observe(caught)

    def _unobserve(self) -> None:
        if self._subscription is not None:
            self._doc.unobserve(self._subscription)
            self._subscription = None
            self._updates.clear()

    def __del__(self) -> None:
        # A document with a subscription left would never be freed.
        if getattr(self, "_subscription", None) is not None:
            self._unobserve()

    @abstractmethod
    def _step(self, step: Any) -> None:
        """One step of an edit, on the pycrdt document."""

    def _facts(self, session: int, update: bytes) -> Facts:
        """What an own operation adds, as everybody else will find it in its bytes."""
        parsed = parse_update(update, self.infos)
        if parsed.sections and len(parsed.sections[0].items) > MAX_UPDATE_ITEMS:
            raise OutOfBounds(f"edit adds more than {MAX_UPDATE_ITEMS} pieces: split it")
        return check_operation(parsed, session, self._known)

    def _feed(self, update: bytes) -> bool:
        """Let pycrdt apply checked bytes. False: it refused or panicked, and nothing changed."""
        self._unobserve()
        try:
            self._doc.apply_update(update)
        except BaseException as error:
            self._rebuild(self._session)
            # A Rust panic is no Exception and its class cannot be imported.
            panic = type(error).__name__ == "PanicException"
            if panic or isinstance(error, ValueError | RuntimeError):
                return False
            raise
        return True

    def _take(self, session: int, update: bytes, facts: Facts) -> None:
        """Book an operation that the document has."""
        self._known.add(session, facts)
        self._log.append(update)
        self._log_bytes += len(update) + _LOG_ENTRY_BYTES
        self._encoded = None
        if self._log_bytes > max(_LOG_BYTES, 2 * len(self._base)):
            self._rebase()

    def _rebase(self) -> None:
        self._unobserve()
        self._base = self._doc.get_update()
        self._log.clear()
        self._log_bytes = 0
        self._encoded = None

    def _rebuild(self, session: int) -> None:
        """A new document that writes as `session`, from what is known to be good."""
        self._unobserve()
        self._doc, self._root = self._made(session)
        self._session = session

    def _made(self, session: int) -> tuple[Doc[Any], R]:
        """A document of this state that writes as `session`."""
        doc: Doc[Any] = Doc(client_id=session, guid=ROOT)
        root = doc.get(ROOT, type=self.root_type)
        with doc.transaction():
            for update in (self._base, *self._log):
                doc.apply_update(update)
        return doc, root
