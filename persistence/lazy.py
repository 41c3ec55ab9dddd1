"""A shard whose content is read when it is first asked for.

What others are told of a shard (floor, frontier, heads, digest) stands at the two ends of its
snapshot and costs nothing to read; its entries and texts cost nearly all of an opening. So they
wait until somebody reads or changes one of them, or until a thread has read them for nobody.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final

from crdt.lattice import Shard
from crdt.snapshot import SnapshotHead

_CONTENT: Final = ("_store", "_texts", "_documents")


class Unread:
    """What a shard will hold, read once, by whichever thread asks first; others wait for it."""

    def __init__(self, read: Callable[[], Shard]) -> None:
        self._read = read
        self._lock = threading.Lock()
        self._shard: Shard | None = None

    def shard(self) -> Shard:
        """It, as a shard of its own, which belongs to who calls `LazyShard.load`. In any thread.

        Raises what `read` raises, each time.
        """
        with self._lock:
            if self._shard is None:
                self._shard = self._read()
            return self._shard


class LazyShard(Shard):
    """A shard that knows what it is and has not read what it holds: a plain `Shard` from then on.

    `read` gives a shard with everything that the head promises, and proves it. Whatever touches an
    entry or a text of this one waits for that, and raises what it raises.
    """

    def __init__(self, digest_key: bytes, head: SnapshotHead, read: Callable[[], Shard]) -> None:
        super().__init__(digest_key)
        for name in _CONTENT:
            delattr(self, name)
        self.floor = head.floor
        self.frontier = dict(head.frontier)
        self.heads = dict(head.heads)
        self.unread = Unread(read)
        self._digest = head.digest

    def __repr__(self) -> str:
        return f"<LazyShard, not read yet, {len(self.frontier)} sessions>"

    def __getattr__(self, name: str) -> Any:
        if name not in _CONTENT:
            raise AttributeError(f"a shard has no {name}")
        self.load()
        return getattr(self, name)

    def digest(self) -> bytes:
        """What the snapshot says. Whatever would change it reads the content first."""
        return self._digest

    def load(self) -> None:
        """Read what is in it, or take what a thread has read. On the thread that uses the shard."""
        found = self.unread.shard()
        self._store, self._texts, self._documents = found._store, found._texts, found._documents
        del self.unread, self._digest
        # Last: nothing is looked up in a roundabout way any more.
        self.__class__ = Shard  # type: ignore[assignment]
