"""The walls of a simulated world: while it runs, code in it can't reach real time, entropy, threads
or sockets.

    with walls(loop, wall_ms=lambda: 1_780_000_000_000):
        loop.run_until_complete(...)

What reaches out raises `Escaped` with the file and line to blame, and ends the run. Only what the
loop runs is inside: other threads, and the code around the loop, go on as ever. Not seen are
`datetime.now()` and generators that C code seeds itself: those come to light as two runs of one
seed that differ.
"""

from __future__ import annotations

import functools
import os
import random
import secrets
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from simulations.loop import SimLoop

__all__ = ("walls",)

_CLOCKS = (
    "time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns",
)  # fmt: skip
_CHANCE = (
    "random", "randint", "choice", "choices", "shuffle", "uniform", "getrandbits", "sample",
    "randrange", "randbytes", "gauss", "expovariate", "betavariate", "triangular",
)  # fmt: skip
_WAYS_OUT: tuple[tuple[ModuleType, tuple[str, ...], str], ...] = (
    (time, ("sleep",), "`await asyncio.sleep(…)`"),
    (os, ("urandom", "getrandom"), "the Entropy of the replica's environment"),
    (random, ("_urandom", *_CHANCE), "a generator of the replica's Entropy"),
    (secrets, ("token_bytes", "token_hex", "token_urlsafe", "randbits", "randbelow", "choice"),
     "the Entropy of the replica's environment"),
    (uuid, ("uuid1", "uuid4"), "ids made from the replica's Entropy"),
)  # fmt: skip
_EVENTS = {
    "socket.__new__": "a socket",
    "socket.connect": "a socket",
    "socket.bind": "a socket",
    "socket.getaddrinfo": "a look-up of an address",
    "subprocess.Popen": "a process",
    "os.system": "a process",
    "os.fork": "a fork",
    "os.posix_spawn": "a process",
}
# Their records carry a time that nothing depends on: it may be the simulated one.
_TOLD_THE_TIME = ("logging", "warnings")

STEP_S = 10.0
"""Real seconds that one step may take; twice as many are too many."""

_inside: list[tuple[SimLoop, int]] = []
_hooked: list[bool] = []


@contextmanager
def walls(loop: SimLoop, wall_ms: Callable[[], int]) -> Iterator[None]:
    """Close the world in which this loop runs. `wall_ms` is the time that log records get."""
    undo: list[tuple[ModuleType, str, Any]] = []
    if not _hooked:
        # A hook can't be taken back: it looks for whether there is a world.
        sys.addaudithook(_audit)
        _hooked.append(True)

    def replace(module: ModuleType, name: str, made: Callable[..., Any]) -> None:
        undo.append((module, name, getattr(module, name)))
        setattr(module, name, made)

    _inside.append((loop, threading.get_ident()))
    try:
        for name in _CLOCKS:
            replace(time, name, _clock(name, getattr(time, name), wall_ms))
        for module, names, cure in _WAYS_OUT:
            for name in names:
                if hasattr(module, name):
                    real = getattr(module, name)
                    replace(module, name, _refusal(f"{module.__name__}.{name}", real, cure))
        start = threading.Thread.start
        threading.Thread.start = _refusal(  # type: ignore[method-assign]
            "threading.Thread.start", start, "`await asyncio.to_thread(…)`, or a task"
        )
        try:
            with _watched(loop, real_start=start):
                yield
        finally:
            threading.Thread.start = start  # type: ignore[method-assign]
    finally:
        for module, name, real in reversed(undo):
            setattr(module, name, real)
        _inside.pop()


@contextmanager
def _watched(loop: SimLoop, real_start: Callable[[threading.Thread], None]) -> Iterator[None]:
    """Halt the loop from outside if one of its steps takes too long in real time."""
    over = threading.Event()

    def watch() -> None:
        before = -1
        while not over.wait(STEP_S):
            if loop.is_running() and loop.steps == before:
                loop.stall()
            before = loop.steps

    thread = threading.Thread(target=watch, name="watch a simulation", daemon=True)
    real_start(thread)
    try:
        yield
    finally:
        over.set()
        thread.join()


def _world() -> SimLoop | None:
    """The loop whose code is running, if any is."""
    if not _inside:
        return None
    loop, thread = _inside[-1]
    return loop if loop.is_running() and threading.get_ident() == thread else None


def _refusal(what: str, real: Callable[..., Any], cure: str) -> Callable[..., Any]:
    @functools.wraps(real)
    def guarded(*args: Any, **options: Any) -> Any:
        loop = _world()
        if loop is not None:
            raise loop.refusal(what, cure)
        return real(*args, **options)

    return guarded


def _clock(name: str, real: Callable[[], Any], wall_ms: Callable[[], int]) -> Callable[[], Any]:
    @functools.wraps(real)
    def guarded() -> Any:
        loop = _world()
        if loop is None:
            return real()
        if sys._getframe(1).f_globals.get("__name__") in _TOLD_THE_TIME:
            ms = wall_ms()
            return ms * 1_000_000 if name.endswith("_ns") else ms / 1000
        raise loop.refusal(f"time.{name}", "the Clock of the replica's environment")

    return guarded


def _audit(event: str, args: tuple[Any, ...]) -> None:
    del args
    what = _EVENTS.get(event)
    if what is not None and (loop := _world()) is not None:
        raise loop.refusal(what, "the ports that the replica was given")
