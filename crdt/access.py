"""What a document reads from and writes to: a live view of a shard, or one transaction over it."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NoReturn, Protocol

from crdt.commit import commit
from crdt.drafts import draft_of
from crdt.errors import ReadOnly
from crdt.lattice import Entry, Shard
from crdt.operation import Removal
from crdt.overlay import Overlay
from crdt.texts import SharedEdit
from crdt.types.cursor import Cursor
from crdt.types.formats import Spans
from crdt.types.sequence_state import SequenceState
from crdt.types.slots import Slots

__all__ = ["Access", "Entry", "Overlay", "ShardView", "commit"]


class Access(Protocol):
    """Reads, and if `writable` writes, of the entries and texts of one shard's documents.

    Guarantees: what `entries` and `text` return reflects every earlier write through the same
    object; nothing mutable is handed out. Not guaranteed: an order of `under`.
    """

    @property
    def session(self) -> int:
        """The session in whose name writes happen; 0 where there are none."""

    @property
    def writable(self) -> bool:
        """Whether writes are accepted; if not they raise ReadOnly."""

    def entries(self, document: str, path: bytes) -> tuple[Entry, ...]:
        """Live entries at exactly this path, sorted by dot."""

    def under(self, document: str, prefix: bytes) -> Iterator[tuple[bytes, tuple[Entry, ...]]]:
        """Paths that start with `prefix` and hold live entries. Finish the iteration before
        writing.
        """

    def last_entries(self, document: str, path: bytes) -> tuple[Entry, ...]:
        """Of the live entries at exactly this path, each session's last one."""

    def text(self, document: str, path: bytes) -> str:
        """The visible content of a Text field; empty where nothing was written."""

    def text_paths(self, document: str) -> Iterable[bytes]:
        """Where the document has texts, empty ones and those that its class does not declare
        included.
        """

    def text_length(self, document: str, path: bytes) -> int:
        """The length of a Text in characters, of a Sequence in slots, without reading it."""

    def spans(self, document: str, path: bytes) -> Spans:
        """The content of a Text field in stretches of equal attributes."""

    def slots(self, document: str, path: bytes) -> Slots:
        """What a Sequence field holds. Not to be changed."""

    def cursor(self, document: str, path: bytes, index: int, before: bool) -> Cursor:
        """The place at an index of a Text (characters) or Sequence (slots), to be kept."""

    def position(self, document: str, path: bytes, cursor: Cursor) -> int:
        """Where a cursor's place is now. Raises InvalidValue for one of another field."""

    def write(
        self, document: str, path: bytes, payload: bytes | None, removals: Sequence[Removal] = ()
    ) -> None:
        """One operation: remove, then assign `payload` at `path` (None: only remove)."""

    def replace(
        self, document: str, path: bytes, payload: bytes, live: tuple[Entry, ...] | None = None
    ) -> None:
        """One operation: `payload` in the place of all that is live at exactly this path; `live`,
        if the caller has just read it.
        """

    def edit_text(self, document: str, path: bytes, edit: SharedEdit) -> None:
        """Record one edit of a Text or Sequence field. Positions are characters of what `text`, or
        slots of what `slots` returns now.
        """

    def removal(
        self, document: str, path: bytes, *, prefix: bool = False, own: bool = False
    ) -> Removal | None:
        """The removal of what is live at the path (or under it, or only of our own there); None:
        nothing is.
        """

    def retire(self, document: str) -> None:
        """Delete the document for good: all it holds is gone, and so is what others write to it
        without having seen this, whenever it arrives. What is written afterwards begins anew.
        """

    def stamp(self, greatest: int = 0) -> int:
        """A stamp of the writer's clock, above `greatest`."""


class ShardView:
    """Live, read-only access: every read sees the shard as it is at that moment.

    `session`: in whose name this replica writes, for what reads differ by (a BoundedCounter's
    rights); 0 for a reader that never writes.
    """

    __slots__ = ("_shard", "entries", "last_entries", "session", "under")

    writable = False

    def __init__(self, shard: Shard, session: int = 0) -> None:
        self._shard = shard
        self.session = session
        # The shard's own methods, without a call in between: reads of a field are the hottest path
        # there is.
        self.entries = shard.entries
        self.last_entries = shard.last_entries
        self.under = shard.under

    def __repr__(self) -> str:
        return f"<ShardView of {self._shard.entry_count} entries>"

    def text(self, document: str, path: bytes) -> str:
        state = self._shard.text(document, path)
        return "" if state is None else state.value()

    def text_length(self, document: str, path: bytes) -> int:
        state = self._shard.shared(document, path)
        return 0 if state is None else len(state)

    def spans(self, document: str, path: bytes) -> Spans:
        state = self._shard.text(document, path)
        return [] if state is None else state.spans()

    def slots(self, document: str, path: bytes) -> Slots:
        state = self._shard.shared(document, path)
        return state.slots() if isinstance(state, SequenceState) else Slots()

    def cursor(self, document: str, path: bytes, index: int, before: bool) -> Cursor:
        draft = draft_of(path, self._shard.shared(document, path))
        return draft.cursor(document, index, before)

    def position(self, document: str, path: bytes, cursor: Cursor) -> int:
        return draft_of(path, self._shard.shared(document, path)).position(cursor)

    def text_paths(self, document: str) -> Iterable[bytes]:
        return self._shard.text_paths(document)

    def write(self, document: str, *_: object, **__: object) -> NoReturn:
        self._refuse(document)

    def replace(self, document: str, *_: object, **__: object) -> NoReturn:
        self._refuse(document)

    def edit_text(self, document: str, *_: object, **__: object) -> NoReturn:
        self._refuse(document)

    def removal(self, document: str, *_: object, **__: object) -> NoReturn:
        self._refuse(document)

    def retire(self, document: str) -> NoReturn:
        self._refuse(document)

    def stamp(self, *_: object, **__: object) -> NoReturn:
        raise ReadOnly("this document is a read-only view; write inside `with replica.edit(…)`")

    def _refuse(self, document: str) -> NoReturn:
        raise ReadOnly(f"{document} is a read-only view; write inside `with replica.edit(…)`")
