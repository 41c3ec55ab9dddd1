"""Whether a history of calls can be explained by some order of instants, one for each call.

    stuck = unexplained(calls, initial, after)      # [] if it can

A call takes effect at one instant between its beginning and its end; one whose end nobody saw, at
any instant after its beginning, or never. The search is that of J. Wing and C. Gong, "Testing and
Verifying Concurrent Objects" (1993), with the memory of G. Lowe's (2017). It is meant for some
dozens of calls of one object, whose answers leave little choice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ("NEVER", "Call", "Undecidable", "unexplained")

S = TypeVar("S", bound=Hashable)
O = TypeVar("O")  # noqa: E741 - an operation
NEVER = math.inf
"""When a call ended whose answer nobody saw."""
MOST = 50_000
"""Partial orders that are looked at before it is given up."""


class Undecidable(RuntimeError):
    """A history leaves too much choice; ask for less of one object."""


@dataclass(frozen=True, slots=True)
class Call(Generic[O]):
    """One call and its times. `what` says what was asked and answered; `idle`: such an answer
    leaves every state as it was.
    """

    began: float
    ended: float
    what: O
    idle: bool = False


def unexplained(
    calls: Sequence[Call[O]], initial: S, after: Callable[[S, O], S | None]
) -> list[Call[O]]:
    """The calls of which one had to be next and none could, where most was explained; [] if all is.

    `after` gives the state after an operation, None if it can't have been answered so in this
    state. Raises Undecidable.
    """
    known = sum(1 << number for number, call in enumerate(calls) if call.ended < NEVER)
    tried: set[tuple[int, S]] = set()
    todo: list[tuple[int, S]] = [(0, initial)]
    most, stuck = -1, list(calls)
    while todo:
        done, state = todo.pop()
        if done & known == known:
            return []
        if (done, state) in tried:
            continue
        tried.add((done, state))
        if len(tried) > MOST:
            raise Undecidable(f"{len(calls)} calls have more than {MOST} partial orders")
        following = _candidates(calls, done)
        if (explained := (done & known).bit_count()) > most:
            most, stuck = explained, [calls[number] for number in following]
        todo += _next(calls, done, state, following, after)
    return stuck


def _candidates(calls: Sequence[Call[O]], done: int) -> list[int]:
    """Who may be next: nobody else was over before they began."""
    left = [number for number in range(len(calls)) if not done >> number & 1]
    first_end = min(calls[number].ended for number in left)
    return [number for number in left if calls[number].began <= first_end]


def _next(
    calls: Sequence[Call[O]],
    done: int,
    state: S,
    following: Sequence[int],
    after: Callable[[S, O], S | None],
) -> list[tuple[int, S]]:
    """What may come next; the likeliest last. What is idle and fits may as well be now."""
    sure: list[tuple[int, S]] = []
    unsure: list[tuple[int, S]] = []
    for number in following:
        then = after(state, calls[number].what)
        if then is None:
            continue
        step = done | 1 << number, then
        if calls[number].ended == NEVER:
            if then != state:
                unsure.append(step)
        elif calls[number].idle:
            return [step]
        else:
            sure.append(step)
    return unsure + sure
