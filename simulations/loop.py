"""An asyncio event loop of virtual time: it never waits, and a seed decides who goes next.

Theory of operation. Time is an integer of nanoseconds that stands still while anything can run, and
then jumps to the next timer: thirty simulated seconds take as long as their work. Of all tasks that
can go on, the seed draws one, so that every order that a busy machine could bring about comes up in
some run. Callbacks that are no tasks stay in their order, as asyncio promises. A thread's work is
done at once, at an instant drawn a little later. Everything that would leave the process raises
`Escaped`. So the same seed gives the same run, step by step.

Every task belongs to a `Life`, one run of one process on one host: its children inherit it through
their context. A life can be suspended at any instant; then none of its code runs, no `finally`
either: that is what a power cut is. What it would have done next is kept, for a process that is
stopped and goes on, and so that a dead one can be buried when all is over.
"""

from __future__ import annotations

import asyncio
import ctypes
import heapq
import random
import sys
import threading
import weakref
from collections import Counter, deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from contextvars import Context
from typing import Any, NoReturn, TypeVar, TypeVarTuple, Unpack, cast

from crdt.errors import CallerError
from simulations.sealed import Escaped, SealedLoop
from simulations.steps import LIFE, Life, SimTask, Step

__all__ = ("LIFE", "SECOND", "Deadlock", "Escaped", "Life", "Livelock", "SimLoop")

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
SECOND = 1_000_000_000
STEPS_PER_INSTANT = 100_000
"""More steps than this without any time going by are a livelock."""
THREAD_NS = (50_000, 2_000_000)
"""How long a thread's work takes."""
RESOLUTION_NS = 1_000
"""Who waits at all waits for so long: else who waits by a host's slower clock would wait for ever
less."""
_WATCHED = 1_000
_awake = asyncio.futures._set_result_unless_cancelled  # type: ignore[attr-defined]
"""What a timer of `asyncio.sleep` calls."""
_PURGE_FROM = 512


class Livelock(CallerError):
    """Tasks keep running, and no time goes by."""


class Deadlock(CallerError):
    """Nobody can go on, and no timer will ever wake anybody."""


class SimLoop(SealedLoop):
    """See the module. `now_ns` is the time since the loop was made; `steps` counts what ran;
    `faults` holds what callbacks raised, and exceptions of tasks that nobody asked for.
    """

    def __init__(
        self, seed: int | bytes = 0, *, steps_per_instant: int = STEPS_PER_INSTANT
    ) -> None:
        self._random = random.Random(seed).random  # noqa: S311 - the seed is the point
        self.now_ns = 0
        self._timers: list[tuple[int, int, Step]] = []
        self._tasks: list[Step] = []
        self._callbacks: deque[Step] = deque()
        self._order = 0
        self._task_number = 0
        self._limit = self._most_steps = steps_per_instant
        self._spinning: Counter[str] = Counter()
        self._generators: dict[int, weakref.ref[AsyncGenerator[Any, Any]]] = {}
        self._running = self._closed = False
        self._busy: Step | None = None
        self._thread = threading.get_ident()
        self.steps = 0
        self.cancelled = 0
        self.faults: list[str] = []

    def __repr__(self) -> str:
        return f"<SimLoop at {self.now_ns / SECOND:.3f} s, {self.steps} steps>"

    # ------------------------------------------------------------------ time and order

    def time(self) -> float:
        """Virtual seconds."""
        return self.now_ns / SECOND

    def call_soon(
        self,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> Step:
        """Run it at this instant; steps of tasks in drawn order, other callbacks in theirs."""
        step = Step(callback, args, self, context)
        if getattr(callback, "__self__", None).__class__ is SimTask:
            self._tasks.append(step)
        else:
            self._callbacks.append(step)
        return step

    def call_soon_threadsafe(
        self,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> Step:
        """The same: there are no other threads."""
        return self.call_soon(callback, *args, context=context)

    def call_later(
        self,
        delay: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> Step:
        """Run it in so many virtual seconds."""
        now = self.now_ns
        at = round((now / SECOND + delay) * SECOND)
        if delay > 0 and at < now + RESOLUTION_NS:
            at = now + RESOLUTION_NS
        return self.call_at_ns(at, callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> Step:
        """Run it at this virtual second."""
        at = round(when * SECOND)
        if when > self.now_ns / SECOND:
            at = max(at, self.now_ns + RESOLUTION_NS)
        return self.call_at_ns(at, callback, *args, context=context)

    def call_at_ns(
        self,
        when: int,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> Step:
        """Run it at this virtual nanosecond, or at once if that is over."""
        step = Step(callback, args, self, context, when / SECOND if when > 0 else 1 / SECOND)
        self._order += 1
        if self.cancelled > _PURGE_FROM and self.cancelled * 2 > len(self._timers):
            self._timers[:] = [timer for timer in self._timers if not timer[2]._cancelled]
            heapq.heapify(self._timers)
            self.cancelled = 0
        heapq.heappush(self._timers, (when, self._order, step))
        return step

    def _put(self, step: Step) -> None:
        if getattr(step._callback, "__self__", None).__class__ is SimTask:
            self._tasks.append(step)
        else:
            self._callbacks.append(step)

    def _wake(self) -> None:
        """Put what is due where it waits for its turn; time goes on if nothing else can."""
        timers, tasks, callbacks = self._timers, self._tasks, self._callbacks
        while timers and (timers[0][0] <= self.now_ns or not (tasks or callbacks)):
            when, _, step = heapq.heappop(timers)
            step._scheduled = False
            if step._cancelled:
                self.cancelled -= 1
                continue
            if when > self.now_ns:
                self.now_ns = when
                self._most_steps = self.steps + self._limit
            if step._callback is _awake:
                # A sleep is over: when the sleeper goes is drawn, as of all that can go on.
                step._callback(*step._args)
            else:
                self._put(step)

    def _run_until(self, main: asyncio.Future[Any]) -> None:
        """Run what is next, again and again. Raises Deadlock. In one piece and with its own names
        for everything, as all that a world does goes through here.
        """
        timers, tasks, callbacks = self._timers, self._tasks, self._callbacks
        draw, done = self._random, main.done
        while not done():
            if timers and (timers[0][0] <= self.now_ns or not (tasks or callbacks)):
                self._wake()
            # All callbacks are one lane, each task is one.
            count = len(tasks)
            lanes = count + 1 if callbacks else count
            chosen = int(draw() * lanes) if lanes > 1 else 0
            if chosen < count:
                # The last one takes its place: the order says nothing, one is drawn.
                step, tasks[chosen] = tasks[chosen], tasks[-1]
                del tasks[-1]
            elif callbacks:
                step = callbacks.popleft()
            else:
                raise Deadlock(f"nobody can go on at {self.time():.6f} s: {self._waiting()}")
            if step._cancelled:
                continue
            context = step._context
            life = context.get(LIFE)
            if life is not None and life.suspended:
                life.parked.append(step)
                continue
            self.steps += 1
            if self.steps > self._most_steps:
                self._spins(step)
            self._busy = step
            try:
                context.run(step._callback, *step._args)
            except Livelock:
                raise
            except Exception as error:  # noqa: BLE001 - as asyncio: one callback must not end all
                self.faults.append(f"{step!r} raised {error!r}")
            if self.halt is not None:
                raise self.halt

    def stall(self) -> None:
        """The step that is running does not end. Called from another thread: it is made to raise
        `Livelock` wherever it is.
        """
        self.halt = Livelock(
            f"one step at {self.time():.6f} s does not end: {self._busy!r}; what runs for so long "
            "belongs into `asyncio.to_thread`, and what waits must await"
        )
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(self._thread), ctypes.py_object(Livelock)
        )

    def _spins(self, step: Step) -> None:
        task = getattr(step._callback, "__self__", None)
        name = task.get_name() if isinstance(task, asyncio.Task) else repr(step._callback)
        self._spinning[name] += 1
        if self.steps > self._most_steps + _WATCHED:
            self._put(step)  # it was not run
            busy = ", ".join(f"{name} ({n})" for name, n in self._spinning.most_common(3))
            raise Livelock(
                f"{self._limit} steps at {self.time():.6f} s and no time goes by; of the last "
                f"{_WATCHED}: {busy}; let them wait for something, or sleep for more than nothing"
            )

    # ------------------------------------------------------------------ lives

    def suspend(self, life: Life) -> None:
        """From this instant none of its code runs. The step that asks for it ends first, if it is
        its own.
        """
        life.suspended = True

    def resume(self, life: Life) -> None:
        """It goes on where it was, as after a stop of its process."""
        life.suspended = False
        parked, life.parked = life.parked, []
        for step in parked:
            self._put(step)

    # ------------------------------------------------------------------ running

    def run_until_complete(self, future: Generator[Any, None, T] | Awaitable[T]) -> T:
        """Run until this is done; what else there is stays where it was. Raises Deadlock,
        Livelock, Escaped.
        """
        assert not self._running, "it is running already"
        main = asyncio.ensure_future(cast("Awaitable[T]", future), loop=self)
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(firstiter=self._begun, finalizer=self._dropped)
        asyncio._set_running_loop(self)
        self._running = True
        try:
            self._run_until(main)
        except BaseException:
            if not main.done():
                main.cancel()
            raise
        finally:
            self._running = False
            asyncio._set_running_loop(None)
            sys.set_asyncgen_hooks(*hooks)
        return main.result()

    def run_forever(self) -> NoReturn:
        """Escaped: a simulation runs until something is complete."""
        raise self.refusal("run_forever", "run_until_complete: there is no end to wait for")

    def _waiting(self) -> str:
        tasks = sorted(
            (task for task in asyncio.all_tasks(self) if isinstance(task, SimTask)),
            key=lambda task: task.number,
        )
        names = [task.get_name() for task in tasks]
        return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if names[20:] else "")

    def drain(self) -> None:
        """Cancel every task and let it end; for the end of a world. What they raise is of no
        interest any more.
        """

        async def all_over() -> None:
            own = asyncio.current_task()
            for _ in range(100):
                left = [task for task in asyncio.all_tasks(self) if task is not own]
                if not left:
                    return
                for task in sorted(left, key=hash):
                    task.cancel()
                await asyncio.sleep(1)
            raise Deadlock(f"tasks that can't be cancelled: {self._waiting()}")

        self._most_steps = self.steps + self._limit
        self.halt = None
        self.run_until_complete(all_over())
        self.run_until_complete(self.shutdown_asyncgens())

    def is_running(self) -> bool:
        """See asyncio."""
        return self._running

    def is_closed(self) -> bool:
        """See asyncio."""
        return self._closed

    def close(self) -> None:
        """Forget everything."""
        self._closed = True
        self._timers.clear()
        self._tasks.clear()
        self._callbacks.clear()

    # ------------------------------------------------------------------ tasks and futures

    def create_future(self) -> asyncio.Future[Any]:
        """See asyncio."""
        return asyncio.Future(loop=self)

    def create_task(
        self,
        coro: Generator[Any, None, T] | Coroutine[Any, Any, T],
        *,
        name: object = None,
        context: Context | None = None,
    ) -> asyncio.Task[T]:
        """See asyncio. Tasks are numbered in the order they were made in."""
        self._task_number += 1
        number = self._task_number
        label = f"task {number}" if name is None else str(name)
        return SimTask(number, coro, loop=self, name=label, context=context)

    def set_task_factory(self, factory: Any) -> None:
        """Escaped: the order of tasks is the loop's own."""
        del factory
        raise self.refusal("set_task_factory", "the loop's own tasks: their order is drawn")

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """The work is done in one go, at an instant drawn a little later."""
        del executor
        future: asyncio.Future[T] = self.create_future()

        def work() -> None:
            if future.done():
                return
            try:
                result = func(*args)
            except (KeyboardInterrupt, SystemExit, Livelock):
                raise
            except BaseException as error:  # noqa: BLE001 - whoever waits gets it
                future.set_exception(error)
            else:
                future.set_result(result)

        low, high = THREAD_NS
        self.call_at_ns(self.now_ns + low + int(self._random() * (high - low)), work)
        return future

    # ------------------------------------------------------------------ what went wrong

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Remember it: a simulation judges at its end."""
        message = context.get("message", "")
        self.faults.append(f"{message}: {context.get('exception')!r}")

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        """See `call_exception_handler`."""
        self.call_exception_handler(context)

    # ------------------------------------------------------------------ asynchronous generators

    def _begun(self, generator: AsyncGenerator[Any, Any]) -> None:
        self._order += 1
        self._generators[self._order] = weakref.ref(generator)

    def _dropped(self, generator: AsyncGenerator[Any, Any]) -> None:
        if not self._closed:
            self.call_soon(self.create_task, generator.aclose())

    async def shutdown_asyncgens(self) -> None:
        """Close those that were left open, in the order they began in."""
        begun, self._generators = self._generators, {}
        for reference in begun.values():
            generator = reference()
            if generator is not None:
                await generator.aclose()
