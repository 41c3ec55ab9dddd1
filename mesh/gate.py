"""The way from other threads onto the thread of a replica's event loop, and edits that go it.

Callers queue turns and wait; one callback of the loop takes them in order. An edit is a turn during
which the loop is *parked*: the caller's thread runs the body, the loop begins and ends the edit.
See `mesh.sync`.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from crdt.errors import EditMisuse
from mesh.editing import ReplicaClosed

if TYPE_CHECKING:
    from mesh.replica import Replica

T = TypeVar("T")

EDIT_S = 1.0
"""How long an edit's body may keep the loop parked, unless another bound is given."""
TURN_S = 0.005
"""After serving threads for this long the loop gets a turn for everything else."""
LOOK_S = 1.0
"""How often a waiting thread looks whether the loop is still there."""
CLOSED = "the replica's event loop has ended: open the replica again"


class Turn(Protocol):
    """Something a thread waits for, to be done on the loop's thread."""

    def run(self) -> None:
        """Do it. Never raises: what went wrong is handed to the thread that waits."""


class _Call(Generic[T]):
    """One function call on the loop's thread."""

    __slots__ = ("_error", "_result", "_work", "done", "gone")

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._error: BaseException | None = None
        self.gone = False
        self.done = signal()

    def run(self) -> None:
        """See `Turn`."""
        if self.gone:
            return
        try:
            self._result = self._work()
        except BaseException as error:  # noqa: BLE001 - raised in the thread that waits
            self._error = error
        self.done.release()

    def result(self) -> T:
        """What came of it, once `done`."""
        if self._error is not None:
            raise self._error
        return self._result


class SyncEdit(Generic[T]):
    """`with replica.edit(Task, "42") as task:` in any thread. Use once."""

    __slots__ = (
        "_closed", "_ended", "_error", "_gate", "_gone", "_granted", "_make", "_outcome", "_value",
    )  # fmt: skip

    def __init__(self, gate: Gate, make: Callable[[], AbstractContextManager[T]]) -> None:
        self._gate = gate
        self._make = make
        self._granted, self._ended, self._closed = signal(), signal(), signal()
        self._gone = False
        self._outcome: BaseException | None = None
        self._error: BaseException | None = None

    def run(self) -> None:
        """See `Turn`: begin, park until the body has ended, commit."""
        if self._gone:
            return
        try:
            context = self._make()
            self._value = context.__enter__()
        except BaseException as error:  # noqa: BLE001 - raised in the thread that waits
            self._error = error
            self._granted.release()
            return
        self._granted.release()
        seconds = self._gate.edit_s
        if not self._ended.acquire(timeout=seconds):
            self._outcome = EditMisuse(
                f"the body of the edit took more than {seconds:g} s, while the replica stood still;"
                " compute first, then edit; nothing was written"
            )
            self._gate.overran()
        failure = self._outcome
        try:
            context.__exit__(type(failure) if failure else None, failure, None)
        except BaseException as error:  # noqa: BLE001 - raised in the thread that waits
            self._error = error
        else:
            self._error = failure
        self._closed.release()

    def __enter__(self) -> T:
        gate = self._gate
        gate.check_thread()
        if gate.owner == threading.get_ident():
            raise EditMisuse("an edit is open in this thread: end that one first")
        try:
            gate.submit(self)
            gate.wait(self._granted)
            self._raise()
            gate.owner = threading.get_ident()
        except BaseException as error:
            # Interrupted: whatever the loop has begun, it abandons.
            self._outcome, self._gone = error, True
            self._ended.release()
            raise
        return self._value

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        gate = self._gate
        gate.owner = 0
        if self._outcome is None:
            self._outcome = error
        self._ended.release()
        gate.wait(self._closed)
        if error is None:
            self._raise()


class Gate:
    """The way from other threads onto the loop's: a queue, served in order."""

    def __init__(self, replica: Replica, loop: asyncio.AbstractEventLoop, edit_s: float) -> None:
        self._replica = replica
        self._loop = loop
        self._thread = threading.get_ident()
        self._queue: deque[Turn] = deque()  # at most one of each waiting thread
        self._lock = threading.Lock()
        self._scheduled = False
        self.edit_s = edit_s
        self.owner = 0

    def check_thread(self) -> None:
        """Raises EditMisuse on the loop's own thread, which would wait for itself."""
        if threading.get_ident() == self._thread:
            raise EditMisuse(
                "this is the thread of the replica's event loop: use the replica itself here, and "
                "the facade in other threads"
            )

    def submit(self, turn: Turn) -> None:
        """Have it done on the loop's thread. Raises ReplicaClosed."""
        with self._lock:
            self._queue.append(turn)
            if self._scheduled:
                return
            try:
                self._loop.call_soon_threadsafe(self._serve)
            except RuntimeError:
                raise ReplicaClosed(CLOSED) from None
            self._scheduled = True  # last: an interrupt before it costs a callback, no more

    def wait(self, signal: threading.Lock) -> None:
        """Wait until the loop's thread gives this signal. Raises ReplicaClosed."""
        while not signal.acquire(timeout=LOOK_S):
            if self._loop.is_closed():
                raise ReplicaClosed(CLOSED)

    def call(self, work: Callable[[], T]) -> T:
        """What `work()` returns or raises, on the loop's thread; inside an edit: here and now."""
        if self.owner == threading.get_ident():
            return work()
        self.check_thread()
        call = _Call(work)
        try:
            self.submit(call)
            self.wait(call.done)
        except BaseException:
            call.gone = True
            raise
        return call.result()

    def complete(self, start: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What a coroutine returns or raises. Who gives up waiting cancels it."""
        if self.owner == threading.get_ident():
            raise EditMisuse("an edit is open in this thread: end it before you wait for something")
        future = self.call(lambda: asyncio.run_coroutine_threadsafe(start(), self._loop))
        while True:
            try:
                return future.result(LOOK_S)
            except concurrent.futures.CancelledError:
                raise ReplicaClosed(CLOSED) from None
            except TimeoutError:
                if future.done():
                    raise
                if self._loop.is_closed():
                    raise ReplicaClosed(CLOSED) from None
            except KeyboardInterrupt:
                future.cancel()
                raise

    def overran(self) -> None:
        """A body took too long."""
        self._replica.environment.probe.event("edit.overran", seconds=self.edit_s)

    def drain(self) -> None:
        """The loop is about to end: who waits still is answered."""
        while self._queue:
            self._queue.popleft().run()

    def _serve(self) -> None:
        clock = self._replica.environment.clock
        until = clock.monotonic() + TURN_S
        while True:
            with self._lock:
                if not self._queue:
                    self._scheduled = False
                    return
                turn = self._queue.popleft()
            turn.run()
            if clock.monotonic() > until:
                self._loop.call_soon(self._serve)
                return


def signal() -> threading.Lock:
    """A lock that is taken: whoever waits acquires it, whoever signals releases it."""
    lock = threading.Lock()
    lock.acquire()
    return lock
