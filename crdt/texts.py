"""The texts of a shard: which there are, and their share of its digest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from crdt.digest import MODULUS, EntryHash
from crdt.types.text import TextEdit, TextState


class TextStore:
    """Texts by document and path, each made when the first operation for it arrives, and kept from
    then on.
    """

    __slots__ = ("_counted", "_dirty", "_edited", "_hash", "_sum", "_texts")

    def __init__(self, digest_key: bytes) -> None:
        self._texts: dict[str, dict[bytes, TextState]] = {}
        self._hash = EntryHash(digest_key)
        self._sum = 0
        self._counted: dict[tuple[str, bytes], int] = {}
        self._dirty: dict[tuple[str, bytes], None] = {}
        # Updates of own edits that are in the text already, until they are applied as operations.
        self._edited: dict[tuple[str, bytes], bytes] = {}

    def get(self, document: str, path: bytes) -> TextState | None:
        """The text at a path, None if there is none."""
        texts = self._texts.get(document)
        return None if texts is None else texts.get(path)

    def documents(self) -> Iterator[str]:
        """Documents that have a text, shown or empty."""
        return iter(self._texts)

    def shows(self, document: str) -> bool:
        """Whether any of the document's texts has visible content."""
        return any(text.value() for text in self._texts.get(document, {}).values())

    def edit(self, document: str, path: bytes, session: int, edits: Sequence[TextEdit]) -> bytes:
        """Perform own edits and return the update, which must be applied next. What it raises is
        TextState.edit's; then nothing was changed.
        """
        text = self.get(document, path)
        if text is None:
            text = TextState()
        update = text.edit(session, edits)
        self._texts.setdefault(document, {})[path] = text
        self._edited[document, path] = update
        self._dirty[document, path] = None
        return update

    def apply(self, document: str, path: bytes, session: int, update: bytes) -> bool:
        """Apply one session's update. False: it is not valid, nothing was changed."""
        if self._edited and self._edited.get((document, path)) is update:
            del self._edited[document, path]
            return True
        text = self.get(document, path)
        known = text is not None
        if text is None:
            text = TextState()
        if not text.apply(session, update):
            return False
        if not known:
            self._texts.setdefault(document, {})[path] = text
        self._dirty[document, path] = None
        return True

    def encode(self) -> dict[str, dict[bytes, bytes]]:
        """Every text's state."""
        return {
            document: {path: text.encode() for path, text in texts.items()}
            for document, texts in self._texts.items()
        }

    def join(self, states: Mapping[str, Mapping[bytes, bytes]]) -> set[str]:
        """Merge others' states; returns the documents whose text changed. CodecError: nothing was
        changed.
        """
        merged: list[tuple[str, bytes, TextState]] = []
        for document, fields in states.items():
            for path, state in fields.items():
                mine = self.get(document, path)
                # On a copy: the next of these texts may turn out to be damaged.
                text = TextState() if mine is None else TextState.load(mine.encode())
                if text.merge(state) or mine is None:
                    merged.append((document, path, text))
        for document, path, text in merged:
            self._texts.setdefault(document, {})[path] = text
            self._dirty[document, path] = None
        return {document for document, _, _ in merged}

    def sum(self) -> int:
        """The digest's sum over all texts; hashes only those that changed since it was last asked
        for.
        """
        for document, path in self._dirty:
            now = self._contribution(document, path)
            self._sum = (self._sum - self._counted.get((document, path), 0) + now) % MODULUS
            self._counted[document, path] = now
        self._dirty.clear()
        return self._sum

    def document_sum(self, document: str) -> int:
        """The sum over one document's texts, computed afresh."""
        return sum(self._contribution(document, path) for path in self._texts.get(document, {}))

    def _contribution(self, document: str, path: bytes) -> int:
        return self._hash.text(document, path, self._texts[document][path].value())
