"""The trace of a run: everything that happened, in order, as one running hash.

Two runs of a seed are the same exactly if their hashes are. Where they are not, the lines say where
they parted; they are kept only if asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from itertools import zip_longest

from simulations.loop import SimLoop

__all__ = ("Trace", "first_difference")


class Trace:
    """Words are plain data: what they show must not depend on addresses or on the order of sets."""

    def __init__(self, loop: SimLoop, *, keep: bool = False) -> None:
        self._loop = loop
        self._hash = blake2b(digest_size=16)
        self.lines: list[str] | None = [] if keep else None
        self.events = 0
        self.open = True
        self.watch: Callable[[tuple[object, ...]], None] | None = None
        """Told of each event before anything else happens; must change nothing."""

    def __repr__(self) -> str:
        return f"<Trace of {self.events} events>"

    def add(self, *words: object) -> None:
        """Something happened now. Nothing more is taken in once the trace is not `open`."""
        if not self.open:
            return
        line = f"{self._loop.now_ns} {' '.join(map(str, words))}\n"
        self.events += 1
        self._hash.update(line.encode())
        if self.lines is not None:
            self.lines.append(line[:-1])
        if self.watch is not None:
            self.watch(words)

    @property
    def hash(self) -> str:
        """32 hex digits of all so far."""
        return self._hash.hexdigest()


def first_difference(one: Sequence[str], other: Sequence[str], context: int = 3) -> str:
    """Where two traces part, with some lines before; "" if they don't."""
    for number, (left, right) in enumerate(zip_longest(one, other)):
        if left != right:
            before = "".join(f"  {line}\n" for line in one[max(0, number - context) : number])
            return f"event {number}:\n{before}- {left}\n+ {right}"
    return ""
