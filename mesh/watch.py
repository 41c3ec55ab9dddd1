"""Watching what changes: coalesced, bounded, and never in the replica's way.

A watcher holds at most one `Change` per document, the union of what happened to it since it was
last taken. So a reader that lags loses intermediate steps, not the fact that a document changed.
Beyond `limit` documents the oldest give way and one change of type `MISSED` says so first: read
what you need afresh.
"""

from __future__ import annotations

import asyncio
import functools
import weakref
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from crdt.codec import decode
from crdt.errors import CodecError
from crdt.operation import Transaction
from crdt.paths import parse_path

MISSED = "mesh.missed"
"""Type of the change that stands for all those a slow reader did not get."""
SNAPSHOT = "mesh.snapshot"
"""Type of changes that came as state, not as transactions; their author is not known."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Change:
    """What happened to one document since it was last taken.

    `fields` are wire names of top-level fields, empty where the whole document is concerned.
    `mine`: all of it was written by this session. `actor`, `session`, `type` and `stamp` are those
    of the latest transaction, preferring one that is not mine.
    """

    document: str
    fields: frozenset[str]
    actor: str
    session: int
    mine: bool
    type: str
    stamp: int

    def merged(self, later: Change) -> Change:
        """This and then `later`, as one change."""
        latest = self if later.mine and not self.mine else later
        # An empty set means the whole document, and stays that.
        fields = self.fields | later.fields if self.fields and later.fields else frozenset()
        return Change(
            self.document, fields, latest.actor, latest.session, self.mine and later.mine,
            latest.type, latest.stamp,
        )  # fmt: skip


@functools.lru_cache(maxsize=16_384)
def field_name(path: bytes) -> str:
    """The wire name of the top-level field a path lies in; empty for the whole document."""
    try:
        return str(decode(parse_path(path).components[0].key)) if path else ""
    except CodecError:
        return ""


def changes_of(transaction: Transaction, session: int, mine: bool) -> list[Change]:
    """One change per document that the transaction wrote to."""
    touched: dict[str, set[str]] = {}
    for operation in transaction.operations:
        if operation.payload is None and not operation.removals:
            if operation.generation:  # the document was deleted for good
                touched.setdefault(operation.document, set()).add("")
            continue  # or it is void, and touches nothing
        fields = touched.setdefault(operation.document, set())
        if operation.payload is not None:
            fields.add(field_name(operation.path))
        fields.update(field_name(removal.path) for removal in operation.removals)
    return [
        Change(
            document, frozenset() if "" in fields else frozenset(fields), transaction.actor,
            session, mine, transaction.type, transaction.stamp,
        )
        for document, fields in touched.items()
    ]  # fmt: skip


class Watcher(AsyncIterator[Change]):
    """An async iterator of changes; ends when the replica closes or `close` is called, and costs
    nothing any more once nobody holds it.
    """

    def __init__(self, hub: Watchers, prefix: str, limit: int) -> None:
        self._hub = hub
        self._prefix = prefix
        self._limit = limit
        self._pending: dict[str, Change] = {}
        self._missed = 0
        self._wake = asyncio.Event()
        self._closed = False

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{len(self._pending)} waiting"
        return f"<Watcher of {self._prefix or 'everything'}, {state}>"

    def wants(self, document: str) -> bool:
        """Whether this document is watched."""
        return document.startswith(self._prefix)

    def put(self, change: Change) -> None:
        """Add a change; never waits, never fails."""
        before = self._pending.pop(change.document, None)
        if before is not None:
            change = before.merged(change)
        elif len(self._pending) >= self._limit:
            del self._pending[next(iter(self._pending))]
            self._missed += 1
        self._pending[change.document] = change
        self._wake.set()

    def close(self) -> None:
        """End the iteration after what is waiting. Idempotent."""
        self._closed = True
        self._hub.remove(self)
        self._wake.set()

    def __aiter__(self) -> Watcher:
        return self

    async def __anext__(self) -> Change:
        while not self._pending and not self._missed:
            if self._closed:
                raise StopAsyncIteration
            self._wake.clear()
            await self._wake.wait()
        if self._missed:
            self._missed = 0
            return Change("", frozenset(), "", 0, False, MISSED, 0)
        return self._pending.pop(next(iter(self._pending)))

    async def aclose(self) -> None:
        """As `close`, for `contextlib.aclosing`."""
        self.close()


class Watchers:
    """All watchers of one replica."""

    def __init__(self, limit: int, concerns: Callable[[str], bool] = lambda _: True) -> None:
        self._limit = limit
        self._concerns = concerns
        # Weak, so that a watch whose reader is gone (a `break` is enough) costs nothing any more.
        self._watchers: list[weakref.ref[Watcher]] = []

    def __len__(self) -> int:
        return len(self._watchers)

    def __bool__(self) -> bool:
        return bool(self._watchers)

    def __repr__(self) -> str:
        return f"<Watchers {len(self._watchers)}>"

    def add(self, prefix: str) -> Watcher:
        """A new watcher of documents whose id starts with `prefix`."""
        watcher = Watcher(self, prefix, self._limit)
        self._watchers.append(weakref.ref(watcher, self._watchers.remove))
        return watcher

    def remove(self, watcher: Watcher) -> None:
        """Stop telling it. Idempotent."""
        self._watchers[:] = [known for known in self._watchers if known() is not watcher]

    def transaction(self, transaction: Transaction, session: int, *, mine: bool) -> None:
        """Tell everybody whom it concerns."""
        if not self._watchers:
            return
        for change in changes_of(transaction, session, mine):
            self._tell(change)

    def snapshot(self, documents: Iterable[str]) -> None:
        """These documents changed by joining a snapshot."""
        if not self._watchers:
            return
        for document in sorted(documents):
            self._tell(Change(document, frozenset(), "", 0, False, SNAPSHOT, 0))

    def close(self) -> None:
        """End all of them."""
        for watcher in self._living():
            watcher.close()

    def _tell(self, change: Change) -> None:
        if not self._concerns(change.document):
            return
        for watcher in self._living():
            if watcher.wants(change.document):
                watcher.put(change)

    def _living(self) -> list[Watcher]:
        return [watcher for known in self._watchers if (watcher := known()) is not None]
