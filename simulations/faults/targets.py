"""Whom a fault hits: each function draws hosts, or ways between them (`a>b`: from a to b)."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import permutations

Names = Sequence[str]


def between(some: Names, others: Names) -> tuple[str, ...]:
    """All ways between two groups."""
    return tuple(way for a in some for b in others for way in (f"{a}>{b}", f"{b}>{a}"))


def halves(rng: random.Random, names: Names) -> tuple[str, ...]:
    mixed = rng.sample(names, len(names))
    middle = rng.randint(1, max(1, len(mixed) - 1))
    return between(mixed[:middle], mixed[middle:])


def isolate(rng: random.Random, names: Names) -> tuple[str, ...]:
    one = rng.choice(names)
    return between([one], [name for name in names if name != one])


def one_way(rng: random.Random, names: Names) -> tuple[str, ...]:
    mixed = rng.sample(names, len(names))
    middle = rng.randint(1, max(1, len(mixed) - 1))
    return tuple(f"{a}>{b}" for a in mixed[:middle] for b in mixed[middle:])


def bridge(rng: random.Random, names: Names) -> tuple[str, ...]:
    mixed = rng.sample(names, len(names))
    rest = mixed[1:]
    return between(rest[: len(rest) // 2], rest[len(rest) // 2 :])


def ring(rng: random.Random, names: Names) -> tuple[str, ...]:
    mixed = rng.sample(names, len(names))
    size = len(mixed)
    near = {(a, (a + step) % size) for a in range(size) for step in (1, size - 1)}
    return tuple(
        f"{mixed[a]}>{mixed[b]}" for a, b in permutations(range(size), 2) if (a, b) not in near
    )


def pair(rng: random.Random, names: Names) -> tuple[str, ...]:
    if len(names) < 2:
        return ()
    a, b = rng.sample(names, 2)
    return (f"{a}>{b}",)


def one(rng: random.Random, names: Names) -> tuple[str, ...]:
    return (rng.choice(names),)


def some(rng: random.Random, names: Names) -> tuple[str, ...]:
    return tuple(sorted(rng.sample(names, rng.randint(1, len(names)))))


def everybody(rng: random.Random, names: Names) -> tuple[str, ...]:
    del rng
    return tuple(names)


def service(name: str) -> Callable[[random.Random, Names], tuple[str, ...]]:
    return lambda rng, names: (name,)  # noqa: ARG005 - it is always this one


WAYS = (halves, isolate, one_way, bridge, ring, pair)
"""Whose targets are ways."""
