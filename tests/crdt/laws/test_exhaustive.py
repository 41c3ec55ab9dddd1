"""Every history of up to four edits by three replicas, for every type: convergence and meaning.

A history is a set of edits, each with its author and with what that had seen: any causally closed
part of the others that contains the author's own. Of histories that differ only in the names of
replicas one is checked, under ascending and under descending session ids.

Checked is, for the state S of every history H: applying any last edit to the state of the rest
gives S, and so does every join of two states of which one lacks one last edit, and the other lacks
another, or is that edit's author's. As the same was checked for all smaller histories, S follows in
whatever causal order its operations and snapshots arrive. And S reads as the specification says.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import pytest

from crdt import Document
from crdt.access import ShardView
from crdt.lattice import Shard
from crdt.operation import Operation
from crdt.snapshot import ShardSnapshot
from simulations.specification import Event
from tests.crdt.profiles import THOROUGH

from .typed import ID, KINDS, Look, Step, Typist, converted, declared, expected

AUTHORS: Final = 3
EDITS: Final = 4


class Mark(NamedTuple):
    """An edit of a history without what it does: its author, and the edits that had seen."""

    author: int
    seen: frozenset[Mark]


Shape = frozenset[Mark]


def ways(*choices: int, delete: int = 9, keys: int = 0) -> tuple[Step, ...]:
    return tuple(Step(0, 0, 0, 1, choice, keys, delete) for choice in choices)


FOR_GOOD: Final = ways(0, delete=6)


IN_MAPS: Final = ways(0, delete=0) + ways(0, delete=1)


class Scope(NamedTuple):
    """What is done to a field: in the longest histories less, unless the run is a thorough one."""

    name: str
    depth: int
    longest: tuple[Step, ...]
    shorter: tuple[Step, ...]


SCOPES: Final = {
    f"{scope.name}_{scope.depth}": scope
    for scope in (
        Scope("register", 0, ways(0, 1) + FOR_GOOD, ways(0, 1, 2, 3) + FOR_GOOD),
        Scope("register", 1, ways(0, 1) + ways(0, delete=0), ways(0, 1) + ways(0, 1, delete=0)),
        Scope("multivalue", 0, ways(0, 1, 7), ways(0, 1, 3, 7) + FOR_GOOD),
        Scope("maximum", 0, ways(1, 2, 7) + FOR_GOOD, ways(0, 1, 2, 3, 7) + FOR_GOOD),
        Scope("minimum", 0, ways(1, 2, 7) + FOR_GOOD, ways(0, 1, 2, 3, 7) + FOR_GOOD),
        Scope("counter", 0, ways(0, 3) + FOR_GOOD, ways(0, 1, 3) + FOR_GOOD),
        Scope("counter", 1, ways(0, 3) + ways(0, delete=0), ways(0, 1, 3) + ways(0, delete=0)),
        Scope("flag", 0, ways(0, 1) + FOR_GOOD, ways(0, 1) + FOR_GOOD),
        Scope("careful", 0, ways(0, 1) + FOR_GOOD, ways(0, 1) + FOR_GOOD),
        Scope("set", 0, ways(0, 4, 6) + FOR_GOOD, ways(0, 1, 4, 5, 6) + FOR_GOOD),
        Scope("set", 2, ways(0, 4) + IN_MAPS, ways(0, 1, 4) + IN_MAPS),
        Scope("banned", 0, ways(0, 4, 7), ways(0, 1, 4, 5, 7) + FOR_GOOD),
        Scope("feed", 0, ways(0, 1) + FOR_GOOD, ways(0, 1, 2) + FOR_GOOD),
        Scope("decided", 0, ways(0, 1, 2) + FOR_GOOD, ways(0, 1, 2, 3) + FOR_GOOD),
        Scope("bounded", 0, ways(2, 3, 5) + FOR_GOOD, ways(1, 2, 3, 5, 6) + FOR_GOOD),
        Scope("text", 0, ways(0, 5), ways(0, 1, 5) + FOR_GOOD),
        Scope("sequence", 0, ways(1, 4), ways(1, 4, 5) + FOR_GOOD),
    )
}  # fmt: skip
YRS: Final = ("text", "sequence")


@functools.cache
def shapes(edits: int) -> tuple[Shape, ...]:
    """All histories of so many edits, one for all namings of replicas, in an order that is always
    the same.
    """
    found: set[Shape] = {frozenset()}
    for _ in range(edits):
        found = {shape | {mark} for shape in found for mark in _next_marks(shape)}
    chosen: list[Shape] = []
    while found:
        shape = min(found, key=_order)
        chosen.append(shape)
        found -= {
            frozenset(_renamed(mark, names) for mark in shape)
            for names in itertools.permutations(range(AUTHORS))
        }
    return tuple(chosen)


def _next_marks(shape: Shape) -> Iterator[Mark]:
    for author in range(AUTHORS):
        own = {mark for mark in shape if mark.author == author}
        for size in range(len(shape) + 1):
            for seen in map(frozenset, itertools.combinations(shape, size)):
                if own <= seen and all(mark.seen <= seen for mark in seen):
                    yield Mark(author, seen)


def _renamed(mark: Mark, names: tuple[int, ...]) -> Mark:
    return Mark(names[mark.author], frozenset(_renamed(each, names) for each in mark.seen))


def _order(shape: Shape) -> list[Any]:
    return sorted([mark.author, len(mark.seen), _order(mark.seen)] for mark in shape)


class Edit(NamedTuple):
    """One edit of one history: who had seen what and did what, in both languages."""

    author: int
    seen: frozenset[int]
    done: tuple[tuple[Event, Operation], ...]


class Explorer:
    """All histories of one field under one naming of sessions; what they share is computed once."""

    def __init__(self, scope: Scope, sessions: tuple[int, ...]) -> None:
        self.checked = 0
        self._name, self._depth = scope.name, scope.depth
        self._sessions = sessions
        attribute = f"{scope.name}_{scope.depth}"
        annotations = {attribute: declared(KINDS[scope.name].annotation, scope.depth)}
        self._class: type[Document] = type("Thing", (Document,), {"__annotations__": annotations})
        self._numbers: dict[tuple[int, Step, frozenset[int]], int] = {}
        self._edits: list[Edit] = []
        self._states: dict[frozenset[int], ShardSnapshot] = {}

    def explore(self, shape: Shape, steps: tuple[Step, ...]) -> None:
        """Check every history of this shape whose edits all have an effect."""
        marks = sorted(shape, key=lambda mark: (len(mark.seen), _order(frozenset((mark,)))))
        for chosen in itertools.product(steps, repeat=len(marks)):
            numbers: dict[Mark, int] = {}
            for mark, step in zip(marks, chosen, strict=True):
                seen = frozenset(numbers[each] for each in mark.seen)
                number = self._edit(mark.author, step, seen)
                if not self._edits[number].done:
                    break
                numbers[mark] = number
            else:
                history = frozenset(numbers.values())
                if len(history) == len(marks):
                    self._check(history)
                    self.checked += 1

    def _look(self, access: Any) -> Any:
        thing: Any = self._class.bind(access, ID)
        if self._name == "bounded":
            editor = thing.bounded_0
            return (editor.value, editor.rights) if editor.rights else None
        attribute = f"{self._name}_{self._depth}"
        return converted(self._name, self._depth, thing.snapshot()[attribute]) or None

    def _edit(self, author: int, step: Step, seen: frozenset[int]) -> int:
        """The number of an edit; made by its author when it is first asked for."""
        key = (author, step, seen)
        if key not in self._numbers:
            look: Look = self._look
            known = frozenset(event.dot for one in seen for event, _ in self._edits[one].done)
            typist = Typist(self._sessions[author], self._class)
            for one in seen:
                if self._edits[one].author == author:
                    typist.remember(self._edits[one].done[-1][0].stamp)
            done = typist.edit(self._shard(seen), self._name, self._depth, step, known, look)
            self._numbers[key] = len(self._edits)
            self._edits.append(Edit(author, seen, tuple(done)))
        return self._numbers[key]

    def _shard(self, history: frozenset[int]) -> Shard:
        shard = Shard(b"key")
        if history:
            shard.join(self._state(history))
        return shard

    def _state(self, history: frozenset[int]) -> ShardSnapshot:
        """The state of a history, made in one of the orders."""
        if history not in self._states:
            last = max(history)  # nothing that has a lower number had seen it
            self._states[history] = self._applied(history, last).snapshot()
        return self._states[history]

    def _applied(self, history: frozenset[int], last: int) -> Shard:
        shard = self._shard(history - {last})
        for event, operation in self._edits[last].done:
            shard.apply(*event.dot, operation)
        return shard

    def _check(self, history: frozenset[int]) -> None:
        edits = self._edits
        lasts = [one for one in history if not any(one in edits[each].seen for each in history)]
        shards = [self._applied(history, last) for last in lasts]
        for last, other in itertools.permutations(lasts, 2):
            shards.append(self._shard(history - {last}))
            shards[-1].join(self._state(history - {other}))
        for last in lasts:
            shards.append(self._shard(history - {last}))
            shards[-1].join(self._state(edits[last].seen | {last}))
        states = [self._all_of(shard) for shard in shards]
        assert all(state == states[0] for state in states), self._told(history)
        events = [event for one in history for event, _ in edits[one].done]
        meant = expected(events, self._name, self._depth)
        assert self._look(ShardView(shards[0])) == meant, self._told(history)

    def _all_of(self, shard: Shard) -> tuple[Any, ...]:
        snapshot = shard.snapshot()
        # The encoding of a text is not unique; what it shows is in the digest.
        entries = () if self._name in YRS else snapshot.documents
        return snapshot.frontier, snapshot.generations, entries, snapshot.digest

    def _told(self, history: frozenset[int]) -> str:
        lines = []
        for one in sorted(history):
            for event, _ in self._edits[one].done:
                assert isinstance(event.seen, frozenset)
                lines.append(f"{event.dot} {event.action} {event.value} saw {sorted(event.seen)}")
        return "\n".join(lines)


# How many histories there are in which every edit has an effect, by default and in a thorough run:
# if other numbers are checked, say why here.
HISTORIES: Final = {
    "register_0": (12556, 75660),
    "register_1": (5232, 9100),
    "multivalue_0": (6760, 46276),
    "maximum_0": (9516, 41488),
    "minimum_0": (9516, 41488),
    "counter_0": (11036, 31336),
    "counter_1": (5732, 19386),
    "flag_0": (10104, 10104),
    "careful_0": (10104, 10104),
    "set_0": (5860, 24320),
    "set_2": (2852, 12256),
    "banned_0": (6864, 93096),
    "feed_0": (11036, 31336),
    "decided_0": (12804, 25480),
    "bounded_0": (3967, 16186),
    "text_0": (3496, 31336),
    "sequence_0": (2264, 22738),
}


@pytest.mark.parametrize("name", SCOPES)
def test_every_short_history_converges_to_what_is_specified(name: str) -> None:
    scope = SCOPES[name]
    checked = 0
    for sessions in ((1, 2, 3), (3, 2, 1)):
        explorer = Explorer(scope, sessions)
        for edits in range(1, EDITS + 1):
            steps = scope.shorter if edits < EDITS or THOROUGH else scope.longest
            for shape in shapes(edits):
                explorer.explore(shape, steps)
        checked += explorer.checked
    assert checked == HISTORIES[name][THOROUGH]


def test_all_shapes_of_histories_are_there() -> None:
    """Of one author 1, 1, 1, 1; of two also those with 1, 2 … edits each, and so on."""
    assert [len(shapes(edits)) for edits in range(5)] == [1, 1, 3, 12, 58]
