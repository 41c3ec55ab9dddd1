"""What has an effect, and how often: counters, and elements of every kind."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from simulations.judges.base import Judge
from simulations.judges.history import History, Outcome, Write, sees

__all__ = ("CounterBounds", "NoDuplicateEffect", "OutOfThinAir")


class CounterBounds(Judge):
    """In the end a counter is the sum of all acknowledged amounts, and of some of those of which
    nobody knows, as Maelstrom's `pn-counter` has it. Nobody deletes the `fields`.
    """

    def __init__(self, fields: Sequence[str]) -> None:
        super().__init__()
        self._fields = fields

    def _wrong(self, history: History) -> Iterator[str]:
        adds: dict[tuple[str, str], list[Write]] = defaultdict(list)
        for one in history.writes:
            if one.place[0] in self._fields:
                adds[one.document, one.place[0]].append(one)
        allowed: dict[tuple[str, str], set[int]] = {}
        for read in history.reads:
            if not read.final or read.outcome is not Outcome.OK:
                continue
            for field in self._fields:
                where = read.document, field
                if where not in allowed:
                    allowed[where] = possible_sums(adds[where])
                self.checked += 1
                value = read.values.get(field) or 0
                if value not in allowed[where]:
                    yield (
                        f"{read.document}, {field}: {read.replica} has {value} in the end, which "
                        "no choice of unacknowledged amounts explains"
                    )


def possible_sums(adds: Iterable[Write]) -> set[int]:
    """All that a counter may be in the end."""
    sums = {0}
    for one in adds:
        if one.outcome is Outcome.OK:
            sums = {each + one.value for each in sums}
        elif one.outcome is Outcome.INFO:
            sums |= {each + one.value for each in sums}
    return sums


class NoDuplicateEffect(Judge):
    """Everything counts once: no element is twice in a list, and a counter is the sum of exactly
    those amounts that its replica has seen. Nobody deletes the counters.
    """

    def __init__(self, lists: Sequence[str], counters: Sequence[str]) -> None:
        super().__init__()
        self._lists = lists
        self._counters = counters

    def _wrong(self, history: History) -> Iterator[str]:
        adds: dict[tuple[str, str], list[Write]] = defaultdict(list)
        for one in history.writes:
            if one.place[0] in self._counters and one.outcome is not Outcome.FAIL:
                adds[one.document, one.place[0]].append(one)
        for read in history.reads:
            if read.outcome is Outcome.FAIL:
                continue
            where = f"{read.client} reading {read.document} at {read.at:.3f} s"
            for field in self._lists:
                values = read.values.get(field) or ()
                self.checked += len(values)
                if len(set(values)) < len(values):
                    twice = sorted(one for one, n in Counter(values).items() if n > 1)
                    yield f"{where}: {field} has {twice} more than once"
            for field in self._counters:
                due = sum(
                    one.value for one in adds[read.document, field] if sees(read.seen, one.dot)
                )
                self.checked += 1
                value = read.values.get(field) or 0
                if value != due:
                    yield f"{where}: {field} is {value}, of amounts that make {due}"


BRINGS = frozenset({"set", "insert", "append", "type"})
"""Actions after which something may be read."""


class OutOfThinAir(Judge):
    """Nothing is read but what somebody wrote before there, or may have written: elements, values,
    characters, keys. Counters and flags (the fields `without`) have nothing to tell it by.
    """

    def __init__(self, without: Sequence[str]) -> None:
        super().__init__()
        self._without = without

    def _wrong(self, history: History) -> Iterator[str]:
        began: dict[tuple[str, str], dict[Any, int]] = defaultdict(dict)
        for one in history.writes:
            if one.outcome is not Outcome.FAIL and one.action in BRINGS:
                known = began[one.document, one.place[0]]
                for atom in written(one):
                    known.setdefault(atom, one.index)
        proven: set[tuple[str, str, Any]] = set()
        for read in history.reads:
            for field, value in read.values.items():
                if field in self._without:
                    continue
                if isinstance(value, tuple):
                    if (read.document, field, value) in proven:
                        continue
                    proven.add((read.document, field, value))
                known = began[read.document, field]
                for atom in atoms(value):
                    self.checked += 1
                    if known.get(atom, read.index) >= read.index:
                        yield (
                            f"{read.client} reading {read.document} at {read.at:.3f} s has "
                            f"{atom!r} in {field}, which nobody had written"
                        )


def written(one: Write) -> Iterator[Any]:
    """What a write may let be read in its field."""
    value = one.value[1] if one.action == "type" else one.value
    for key in reversed(one.place[1:]):
        value = {key: value}
    return atoms(value)


def atoms(value: Any, path: tuple[Any, ...] = ()) -> Iterator[Any]:
    """What plain data is made of, each with the keys that lead to it; a list's elements anywhere in
    it.
    """
    if isinstance(value, Mapping):
        for key, below in value.items():
            yield from atoms(below, (*path, key))
    elif isinstance(value, list | tuple):
        for element in value:
            yield (*path, element)
    elif value is not None:
        yield (*path, value)
