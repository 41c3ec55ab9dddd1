"""One replica for any number of threads: blocking calls, and edits whose body runs where it stands.

    with SyncReplica.open("agent-a") as replica:      # a loop of its own, in a thread of its own
        with replica.edit(Task, "42") as task:
            task.effort += 3
        replica.flush(timeout=5)

    facade = replica.sync                             # of a replica that runs on another thread

Theory of operation. Everything that touches the replica happens on the thread of its event loop.
Callers queue what they want and wait; one callback of the loop serves the queue in order. An edit
is a handshake: the loop begins it, *parks*, and lets the caller's thread run the body; when that
ends, the loop commits it (or abandons it, if the body raised) and goes on. So nothing else happens
while a body runs: an edit is one transaction, all of it or nothing, exactly as on the loop itself,
and two threads never lose each other's update.

What it costs: two changes of thread for every call, and a loop that stands still while a body
runs. A body that takes longer than `edit_s` loses its edit (`EditMisuse`, nothing is written) and
the loop goes on: compute first, then edit. A body must not wait for another thread that uses the
same replica.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import concurrent.futures.thread
import contextlib
import functools
import importlib
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from crdt.document import Document
from crdt.errors import EditMisuse
from mesh.durability import Durability, FlushResult
from mesh.editing import ReplicaClosed, TransactionEdit
from mesh.environment import PartHealth
from mesh.gate import EDIT_S, Gate, SyncEdit
from mesh.watch import Change, Watcher

if TYPE_CHECKING:
    from mesh.replica import Replica

D = TypeVar("D", bound=Document)


class SyncWatcher:
    """A blocking iterator of changes: `for change in watcher`, or `watcher.next(timeout=…)`.

    Ends when the replica closes or `close` is called. A change that is being handed over while its
    reader is interrupted may get lost.
    """

    def __init__(self, gate: Gate, watcher: Watcher, release: Callable[[], None]) -> None:
        self._gate = gate
        self._watcher = watcher
        # Once nobody holds this object the watch costs nothing any more.
        self._finalizer = weakref.finalize(self, release)

    def __repr__(self) -> str:
        return f"<SyncWatcher over {self._watcher!r}>"

    def next(self, timeout: float | None = None) -> Change | None:
        """The next change; None if none came within `timeout` seconds, or no more will come."""
        return self._gate.complete(functools.partial(self._next, timeout))

    def close(self) -> None:
        """End the iteration after what is waiting. Idempotent."""
        self._finalizer()

    def __iter__(self) -> Iterator[Change]:
        while (change := self.next()) is not None:
            yield change

    async def _next(self, timeout: float | None) -> Change | None:
        try:
            async with asyncio.timeout(timeout):
                return await anext(self._watcher)
        except (TimeoutError, StopAsyncIteration):
            return None


class SyncReplica:
    """See the module. Every method may be called from any thread but the loop's own.

    Errors are those of `Replica`'s methods of the same name; besides, ReplicaClosed once the loop
    has ended. Interrupting a thread that waits leaves nothing half done.
    """

    def __init__(
        self, replica: Replica, loop: asyncio.AbstractEventLoop, *, edit_s: float = EDIT_S
    ) -> None:
        """The facade of a replica that runs on `loop`; call it on that loop's thread."""
        self._replica = replica
        self._loop = loop
        self._gate = Gate(replica, loop, edit_s)
        self._home: _Home | None = None

    @staticmethod
    def open(path: str | Path, *, edit_s: float = EDIT_S, **options: Any) -> SyncReplica:
        """Run a replica in a thread of its own, until `close` (or the end of a `with`).

        `options` are those of `Replica.open`, and so are the errors. The thread is no daemon: a
        program that ends without closing is closed in order first.
        """
        return _Home(path, edit_s, options).open()

    def __repr__(self) -> str:
        return f"<SyncReplica of {self._replica!r}>"

    def __enter__(self) -> SyncReplica:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self, level: Durability | None = None, *, timeout: float | None = None) -> None:
        """As `Replica.close`; of `SyncReplica.open` the thread ends too. Threads that wait for
        something get ReplicaClosed. Idempotent.
        """
        if self._home is not None:
            self._home.close(level, timeout)
            return
        with contextlib.suppress(ReplicaClosed):
            self._gate.complete(lambda: self._replica.close(level, timeout=timeout))

    # ------------------------------------------------------------------ writing

    def edit(
        self, cls: type[D], name: str, *, type: str = "", actor: str = "", caused_by: str = ""
    ) -> SyncEdit[D]:
        """One atomic transaction on one document, with the body in this thread. Reads in the body
        may use this facade; they see the state before the edit.
        """
        labels = {"type": type, "actor": actor, "caused_by": caused_by}
        return SyncEdit(self._gate, lambda: self._replica.edit(cls, name, **labels))

    def transaction(
        self, *, type: str, actor: str = "", caused_by: str = ""
    ) -> SyncEdit[TransactionEdit]:
        """Several documents of one shard in one transaction; else as `edit`."""
        labels = {"type": type, "actor": actor, "caused_by": caused_by}
        return SyncEdit(self._gate, lambda: self._replica.transaction(**labels))

    def create(self, cls: type[Document], name: str, *, actor: str = "") -> bool:
        """As `Replica.create`."""
        return self._write(lambda: self._replica.create(cls, name, actor=actor))

    def delete(self, cls: type[Document], name: str, *, actor: str = "") -> bool:
        """As `Replica.delete`."""
        return self._write(lambda: self._replica.delete(cls, name, actor=actor))

    def ready(self) -> None:
        """Wait until there is room after a `Backpressure`."""
        self._gate.complete(self._replica.ready)

    def flush(
        self, level: Durability = Durability.JOURNAL, *, timeout: float | None = None
    ) -> FlushResult:
        """As `Replica.flush`: what all threads wrote before."""
        return self._gate.complete(lambda: self._replica.flush(level, timeout=timeout))

    # ------------------------------------------------------------------ reading

    def get(self, cls: type[Document], name: str) -> dict[str, Any] | None:
        """The document as plain data (`Document.snapshot`): a copy that does not change any more;
        None if it does not exist.
        """

        def work() -> dict[str, Any] | None:
            view = self._replica.get(cls, name)
            return None if view is None else view.snapshot()

        return self._gate.call(work)

    def read(self, cls: type[D], name: str) -> SyncEdit[D | None]:
        """`with replica.read(Task, "42") as task:` — a typed view, or None, at one instant; bounded
        as an edit is. The view must not be used after the block.
        """
        return SyncEdit(self._gate, lambda: contextlib.nullcontext(self._replica.get(cls, name)))

    def exists(self, cls: type[Document], name: str) -> bool:
        """Whether the document exists."""
        return self._gate.call(lambda: self._replica.exists(cls, name))

    def documents(
        self, cls: type[D], where: Callable[[D], bool] | None = None
    ) -> dict[str, dict[str, Any]]:
        """{id: plain data} of all documents of a type (for which `where(view)` holds), at one
        instant. `where` runs on the loop's thread.
        """
        return self._gate.call(
            lambda: {view.id: view.snapshot() for view in self._replica.documents(cls, where)}
        )

    def watch(self, cls: type[Document] | None = None) -> SyncWatcher:
        """A blocking iterator of `Change`, from now on; else as `Replica.watch`."""
        watcher = self._gate.call(lambda: self._replica.watch(cls))
        return SyncWatcher(self._gate, watcher, functools.partial(self._release, watcher))

    def health(self) -> dict[str, PartHealth]:
        """As `Replica.health`."""
        return self._gate.call(self._replica.health)

    def frontier(self) -> dict[int, dict[int, int]]:
        """As `Replica.frontier`."""
        return self._gate.call(self._replica.frontier)

    def digest(self) -> dict[int, str]:
        """As `Replica.digest`."""
        return self._gate.call(self._replica.digest)

    def status(self) -> dict[str, Any]:
        """As `Replica.status`."""
        return self._gate.call(self._replica.status)

    @property
    def replica(self) -> Replica:
        """The replica itself, for code on its own loop."""
        return self._replica

    # ------------------------------------------------------------------ inside

    def _write(self, work: Callable[[], bool]) -> bool:
        if self._gate.owner == threading.get_ident():
            raise EditMisuse("an edit is open in this thread: end that one first")
        return self._gate.call(work)

    def _release(self, watcher: Watcher) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended, and all watches with it
            self._loop.call_soon_threadsafe(watcher.close)


class _Home:
    """The thread and the loop of one `SyncReplica.open`."""

    def __init__(self, path: str | Path, edit_s: float, options: dict[str, Any]) -> None:
        self._path = path
        self._edit_s = edit_s
        self._options = options
        self._opened: concurrent.futures.Future[SyncReplica] = concurrent.futures.Future()
        self._stop: asyncio.Event
        self._loop: asyncio.AbstractEventLoop
        self._level: Durability | None = None
        self._timeout: float | None = None
        self._given_up = False
        _homes.add(self)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._main, name=f"replica in {path}", daemon=False)

    def open(self) -> SyncReplica:
        """Start; returns when the replica has. Raises what opening it raises."""
        self._thread.start()
        try:
            return self._opened.result()
        except BaseException:
            self._given_up = True  # an interrupt: the thread closes what it opens
            if self._opened.done() and self._opened.exception() is None:
                self.close(None, None)
            raise

    def close(self, level: Durability | None, timeout: float | None) -> None:
        """Close the replica, end the thread. Raises what closing raises, once."""
        if threading.current_thread() is self._thread:
            raise EditMisuse("the replica's own thread can't wait for its own end")
        self._level, self._timeout = level, timeout
        with contextlib.suppress(RuntimeError):  # ended already
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _main(self) -> None:
        try:
            asyncio.run(self._live())
        except BaseException as error:  # noqa: BLE001 - raised by `open` or by `close`
            if self._opened.done():
                self._error = error
            else:
                self._opened.set_exception(error)

    async def _live(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        # By name: only the composition root may know production adapters; this is below it.
        compose = importlib.import_module("mesh.compose")
        async with compose.open_replica(self._path, **self._options) as replica:
            facade = SyncReplica(replica, self._loop, edit_s=self._edit_s)
            facade._home = self
            self._opened.set_result(facade)
            try:
                if not self._given_up:
                    await self._stop.wait()
                await replica.close(self._level, timeout=self._timeout)
            finally:
                facade._gate.drain()


_homes: weakref.WeakSet[_Home] = weakref.WeakSet()


def _program_ends() -> None:
    """Close what nobody closed, while the executors that closing needs still take work."""
    for home in list(_homes):
        home.close(None, None)


# The hook that concurrent.futures ends its executors by. Calls go in reverse order, so that with
# its module imported first (above) ours comes before its. `atexit` is too late: it runs after all
# threads that are no daemons have ended, ours among them.
threading._register_atexit(_program_ends)  # type: ignore[attr-defined]
