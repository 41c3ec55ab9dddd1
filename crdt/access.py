"""What a document reads from and writes to: a live view of a shard, or one transaction over it."""

from collections.abc import Iterator, Sequence
from typing import NoReturn, Protocol

from crdt.errors import ReadOnly
from crdt.lattice import Entry, Shard
from crdt.operation import Removal
from crdt.overlay import Overlay, commit
from crdt.types.text import TextEdit

__all__ = ["Access", "Entry", "Overlay", "ShardView", "commit"]


class Access(Protocol):
    """Reads, and if `writable` writes, of the entries and texts of one shard's documents.

    Guarantees: what `entries` and `text` return reflects every earlier write through the same
    object; nothing mutable is handed out. Not guaranteed: an order of `under`.
    """

    @property
    def session(self) -> int:
        """The session in whose name writes happen; 0 on a view."""

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

    def write(
        self, document: str, path: bytes, payload: bytes | None, removals: Sequence[Removal] = ()
    ) -> None:
        """One operation: remove, then assign `payload` at `path` (None: only remove)."""

    def replace(self, document: str, path: bytes, payload: bytes) -> None:
        """One operation: `payload` in the place of all that is live at exactly this path."""

    def edit_text(self, document: str, path: bytes, edit: TextEdit) -> None:
        """Record one edit of a Text field. Positions are characters of what `text` returns now."""

    def removal(
        self, document: str, path: bytes, *, prefix: bool = False, own: bool = False
    ) -> Removal | None:
        """The removal of what is live at the path (or under it, or only of our own there); None:
        nothing is.
        """

    def stamp(self, greatest: int = 0) -> int:
        """A stamp of the writer's clock, above `greatest`."""


class ShardView:
    """Live, read-only access: every read sees the shard as it is at that moment."""

    __slots__ = ("_shard", "entries", "last_entries", "under")

    session = 0
    writable = False

    def __init__(self, shard: Shard) -> None:
        self._shard = shard
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

    def write(self, document: str, *_: object, **__: object) -> NoReturn:
        self._refuse(document)

    def replace(self, document: str, *_: object, **__: object) -> NoReturn:
        self._refuse(document)

    def edit_text(self, document: str, *_: object, **__: object) -> NoReturn:
        self._refuse(document)

    def removal(self, document: str, *_: object, **__: object) -> NoReturn:
        self._refuse(document)

    def stamp(self, *_: object, **__: object) -> NoReturn:
        raise ReadOnly("this document is a read-only view; write inside `with replica.edit(…)`")

    def _refuse(self, document: str) -> NoReturn:
        raise ReadOnly(f"{document} is a read-only view; write inside `with replica.edit(…)`")
