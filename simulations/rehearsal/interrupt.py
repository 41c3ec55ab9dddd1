"""Ctrl-C and SIGTERM as one orderly end: the first cancels the run, later ones do nothing."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from types import TracebackType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupt:
    """While this lasts no signal breaks anything off, neither cleaning up nor putting in place.

    Use it around everything that must not be left half done, and `watch` in the task to cancel.
    """

    def __init__(self) -> None:
        self.happened = False
        self._cancel: Callable[[], object] | None = None
        self._before: list[Any] = []

    def __enter__(self) -> Interrupt:
        self._before = [signal.signal(number, self._on_signal) for number in _SIGNALS]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in zip(_SIGNALS, self._before, strict=True):
            signal.signal(number, handler)

    def watch(self) -> None:
        """The current task is the one to cancel; at once, if a signal has come already."""
        task = asyncio.current_task()
        assert task is not None, "called from a coroutine"
        loop = asyncio.get_running_loop()
        self._cancel = lambda: loop.call_soon_threadsafe(task.cancel)
        if self.happened:
            self._cancel()

    def unwatch(self) -> None:
        """The task is done: a signal has nothing to cancel any more."""
        self._cancel = None

    def _on_signal(self, _number: int, _frame: object) -> None:
        first, self.happened = not self.happened, True
        if first and self._cancel is not None:
            self._cancel()
