"""The texts and sequences of a shard: which there are, and their share of its digest."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final

from crdt.digest import MODULUS, EntryHash
from crdt.paths import TypeCode, leaf_code
from crdt.types.sequence_state import SequenceEdit, SequenceState
from crdt.types.text import TextEdit, TextState

SharedState = TextState | SequenceState
SharedEdit = TextEdit | SequenceEdit

_EMPTY: Final[Mapping[bytes, Any]] = {}


def new_state(path: bytes) -> SharedState:
    """An empty state for what a path says lies there."""
    return SequenceState() if leaf_code(path) is TypeCode.SEQUENCE else TextState()


class TextStore:
    """Texts and sequences by document and path, each made when the first operation for it arrives,
    and kept until its document begins a new generation.
    """

    __slots__ = ("_counted", "_dirty", "_edited", "_hash", "_sum", "_texts")

    def __init__(self, digest_key: bytes) -> None:
        self._texts: dict[str, dict[bytes, SharedState]] = {}
        self._hash = EntryHash(digest_key)
        self._sum = 0
        self._counted: dict[tuple[str, bytes], int] = {}
        self._dirty: dict[tuple[str, bytes], None] = {}
        # Own edits: the update, and the state that has it already, until it is applied as an
        # operation.
        self._edited: dict[tuple[str, bytes], tuple[bytes, SharedState]] = {}

    def get(self, document: str, path: bytes) -> SharedState | None:
        """What lies at a path, None if nobody has written there."""
        texts = self._texts.get(document)
        return None if texts is None else texts.get(path)

    def paths(self, document: str) -> tuple[bytes, ...]:
        """Where the document has texts and sequences, empty ones included."""
        return tuple(self._texts.get(document, ()))

    def documents(self) -> Iterator[str]:
        """Documents that have a text or sequence, shown or empty."""
        return iter(self._texts)

    def shows(self, document: str) -> bool:
        """Whether any of the document's has visible content."""
        return any(len(text) for text in self._texts.get(document, _EMPTY).values())

    def edit(
        self, document: str, path: bytes, session: int, edits: Sequence[Any], *, fresh: bool = False
    ) -> bytes:
        """Perform own edits and return the update, which must be applied next. `fresh`: on an empty
        state, which takes the place of the one there is when the update is applied.

        What it raises is the state's `edit`'s; then nothing was changed.
        """
        text = None if fresh else self.get(document, path)
        if text is None:
            text = new_state(path)
        update = text.edit(session, edits)
        self._edited[document, path] = (update, text)
        return update

    def apply(self, document: str, path: bytes, session: int, update: bytes) -> bool:
        """Apply one session's update. False: it is not valid, nothing was changed."""
        edited = self._edited.pop((document, path), None) if self._edited else None
        if edited is not None and edited[0] is update:
            text = edited[1]
        else:
            found = self.get(document, path)
            text = new_state(path) if found is None else found
            if not text.apply(session, update):
                return False
        self._texts.setdefault(document, {})[path] = text
        self._dirty[document, path] = None
        return True

    def drop(self, document: str) -> None:
        """Forget all of a document's."""
        for path in self._texts.pop(document, _EMPTY):
            self._dirty[document, path] = None

    def encode(self) -> dict[str, dict[bytes, bytes]]:
        """Every state. Costs what changed since the last time, and one lookup each."""
        return {
            document: {path: text.encode() for path, text in texts.items()}
            for document, texts in self._texts.items()
        }

    def join(
        self, states: Mapping[str, Mapping[bytes, bytes]], afresh: Collection[str] = ()
    ) -> set[str]:
        """Merge others' states; returns the documents that changed by it. What is here of the
        documents `afresh` goes first. CodecError: nothing was changed.
        """
        merged: list[tuple[str, bytes, SharedState]] = []
        for document, fields in states.items():
            own = _EMPTY if document in afresh else self._texts.get(document, _EMPTY)
            for path, state in fields.items():
                mine = own.get(path)
                if mine is not None and mine.encode() == state:
                    continue
                # On a copy: the next of these may turn out to be damaged.
                text = new_state(path) if mine is None else mine.copy()
                if text.merge(state) or mine is None:
                    merged.append((document, path, text))
        for document in afresh:
            self.drop(document)
        for document, path, text in merged:
            self._texts.setdefault(document, {})[path] = text
            self._dirty[document, path] = None
        return {document for document, _, _ in merged}

    def sum(self) -> int:
        """The digest's sum over all of them; hashes only those that changed since it was last asked
        for.
        """
        for document, path in self._dirty:
            before = self._counted.pop((document, path), 0)
            now = self._contribution(document, path)
            self._sum = (self._sum - before + now) % MODULUS
            if now:
                self._counted[document, path] = now
        self._dirty.clear()
        return self._sum

    def document_sum(self, document: str) -> int:
        """The sum over one document's, computed afresh."""
        return sum(self._contribution(document, path) for path in self._texts.get(document, ()))

    def _contribution(self, document: str, path: bytes) -> int:
        text = self.get(document, path)
        return 0 if text is None else self._hash.text(document, path, text.content())
