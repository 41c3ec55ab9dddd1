"""Every type, written and read through the public API by three replicas, means what the
specification says.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from crdt import Counter, Decided, Document, Feed, Flag, Map, Register, Set
from crdt.access import Overlay, ShardView, commit
from crdt.clock import HybridClock
from crdt.codec import decode_stamped
from crdt.ids import Dot
from crdt.lattice import Shard
from crdt.operation import Operation
from simulations import specification as meaning
from simulations.specification import Event

ID = "Thing/1"


class Thing(Document):
    title: Register[str]
    effort: Counter
    done: Flag
    labels: Set[str]
    log: Feed[str]
    state: Decided[str]
    notes: Map[str, Register[str]]
    sums: Map[str, Counter]
    groups: Map[str, Set[str]]
    nested: Map[str, Map[str, Flag]]


SPECIFIED: dict[str, meaning.Meaning] = {
    "title": meaning.register,
    "effort": meaning.counter,
    "done": meaning.flag,
    "labels": meaning.elements,
    "log": meaning.feed,
    "state": meaning.decided,
    "notes": meaning.mapping(meaning.register),
    "sums": meaning.mapping(meaning.counter),
    "groups": meaning.mapping(meaning.elements),
    "nested": meaning.mapping(meaning.mapping(meaning.flag)),
}

Step = tuple[int, int, int]
steps = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 25), st.integers(0, 3)), min_size=1, max_size=40
)


@dataclass
class Writer:
    """One replica with the real lattice on one side and the bare events on the other."""

    session: int
    shard: Shard = field(default_factory=Shard)
    events: dict[Dot, Event] = field(default_factory=dict)
    history: dict[Dot, tuple[Operation, dict[int, int]]] = field(default_factory=dict)

    def edit(self, kind: int, choice: int) -> None:
        clock = HybridClock(lambda: 1000 + choice)  # wall clocks disagree, and go back
        overlay = Overlay(self.shard, self.session, clock)
        thing = Thing.bind(overlay, ID)
        done = perform(thing, kind, choice)
        context = dict(self.shard.frontier)
        transaction = commit(self.shard, overlay, "edit", "a", "")
        if transaction is None:
            return
        first = context.get(self.session, 0) + 1
        seen = frozenset(self.events)
        for (place, action, value), (seq, operation) in zip(
            done, enumerate(transaction.operations, first), strict=True
        ):
            stamp = 0
            if operation.payload is not None and action in ("set", "append"):
                stamp, _ = decode_stamped(operation.payload)
            dot = (self.session, seq)
            self.events[dot] = Event(dot, stamp, place, action, value, seen)
            self.history[dot] = (operation, context)
            context = {**context, self.session: seq}

    def hear(self, other: Writer, *, join: bool) -> None:
        if join:
            self.shard.join(other.shard.snapshot())
        else:
            for (session, seq), (operation, _) in other.history.items():
                self.shard.apply(session, seq, operation)
        self.history |= {d: each for d, each in other.history.items() if d not in self.history}
        self.events |= other.events


def perform(thing: Any, kind: int, choice: int) -> list[tuple[tuple[Any, ...], str, Any]]:
    """Do one thing to the document and say what was done, for the specification."""
    act = perform_on_a_field if kind < 12 else perform_in_a_map
    return act(thing, kind, choice, "abcd"[choice])


def perform_on_a_field(
    thing: Any, kind: int, choice: int, name: str
) -> list[tuple[tuple[Any, ...], str, Any]]:
    match kind:
        case 0 | 1:
            thing.title = name
            return [(("title",), "set", name)]
        case 2 | 3:
            thing.effort += choice + 1
            return [(("effort",), "add", choice + 1)]
        case 4 | 5:
            thing.done = choice % 2 == 0
            return [(("done",), "flag", choice % 2 == 0)]
        case 6 | 7:
            thing.labels.add(name)
            return [(("labels",), "insert", name)]
        case 8:
            thing.labels.discard(name)
            return [(("labels",), "remove", name)]
        case 9:
            thing.log.append(name)
            return [(("log",), "append", name)]
        case 10:
            thing.state.decide(choice + 1, name)
            return [(("state",), "decide", (choice + 1, name))]
        case _:
            thing.labels.clear()
            return [(("labels",), "delete", None)]


def perform_in_a_map(
    thing: Any, kind: int, choice: int, name: str
) -> list[tuple[tuple[Any, ...], str, Any]]:
    other = "abcd"[choice // 2]
    match kind:
        case 12 | 13:
            thing.notes[name] = other
            return [(("notes", name), "set", other)]
        case 14:
            thing.notes.discard(name)
            return [(("notes", name), "delete", None)]
        case 15 | 16:
            thing.sums.update({name: thing.sums[name] + 1})
            return [(("sums", name), "add", 1)]
        case 17:
            thing.sums.discard(name)
            return [(("sums", name), "delete", None)]
        case 18:
            thing.groups[other].add(name)
            return [(("groups", other), "insert", name)]
        case 19:
            thing.groups[other].discard(name)
            return [(("groups", other), "remove", name)]
        case 20:
            thing.groups.discard(other)
            return [(("groups", other), "delete", None)]
        case 21 | 22:
            thing.nested[other][name] = True
            return [(("nested", other, name), "flag", True)]
        case 23:
            thing.nested.discard(other)
            return [(("nested", other), "delete", None)]
        case 24:
            thing.nested[other].clear()
            return [(("nested", other), "delete", None)]
        case _:
            thing.sums.clear()
            return [(("sums",), "delete", None)]


def shown(shard: Shard) -> dict[str, Any]:
    """What the document shows, in the specification's terms: nothing is None."""
    found = Thing.bind(ShardView(shard), ID).snapshot()
    found["labels"] = frozenset(found["labels"])
    found["groups"] = {key: frozenset(each) for key, each in found["groups"].items()}
    if found["state"] is not None:
        found["state"] = (found["state"]["epoch"], found["state"]["value"])
    return {name: value or None for name, value in found.items()}


@settings(max_examples=200)
@given(steps)
def test_values_are_what_the_specification_says(script: list[Step]) -> None:
    writers = [Writer(1), Writer(2), Writer(3)]
    for who, kind, choice in script:
        # Of the choices' four values two make the writer listen first: histories mix.
        if choice >= 2 and kind % 2:
            writers[who].hear(writers[(who + choice) % 3], join=kind % 4 == 1)
        writers[who].edit(kind, choice)
    for writer in writers:
        events = list(writer.events.values())
        expected = {name: of(events, (name,)) or None for name, of in SPECIFIED.items()}
        assert shown(writer.shard) == expected
    for writer in writers:
        for other in writers:
            writer.hear(other, join=False)
    assert shown(writers[0].shard) == shown(writers[1].shard) == shown(writers[2].shard)
    assert len({writer.shard.digest() for writer in writers}) == 1
