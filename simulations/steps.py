"""What the loop runs: steps, most of them of tasks, each of some process's life."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, ContextVar, copy_context
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from simulations.loop import SimLoop

__all__ = ("LIFE", "Life", "SimTask", "Step")

T = TypeVar("T")


class Life:
    """One run of one process. While it is `suspended`, its steps are parked."""

    __slots__ = ("name", "parked", "suspended")

    def __init__(self, name: str) -> None:
        self.name = name
        self.suspended = False
        self.parked: list[Step] = []

    def __repr__(self) -> str:
        return f"<Life {self.name}{', suspended' if self.suspended else ''}>"


LIFE: ContextVar[Life | None] = ContextVar("LIFE", default=None)
"""Whose code is running; None: the world's own."""


class Step(asyncio.TimerHandle):
    """Something to run: now, or at an instant."""

    __slots__ = ()

    def __init__(
        self,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        loop: SimLoop,
        context: Context | None,
        when: float = 0.0,
    ) -> None:
        # Not by the base classes': those build what only debugging needs.
        self._callback = callback
        self._args = args
        self._loop = loop
        self._context = copy_context() if context is None else context
        self._cancelled = False
        self._scheduled = when > 0.0
        self._when = when

    def cancel(self) -> None:
        """Don't run it."""
        if not self._cancelled:
            self._cancelled = True
            if self._scheduled:
                self._loop.cancelled += 1

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __repr__(self) -> str:
        task = getattr(self._callback, "__self__", None)
        return (
            f"<Step of {task.get_name()}>"
            if isinstance(task, SimTask)
            else f"<Step {self._callback!r}>"
        )


class SimTask(asyncio.Task[T]):
    """A task whose place in a set does not depend on its address."""

    def __init__(
        self,
        number: int,
        work: Generator[Any, None, T] | Coroutine[Any, Any, T],
        *,
        loop: SimLoop,
        name: str,
        context: Context | None,
    ) -> None:
        self.number = number
        super().__init__(work, loop=loop, name=name, context=context)

    def __hash__(self) -> int:
        return self.number
