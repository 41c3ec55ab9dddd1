"""Text that several sessions edit at once: pycrdt (yrs) behind a strict gate.

The order of concurrent insertions is YATA's (Nicolaescu, Jahns, Derntl, Klamma: "Near Real-Time
Peer-to-Peer Shared Editing on Extensible Data Types", GROUP 2016), as yrs implements it. An
operation is a yrs v1 update of one session; `crdt.types.yrs_check` says which ones take effect.

pycrdt cannot roll back and, should it ever panic, leaves its document in an unknown condition. So
a `TextState` keeps the last encoding of the document and the operations since, and rebuilds from
them. Positions are in Unicode code points, as in Python; pycrdt counts UTF-8 bytes and clocks count
UTF-16 units, which this module hides.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pycrdt import Doc, Text, TransactionEvent

from crdt.errors import CodecError, InvalidValue, OutOfBounds
from crdt.limits import MAX_TEXT_UPDATE_BYTES
from crdt.types.yrs import (
    EMPTY_UPDATE,
    MAX_CLOCK,
    MAX_SNAPSHOT_BYTES,
    MAX_UPDATE_ITEMS,
    MAX_UPDATE_UNITS,
    ROOT,
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
)

MAX_TEXT_BYTES = 1 << 23
"""A writer refuses to go on in a text that, encoded with its history, is larger than this."""
MAX_INSERTED_BYTES = MAX_TEXT_UPDATE_BYTES // 2
"""UTF-8 bytes that one operation may insert; the rest of an update is room for ids."""
_LOG_BYTES = 1 << 14
_LOG_ENTRY_BYTES = 64  # what an update costs in memory besides its bytes


@dataclass(frozen=True, slots=True)
class Insert:
    """Put `text` before the code point at `index` (its length: at the end)."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove `length` code points from `index` on."""

    index: int
    length: int


TextEdit = Insert | Delete


class _Step(NamedTuple):
    """A `TextEdit` in pycrdt's terms: UTF-8 bytes."""

    start: int
    stop: int  # == start: insert `text`
    text: str


class TextState:
    """One text with its history, as one replica has it. Not thread-safe."""

    __slots__ = (
        "_base", "_cursor", "_doc", "_known", "_length", "_log", "_log_bytes", "_session", "_text",
        "_value", "_wide",
    )  # fmt: skip

    def __init__(self) -> None:
        self._known = Known()
        self._base = EMPTY_UPDATE
        self._log: list[bytes] = []
        self._log_bytes = 0
        self._wide = False  # has there ever been a character that is not ASCII?
        self._value: str | None = ""
        self._length: int | None = 0  # in code points
        self._cursor = (0, 0)  # a position in the value: code points, UTF-8 bytes
        self._rebuild(0)

    @classmethod
    def load(cls, data: bytes) -> "TextState":
        """The state an `encode` wrote. Raises CodecError if it is not a complete, valid one."""
        state = cls()
        state.merge(data)
        return state

    def value(self) -> str:
        """The text as it reads now."""
        if self._value is None:
            self._value = str(self._text)
            self._length = len(self._value)
            self._cursor = (0, 0)
        return self._value

    def apply(self, session: int, update: bytes) -> bool:
        """Applies an operation of `session`. False: it is void, nothing changed.

        Operations of one session come in their order, and after all that their author had seen.
        Whether one is void depends, for honest authors, on nothing but the operations before it.
        """
        try:
            facts = check_operation(parse_update(update), session, self._known)
        except CodecError:
            return False
        if update != EMPTY_UPDATE:
            if not self._feed(update):
                return False
            self._take(session, update, facts)
            self._value = None
            if self._length is not None:
                self._length = None if facts.deletes else self._length + len(facts.text)
        return True

    def edit(self, session: int, edits: Sequence[TextEdit]) -> bytes:
        """Performs the edits, each on what the ones before it left, and returns them as one
        operation of `session` (`EMPTY_UPDATE` if they change nothing).

        Raises OutOfBounds for a position outside the text, and if the operation, the text or the
        session's clock would become too large; InvalidValue for text that is not Unicode (lone
        surrogates). Then nothing has changed.
        """
        plan = self._plan(edits)
        if not plan.steps:
            return EMPTY_UPDATE
        self._check_room(session, plan.steps)
        if session != self._session:
            self._rebuild(session)
        try:
            update = self._perform(plan.steps)
            facts = self._facts(session, plan.steps, update)
        except BaseException:
            self._rebuild(session)
            raise
        self._take(session, update, facts)
        self._length, self._value, self._cursor = plan.length, plan.value, plan.cursor
        return update

    def encode(self) -> bytes:
        """The whole state: a yrs v1 update, and behind it the table of halves (see yrs_check).

        States of equal operations have equal values, but not always equal encodings.
        """
        if self._log:
            self._rebase()
        return self._base + encode_halves(self._known.halves)

    def merge(self, data: bytes) -> bool:
        """Joins another replica's `encode()`; True if that changed anything here.

        Idempotent, commutative, associative. Raises CodecError, with nothing changed, for what is
        not a complete valid state or contradicts this one.
        """
        if data == self.encode():
            return False
        parsed = parse_update(data, MAX_SNAPSHOT_BYTES, trailer=True)
        theirs = check_snapshot(parsed, decode_halves(data, parsed.end))
        if not compatible(self._known, theirs):
            raise CodecError("the state contradicts this one: a session's text differs")
        joined = joined_clocks(self._known, theirs)
        before = self.value()
        if not self._feed(data[: parsed.end]):
            raise CodecError("pycrdt refused the state")
        if decode_clocks(self._doc.get_state()) != joined:
            self._rebuild(self._session)
            raise CodecError("the state has parts that pycrdt could not place")
        grown = joined != self._known.clocks
        self._known.clocks = joined
        for client, halves in theirs.halves.items():
            self._known.halves.setdefault(client, set()).update(halves)
        self._value = None
        self._wide = not self.value().isascii()
        self._rebase()
        return grown or self.value() != before

    def _plan(self, edits: Sequence[TextEdit]) -> "_Plan":
        """Checks the edits and puts them in pycrdt's terms. Nothing is changed.

        While all text is ASCII, code points and bytes count the same and the value is not needed.
        """
        wide = self._wide
        for edit in edits:
            if isinstance(edit, Insert) and not edit.text.isascii():
                _size(edit.text)
                wide = True
        value = self.value() if wide else None
        length = self._known_length()
        at, start = self._cursor
        steps = []
        for edit in edits:
            index = edit.index
            inserted = edit.text if isinstance(edit, Insert) else ""
            removed = 0 if isinstance(edit, Insert) else edit.length
            if not (0 <= index <= length and 0 <= removed <= length - index):
                raise OutOfBounds(f"{edit} is outside a text of length {length}")
            if value is None:
                start = at = index
                stop = start + removed
            else:
                away = _size(value[min(at, index) : max(at, index)])
                start += away if index > at else -away
                at = index
                stop = start + _size(value[index : index + removed])
            if not inserted and not removed:
                continue
            steps.append(_Step(start, stop, inserted))
            length += len(inserted) - removed
            if value is not None:
                value = value[:index] + inserted + value[index + removed :]
                at += len(inserted)
                start += _size(inserted)
        return _Plan(steps, length, value, (at, start) if value is not None else (0, 0))

    def _known_length(self) -> int:
        if self._length is None:
            self._length = len(self.value()) if self._wide else len(self._text)
        return self._length

    def _check_room(self, session: int, steps: list[_Step]) -> None:
        inserted = sum([len(step.text) for step in steps])
        if inserted * 4 > MAX_INSERTED_BYTES:
            inserted = sum(_size(step.text) for step in steps)
            if inserted > MAX_INSERTED_BYTES:
                raise OutOfBounds(
                    f"edit inserts {inserted} bytes, above {MAX_INSERTED_BYTES}: split it"
                )
        if self._known.clocks.get(session, 0) > MAX_CLOCK - MAX_UPDATE_UNITS:
            raise OutOfBounds(f"session {session} has written too much here; open a new session")
        if len(self._base) + self._log_bytes > MAX_TEXT_BYTES:
            self._rebase()
            if len(self._base) > MAX_TEXT_BYTES:
                raise OutOfBounds(
                    f"text with its history takes {len(self._base)} bytes, above {MAX_TEXT_BYTES}:"
                    " go on in a new document"
                )

    def _perform(self, steps: list[_Step]) -> bytes:
        """One pycrdt transaction, as an update. The caller rebuilds the document if this fails.

        The subscription ends at once: a document with a subscription left is never freed, and
        every transaction, reads included, would pay for it.
        """
        updates: list[bytes] = []

        def caught(event: TransactionEvent) -> None:
            updates.append(event.update)

        subscription = self._doc.observe(caught)
        try:
            if len(steps) == 1:
                self._step(steps[0])
            else:
                with self._doc.transaction():
                    for step in steps:
                        self._step(step)
        finally:
            self._doc.unobserve(subscription)
        (update,) = updates
        if len(update) > MAX_TEXT_UPDATE_BYTES:
            raise OutOfBounds(
                f"edit of {len(update)} bytes, above {MAX_TEXT_UPDATE_BYTES}: split it"
            )
        return update

    def _step(self, step: _Step) -> None:
        start, stop, text = step
        if text:
            self._text.insert(start, text)
        else:
            del self._text[start:stop]

    def _facts(self, session: int, steps: list[_Step], update: bytes) -> Facts:
        """What an own operation adds, as everybody else will find it in its bytes.

        One step without characters of two units tells it by itself.
        """
        text = steps[0].text
        if len(steps) == 1 and (text.isascii() or max(text) <= "\uffff"):
            return Facts(
                self._known.clocks.get(session, 0) + len(text), frozenset(), text, not text
            )
        parsed = parse_update(update)
        if parsed.sections and len(parsed.sections[0].items) > MAX_UPDATE_ITEMS:
            raise OutOfBounds(f"edit adds more than {MAX_UPDATE_ITEMS} pieces of text: split it")
        return check_operation(parsed, session, self._known)

    def _feed(self, update: bytes) -> bool:
        """Lets pycrdt apply checked bytes. False: it refused or panicked, and nothing changed."""
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
        """Books an operation that the document has."""
        self._known.add(session, facts)
        self._wide = self._wide or not facts.text.isascii()
        self._log.append(update)
        self._log_bytes += len(update) + _LOG_ENTRY_BYTES
        if self._log_bytes > max(_LOG_BYTES, 2 * len(self._base)):
            self._rebase()

    def _rebase(self) -> None:
        self._base = self._doc.get_update()
        self._log.clear()
        self._log_bytes = 0

    def _rebuild(self, session: int) -> None:
        """A new document that writes as `session`, from what is known to be good."""
        doc: Doc[Text] = Doc(client_id=session, guid=ROOT)
        text = doc.get(ROOT, type=Text)
        with doc.transaction():
            for update in (self._base, *self._log):
                doc.apply_update(update)
        self._doc, self._text, self._session = doc, text, session


class _Plan(NamedTuple):
    """Steps to take, and what holds after them."""

    steps: list[_Step]
    length: int
    value: str | None
    cursor: tuple[int, int]


def _size(text: str) -> int:
    """UTF-8 bytes of a text."""
    if text.isascii():
        return len(text)
    try:
        return len(text.encode())
    except UnicodeEncodeError as error:
        raise InvalidValue(f"text has a lone surrogate at {error.start}: not Unicode") from None
