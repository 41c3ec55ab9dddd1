"""Waiting for durability: `flush`, and callbacks for who can't wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from crdt.errors import CallerError
from mesh.committer import Committer
from mesh.core import Core
from mesh.durability import MAJORITY_LEVEL, Durability, FlushResult, FlushTimeout
from mesh.editing import Backpressure
from mesh.heartbeats import Heartbeats, Majority
from mesh.services.shared import Services

MAX_CALLBACKS = 10_000
"""Callbacks of `on_durable` that may wait at once."""
Callback = Callable[[FlushResult], None]


class DurableHandle:
    """One callback that waits. `done`: it was called, or will not be."""

    def __init__(self, level: Durability, future: asyncio.Future[None]) -> None:
        self._level = level
        self._future = future

    def __repr__(self) -> str:
        return f"<DurableHandle for {self._level}, {'done' if self.done else 'waiting'}>"

    @property
    def done(self) -> bool:
        """Whether nothing will happen any more."""
        return self._future.done()

    def cancel(self) -> None:
        """Don't call back. Idempotent."""
        self._future.cancel()


class Flusher:
    """What this session wrote, and how far it got."""

    def __init__(
        self, core: Core, committer: Committer, services: Services, heartbeats: Heartbeats
    ) -> None:
        self._core = core
        self._heartbeats = heartbeats
        self._committer = committer
        self._services = services
        self._callbacks = 0

    def __repr__(self) -> str:
        return f"<Flusher, {self._callbacks} callbacks waiting>"

    async def flush(self, level: Durability, timeout: float | None) -> FlushResult:
        """See `Replica.flush`."""
        written = self._begin(level)
        majority = self._majority(level, written)
        missed = False
        try:
            async with asyncio.timeout(timeout):
                await self._core.waiters.until(lambda: self._reached(level, written, majority))
        except TimeoutError:
            missed = True
        finally:
            if majority is not None:
                majority.close()
        result = self._result(level, written, majority)
        if missed:
            raise FlushTimeout(level, self._state(level, result), result, timeout or 0.0)
        return result

    def on_durable(self, level: Durability, callback: Callback) -> DurableHandle:
        """See `Replica.on_durable`."""
        if self._callbacks >= MAX_CALLBACKS:
            raise Backpressure(
                f"{self._callbacks} callbacks wait for durability, at most {MAX_CALLBACKS} may; "
                "flush, or cancel those that are not needed"
            )
        written = self._begin(level)
        majority = self._majority(level, written)
        future = self._core.waiters.future(lambda: self._reached(level, written, majority))
        self._callbacks += 1

        def ended(future: asyncio.Future[None]) -> None:
            self._callbacks -= 1
            if majority is not None:
                majority.close()
            if future.cancelled():
                return
            if (error := future.exception()) is not None:
                self._core.probe.event(
                    "durability.abandoned", level=str(level), reason=str(error), written=written
                )
                return
            try:
                callback(self._result(level, written, majority))
            except Exception as error:  # noqa: BLE001 - the caller's code; it is told, not hidden
                self._core.probe.event(
                    "durability.failed", level=str(level), reason=repr(error), written=written
                )

        future.add_done_callback(ended)
        return DurableHandle(level, future)

    def _begin(self, level: Durability) -> dict[int, int]:
        """What has to get there; everybody who can help is woken. Raises CallerError."""
        if missing := self._services.missing(level):
            raise CallerError(f"Durability.{level} needs {missing}, which is not configured")
        written = self._core.written()
        self._committer.wake(urgent=True)
        self._services.urge(level)
        return written

    def _majority(self, level: Durability, written: Mapping[int, int]) -> Majority | None:
        return self._heartbeats.majority(written) if level.name == MAJORITY_LEVEL else None

    def _reached(
        self, level: Durability, written: Mapping[int, int], majority: Majority | None
    ) -> bool:
        core = self._core
        if not written or not core.on_disk(written):
            return not written
        if not self._services.reached(level, written):
            return False
        if majority is not None:
            return majority.reached(core.acknowledgements.holders(written))
        return not level.replicas or len(core.acknowledgements.holders(written)) >= level.replicas

    def _result(
        self, level: Durability, written: dict[int, int], majority: Majority | None
    ) -> FlushResult:
        core = self._core
        holders = core.acknowledgements.holders(written) if written else ()
        if majority is None:
            return FlushResult(level, core.session, written, holders, level.replicas or None)
        holders = majority.holders(holders) if written else ()
        return FlushResult(level, core.session, written, holders, majority.of)

    def _state(self, level: Durability, result: FlushResult) -> str:
        if not self._core.on_disk(result.written):
            return "not on disk"
        state = f"on disk here and at {len(result.replicas)} others"
        if level.name == MAJORITY_LEVEL:
            state += f", of {result.of} replicas"
        reason = self._services.reason(level)
        return f"{state}; {reason}" if reason else state
