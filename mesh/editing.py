"""Editing: one transaction at a time, in memory, all of it or nothing.

An edit's body runs on an overlay and never awaits. That it did is noticed by a tick of the event
loop: a callback scheduled when the edit begins has run before the edit ends exactly if the body
gave up control.
"""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Iterable
from types import TracebackType
from typing import Generic, TypeVar

from crdt.access import Overlay, commit
from crdt.document import (
    Document,
    create_document,
    delete_document,
    document_id,
    validate_document,
)
from crdt.errors import CallerError, CrossShardTransaction, EditMisuse, ServiceError
from crdt.ids import shard_of
from crdt.limits import MAX_LABEL_BYTES
from mesh.committer import Committer
from mesh.core import Core
from mesh.shards import ShardHost

D = TypeVar("D", bound=Document)


class Backpressure(ServiceError):
    """More is written than the disk takes, or than a service has taken for too long. Nothing was
    written; `await replica.ready()` waits for room.
    """


class ReplicaClosed(CallerError):
    """The replica is not running: not started, closed, failed, or a fork's copy of another
    process's.
    """


class ObserverReadOnly(CallerError):
    """This replica's certificate lets it read only: what it wrote would be void everywhere."""


Labels = tuple[str, str, str]
"""A transaction's type, actor and cause."""


class Editor:
    """Opens and ends edits. `usable` raises ReplicaClosed when there must be none."""

    def __init__(self, core: Core, committer: Committer) -> None:
        self._core = core
        self._committer = committer
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._ticks = 0
        self._ticking = False
        self._open = ""
        self._bound = core.settings.replica.owed_bytes_max
        self.unusable = ""

    def __repr__(self) -> str:
        return f"<Editor {self.unusable or self._open or 'idle'}>"

    def check(self) -> None:
        """Raises ReplicaClosed, or EditMisuse on a thread that is not the replica's."""
        if self.unusable:
            raise ReplicaClosed(self.unusable)
        if threading.get_ident() != self._thread:
            raise EditMisuse(
                "a replica is used on the thread of its event loop only; from another thread, use "
                "loop.call_soon_threadsafe or asyncio.run_coroutine_threadsafe"
            )

    def begin(self, what: str) -> int:
        """Start an edit; returns the tick that must not have passed when it ends."""
        self.check()
        if not self._core.roll.own.writes:
            raise ObserverReadOnly(
                f"{self._core.name} is an {self._core.roll.own.role} of its mesh and only reads; "
                "join with an invitation for members to write"
            )
        if self._open:
            raise EditMisuse(
                f"an edit of {what} was begun while one of {self._open} is open: end that one "
                "first, don't await inside it, or edit both in one replica.transaction()"
            )
        if self._committer.owed > self._bound:
            raise Backpressure(
                f"{self._committer.owed} bytes are written and not on disk yet, at most "
                f"{self._bound} may be; await replica.ready() and edit again"
            )
        if self._core.blocked:
            raise Backpressure(f"{self._core.blocked}; await replica.ready() and edit again")
        if not self._ticking:
            self._ticking = True
            self._loop.call_soon(self._tick)
        self._open = what
        return self._ticks

    def abandon(self, overlay: Overlay | None) -> None:
        """The body raised: nothing happened."""
        self._open = ""
        if overlay is not None:
            overlay.close()

    def end(
        self,
        tick: int,
        host: ShardHost,
        overlay: Overlay,
        labels: Labels,
        documents: Iterable[Document],
    ) -> None:
        """Commit, if the edited documents are valid. Raises EditMisuse, what `validate` raises, and
        what `commit` does; then nothing happened.
        """
        try:
            if tick != self._ticks:
                raise EditMisuse(
                    f"the edit of {self._open} awaited something: compute first, then edit without "
                    "awaiting; nothing was written"
                )
            if self.unusable:
                raise ReplicaClosed(self.unusable)
            for document in documents:
                validate_document(document, overlay)
            transaction = commit(host.lattice, overlay, *labels)
        finally:
            self._open = ""
            overlay.close()
        if transaction is None:
            return
        committer = self._committer
        committer.outbox_bytes += host.committed(transaction)
        committer.wake()
        if self._core.watchers:
            self._core.watchers.transaction(transaction, self._core.session, mine=True)

    def overlay(self, host: ShardHost) -> Overlay:
        """A fresh overlay on a shard."""
        return Overlay(host.lattice, self._core.session, self._core.clock)

    def host(self, document: str) -> ShardHost:
        """The shard a document lives in. Raises NotSubscribed."""
        core = self._core
        if not core.subscription.whole:
            core.subscription.check(document)
        hosts = core.hosts
        return hosts[shard_of(document, len(hosts))]

    def _tick(self) -> None:
        self._ticks += 1
        self._ticking = False


class Edit(Generic[D]):
    """`with replica.edit(Task, "42") as task:` — one document, one transaction."""

    __slots__ = ("_cls", "_document", "_editor", "_host", "_id", "_labels", "_overlay", "_tick")

    def __init__(self, editor: Editor, cls: type[D], document: str, labels: Labels) -> None:
        self._editor = editor
        self._cls = cls
        self._id = document
        self._labels = labels
        self._overlay: Overlay | None = None

    def __enter__(self) -> D:
        editor = self._editor
        self._tick = editor.begin(self._id)
        try:
            self._host = editor.host(self._id)
            self._overlay = editor.overlay(self._host)
            self._document = self._cls.bind(self._overlay, self._id)
        except BaseException:
            editor.abandon(self._overlay)
            raise
        return self._document

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        overlay = self._overlay
        if error is not None or overlay is None:
            self._editor.abandon(overlay)
            return
        self._editor.end(self._tick, self._host, overlay, self._labels, (self._document,))


class TransactionEdit:
    """`with replica.transaction(type="…") as tx:` — several documents of one shard, one
    transaction.
    """

    __slots__ = ("_documents", "_editor", "_first", "_host", "_labels", "_overlay", "_tick")

    def __init__(self, editor: Editor, labels: Labels) -> None:
        self._editor = editor
        self._labels = labels
        self._host: ShardHost | None = None
        self._overlay: Overlay | None = None
        self._documents: dict[tuple[type[Document], str], Document] = {}
        self._first = ""

    def __enter__(self) -> TransactionEdit:
        self._tick = self._editor.begin("a transaction")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None or self._overlay is None or self._host is None:
            self._editor.abandon(self._overlay)
            return
        self._editor.end(
            self._tick, self._host, self._overlay, self._labels, self._documents.values()
        )

    def edit(self, cls: type[D], name: str) -> D:
        """A document to write to in this transaction. Raises CrossShardTransaction."""
        document = document_id(cls, name)
        return self._bind(cls, document)

    def create(self, cls: type[Document], name: str) -> bool:
        """As `Replica.create`, in this transaction."""
        document = document_id(cls, name)
        return create_document(self._bind(cls, document)._access, cls, document)

    def delete(self, cls: type[Document], name: str) -> bool:
        """As `Replica.delete`, in this transaction."""
        document = document_id(cls, name)
        return delete_document(self._bind(cls, document)._access, cls, document)

    def _bind(self, cls: type[D], document: str) -> D:
        bound = cls.bind(self._on(document), document)
        self._documents[cls, document] = bound
        return bound

    def _on(self, document: str) -> Overlay:
        host = self._editor.host(document)
        if self._overlay is None:
            self._host, self._first = host, document
            self._overlay = self._editor.overlay(host)
        elif host is not self._host:
            raise CrossShardTransaction(
                f"{document} lives in shard {host.index} and {self._first} in another; documents "
                "that change together share a {tag} in their names, as in 'Task/{job-7}/1'"
            )
        return self._overlay


@functools.lru_cache(maxsize=4_096)
def check_label(what: str, text: str) -> str:
    """An event's type, actor or cause. Raises CallerError for one that no frame could carry."""
    try:
        size = len(text.encode())
    except (UnicodeEncodeError, AttributeError):
        raise CallerError(f"{what} {text!r:.80} is not text that UTF-8 can hold") from None
    if size > MAX_LABEL_BYTES:
        raise CallerError(f"{what} {text!r:.80} has {size} bytes, at most {MAX_LABEL_BYTES}")
    return text
