"""Drafts: fields of yrs as one transaction sees them, with its edits that are not performed yet.

pycrdt cannot roll back, so an edit's body only records what it does to a Text or Sequence; `commit`
performs it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from crdt.errors import EditMisuse, InvalidValue, OutOfBounds
from crdt.texts import SharedEdit, SharedState, new_state
from crdt.types.cursor import Cursor
from crdt.types.formats import Spans
from crdt.types.sequence_state import InsertSlots, SequenceEdit, SequenceState
from crdt.types.slots import Slots
from crdt.types.text import Delete, Insert, SetFormat, TextEdit, TextState


class Draft(ABC):
    """One field, and the edits made so far. `state` is the shard's and stays as it is."""

    __slots__ = ("edits", "length", "state")

    def __init__(self, state: SharedState) -> None:
        self.state: SharedState = state
        self.edits: list[Any] = []
        self.length = len(state)

    def record(self, document: str, edit: SharedEdit) -> None:
        """One more edit. Raises OutOfBounds or InvalidValue; then nothing is recorded."""
        index, removed, inserted = edit.index, 0, 0
        if isinstance(edit, Insert):
            inserted = len(edit.text)
            _check_unicode(document, edit.text)
        elif isinstance(edit, InsertSlots):
            inserted = len(edit.slots)
        else:
            removed = edit.length
        if not 0 <= index <= index + removed <= self.length:
            raise OutOfBounds(
                f"{document}: positions {index} to {index + removed} are outside a text of "
                f"{self.length}"
            )
        if not removed and not inserted:
            return
        self._perform(edit)
        self.edits.append(edit)
        if not isinstance(edit, SetFormat):
            self.length += inserted - removed

    @abstractmethod
    def _perform(self, edit: Any) -> None:
        """What the edit does to what is shown here."""

    def cursor(self, document: str, index: int, before: bool) -> Cursor:
        """The place at an index. Raises OutOfBounds, or EditMisuse after an edit."""
        if self.edits:
            raise EditMisuse(
                f"{document}: what this edit has written has no lasting place before it is "
                "committed; take the cursor before writing, or from a view afterwards"
            )
        if not 0 <= index <= self.length:
            raise OutOfBounds(f"{document}: a cursor at {index}, outside 0 to {self.length}")
        return self.state.cursor(index, before)

    def position(self, cursor: Cursor) -> int:
        """Where the cursor's place is after the edits."""
        at = self.state.position(cursor)
        for edit in self.edits:
            if isinstance(edit, Delete):
                at = max(edit.index, at - edit.length) if at > edit.index else at
            elif not isinstance(edit, SetFormat):
                size = len(edit.text if isinstance(edit, Insert) else edit.slots)
                if at > edit.index or (at == edit.index and not cursor.before):
                    at += size
        return at


class TextDraft(Draft):
    """A text. Its content is made when it is asked for: appending does not need it."""

    __slots__ = ("_done", "_spans", "_value")

    state: TextState

    def __init__(self, state: TextState) -> None:
        super().__init__(state)
        self._value: str | None = None
        self._done = 0  # so many of the edits are in the value
        self._spans: Spans | None = None

    @property
    def value(self) -> str:
        """The text after the edits."""
        value = self.state.value() if self._value is None else self._value
        for edit in self.edits[self._done :]:
            index = edit.index
            if isinstance(edit, Insert):
                value = value[:index] + edit.text + value[index:]
            elif isinstance(edit, Delete):
                value = value[:index] + value[index + edit.length :]
        self._value, self._done = value, len(self.edits)
        return value

    def spans(self) -> Spans:
        """The text with its formats after the edits, which are performed on a copy to find out."""
        if not self.edits:
            return self.state.spans()
        if self._spans is None:
            copy = self.state.copy()
            copy.edit(0, self.edits)
            self._spans = copy.spans()
        return [(text, dict(attributes)) for text, attributes in self._spans]

    def _perform(self, edit: TextEdit) -> None:
        del edit
        self._spans = None


class SequenceDraft(Draft):
    """A sequence."""

    __slots__ = ("_slots",)

    state: SequenceState

    def __init__(self, state: SequenceState) -> None:
        super().__init__(state)
        self._slots: Slots | None = None

    @property
    def slots(self) -> Slots:
        """All there is after the edits. Not to be changed."""
        return self.state.slots() if self._slots is None else self._slots

    def _perform(self, edit: SequenceEdit) -> None:
        if self._slots is None:
            self._slots = self.state.slots().copy()
        if isinstance(edit, InsertSlots):
            self._slots.replace(edit.index, edit.index, edit.slots)
        else:
            self._slots.replace(edit.index, edit.index + edit.length, ())


def draft_of(path: bytes, state: SharedState | None) -> Draft:
    """A draft without edits of what lies at a path; `state` is None while nobody has written."""
    state = new_state(path) if state is None else state
    return SequenceDraft(state) if isinstance(state, SequenceState) else TextDraft(state)


def as_text(draft: Draft) -> TextDraft:
    """The draft of what is a text, as its path says."""
    assert isinstance(draft, TextDraft), draft
    return draft


def as_sequence(draft: Draft) -> SequenceDraft:
    """The draft of what is a sequence, as its path says."""
    assert isinstance(draft, SequenceDraft), draft
    return draft


def _check_unicode(document: str, piece: str) -> None:
    if not piece.isascii():
        try:
            piece.encode()
        except UnicodeEncodeError as error:
            raise InvalidValue(
                f"{document}: a text takes no lone surrogates ({error.reason})"
            ) from error
