"""Every type, alone and under up to four Maps, written and read through the public API by three
replicas, means what the specification says.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest
from hypothesis import strategies as st

from crdt import Document
from crdt.access import ShardView
from crdt.ids import Dot
from crdt.lattice import Shard
from crdt.operation import Operation
from simulations.specification import Event, deleted

from .law import new_law
from .typed import (
    DEPTHS,
    FIELDS,
    ID,
    KINDS,
    SESSIONS,
    Step,
    Typist,
    converted,
    declared,
    expected,
    steps,
)


class Thing(Document):
    """A field of every kind at every depth it is allowed at."""

    __annotations__ = {
        f"{name}_{depth}": declared(KINDS[name].annotation, depth) for name, depth in FIELDS
    }


@dataclass
class Writer:
    """One replica with the real lattice on one side and the bare events on the other."""

    typist: Typist
    shard: Shard = field(default_factory=Shard)
    events: dict[Dot, Event] = field(default_factory=dict)
    history: dict[Dot, Operation] = field(default_factory=dict)

    def edit(self, name: str, depth: int, step: Step) -> None:
        known = frozenset(self.events)
        for event, operation in self.typist.edit(self.shard, name, depth, step, known, shown):
            self.events[event.dot] = event
            self.history[event.dot] = operation

    def hear(self, other: Writer, *, join: bool) -> None:
        if join:
            self.shard.join(other.shard.snapshot())
        else:
            for (session, seq), operation in other.history.items():
                self.shard.apply(session, seq, operation)
        self.history |= {d: each for d, each in other.history.items() if d not in self.history}
        self.events |= other.events


def shown(access: Any) -> dict[str, Any]:
    """What the document shows, in the specification's terms: nothing is None."""
    thing: Any = Thing.bind(access, ID)
    found: dict[str, Any] = thing.snapshot()
    for name, depth in FIELDS:
        attribute = f"{name}_{depth}"
        found[attribute] = converted(name, depth, found[attribute]) or None
    editor = thing.bounded_0
    found["bounded_0"] = (editor.value, editor.rights) if editor.rights else None
    return found


class Case(NamedTuple):
    """Edits of a field of one kind, `depth` Maps deep, and now and then of another field."""

    name: str
    depth: int
    other: tuple[str, int]
    steps: list[Step]


def stamped_above_all_it_saw(event: Event, events: list[Event]) -> bool:
    """Else a write could lose against one that its author had overwritten. What was deleted before
    is forgotten, its stamps too.
    """
    if event.action != "set" or not str(event.place[0]).startswith(("register", "multivalue")):
        return True
    known = [each for each in events if each.dot in event.seen]
    return all(
        each.stamp < event.stamp or deleted(known, each)
        for each in known
        if (each.place, each.action, each.generation) == (event.place, "set", event.generation)
    )


def check(case: Case) -> None:
    fields = [(case.name, case.depth % len(KINDS[case.name].depths)), case.other]
    writers = [Writer(Typist(session, Thing)) for session in SESSIONS]
    for step in case.steps:
        writer = writers[step.who]
        if step.hear >= 4:
            partner = writers[(step.who + 1 + step.partner) % 3]
            writer.hear(partner, join=step.hear == 4)
        writer.edit(*fields[step.field == 0], step)
    for writer in writers:
        reads_as_specified(writer)
    for writer in writers:
        for partner in writers:
            writer.hear(partner, join=False)
    for writer in writers:
        reads_as_specified(writer)
    assert len({repr(shown(ShardView(writer.shard))) for writer in writers}) == 1
    assert len({writer.shard.digest() for writer in writers}) == 1


def reads_as_specified(writer: Writer) -> None:
    events = list(writer.events.values())
    assert all(stamped_above_all_it_saw(event, events) for event in events)
    seen = shown(ShardView(writer.shard))
    for each, level in FIELDS:
        assert seen[f"{each}_{level}"] == expected(events, each, level), (each, level)


VALUES = {
    name: new_law(
        f"values of {name}",
        st.builds(Case, st.just(name), st.sampled_from(DEPTHS), st.sampled_from(FIELDS), steps),
        check,
    )
    for name in KINDS
}


@pytest.mark.parametrize("name", VALUES)
def test_values_are_what_the_specification_says(name: str) -> None:
    VALUES[name].hold()
