"""Every type, alone and under up to four Maps, written and read through the public API by three
replicas, means what the specification says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crdt import (
    BoundedCounter,
    Counter,
    Decided,
    DisableWins,
    Document,
    Feed,
    Flag,
    Map,
    Maximum,
    Minimum,
    MultiValue,
    Register,
    RemoveWins,
    Set,
)
from crdt.access import Overlay, ShardView, commit
from crdt.clock import HybridClock
from crdt.codec import decode_stamped
from crdt.ids import Dot
from crdt.lattice import Shard
from crdt.operation import Operation
from crdt.paths import TypeCode, leaf_code
from simulations import specification as meaning
from simulations.specification import Event

ID = "Thing/1"
SESSIONS = (1, 2, 3)
DEPTHS = range(5)
STAMPED = {TypeCode.REGISTER, TypeCode.MULTIVALUE, TypeCode.FEED}

Done = list[tuple[str, Any]]
"""What was done at one place, as the specification's actions and values; empty: it had no
effect.
"""


class Leaf(NamedTuple):
    """One field, or one key of a Map: what is read there, and assigned."""

    holder: Any
    key: str

    def read(self) -> Any:
        return self.holder[self.key] if self.mapped else getattr(self.holder, self.key)

    def write(self, value: Any) -> None:
        if self.mapped:
            self.holder[self.key] = value
        else:
            setattr(self.holder, self.key, value)

    @property
    def mapped(self) -> bool:
        return not isinstance(self.holder, Document)

    @property
    def empty(self) -> bool:
        return self.mapped and self.key not in self.holder


def write_register(leaf: Leaf, choice: int) -> Done:
    leaf.write("abcd"[choice % 4])
    return [("set", "abcd"[choice % 4])]


def write_multivalue(leaf: Leaf, choice: int) -> Done:
    if choice == 7:
        removed = [("delete", None)] if leaf.read() else []
        if leaf.mapped:
            leaf.holder.discard(leaf.key)
        else:
            delattr(leaf.holder, leaf.key)
        return removed
    leaf.write((1, True, "a", 1.0)[choice % 4])
    return [("set", (1, True, "a", 1.0)[choice % 4])]


def write_extremum(better: Callable[[int, int], int]) -> Callable[[Leaf, int], Done]:
    def act(leaf: Leaf, choice: int) -> Done:
        held = None if leaf.empty else leaf.read()
        if choice == 7 and not leaf.mapped:
            delattr(leaf.holder, leaf.key)
            return [] if held is None else [("delete", None)]
        leaf.write(choice)
        gains = held is None or (held != choice and better(held, choice) == choice)
        return [("set", choice)] if gains else []

    return act


def write_counter(leaf: Leaf, choice: int) -> Done:
    leaf.write(leaf.read() + choice - 2)
    return [("add", choice - 2)] if choice != 2 else []


def write_flag(leaf: Leaf, choice: int) -> Done:
    leaf.write(choice % 2 == 0)
    return [("flag", choice % 2 == 0)]


def write_set(leaf: Leaf, choice: int) -> Done:
    name, labels = "ab"[choice % 2], leaf.read()
    before = set(labels)
    if choice < 4:
        labels.add(name)
        return [("insert", name)]
    if choice < 6:
        labels.discard(name)
        return [("remove", name)] if name in before else []
    labels.clear()
    return [("delete", None)] if before else []


def write_remove_wins(leaf: Leaf, choice: int) -> Done:
    name, labels = "ab"[choice % 2], leaf.read()
    before = list(labels)
    if choice < 4:
        labels.add(name)
        return [("insert", name)]
    if choice < 6:
        labels.discard(name)
        return [("remove", name)]
    if choice == 6:
        labels.clear()
        return [("remove", each) for each in before]
    return [("forget", None)] if labels.forget_removed() else []


def write_feed(leaf: Leaf, choice: int) -> Done:
    leaf.read().append("abcd"[choice % 4])
    return [("append", "abcd"[choice % 4])]


def write_decided(leaf: Leaf, choice: int) -> Done:
    before = leaf.read().epoch
    leaf.read().decide(choice + 1, "ab"[choice % 2])
    return [("decide", (choice + 1, "ab"[choice % 2]))] if choice + 1 > before else []


def write_bounded(leaf: Leaf, choice: int) -> Done:
    editor = leaf.read()
    other = SESSIONS[(editor._access.session + choice % 2) % 3]  # never the own one
    available = editor.available
    if choice < 3:
        editor.grant(choice)
        return [("grant", choice)] if choice else []
    if choice < 5:
        editor.spend(available - available // 2)
        return [("spend", available - available // 2)] if available else []
    if choice < 7:
        editor.transfer(other, available // 2)
        return [("transfer", (other, available // 2))] if available > 1 else []
    taken = editor.rights.get(other, 0)
    assert editor.take_over(other) == max(0, taken)
    return [("take", (other, taken))] if taken > 0 else []


class Kind(NamedTuple):
    """A type: how it is declared, what it means, and one of eight ways to write it."""

    annotation: Any
    meaning: meaning.Meaning
    act: Callable[[Leaf, int], Done]
    depths: range = DEPTHS


KINDS = {
    "register": Kind(Register[str], meaning.register, write_register),
    "multivalue": Kind(MultiValue[Any], meaning.multivalue, write_multivalue),
    "maximum": Kind(Maximum[int], meaning.maximum, write_extremum(max)),
    "minimum": Kind(Minimum[int], meaning.minimum, write_extremum(min)),
    "counter": Kind(Counter, meaning.counter, write_counter),
    "flag": Kind(Flag, meaning.flag, write_flag),
    "careful": Kind(Annotated[Flag, DisableWins()], meaning.disable_wins, write_flag),
    "set": Kind(Set[str], meaning.elements, write_set),
    "feed": Kind(Feed[str], meaning.feed, write_feed),
    "banned": Kind(
        Annotated[Set[str], RemoveWins()],
        meaning.elements_remove_wins,
        write_remove_wins,
        range(1),
    ),
    "decided": Kind(Decided[str], meaning.decided, write_decided, range(1)),
    "bounded": Kind(BoundedCounter, meaning.bounded, write_bounded, range(1)),
}
FIELDS = [(name, depth) for name, kind in KINDS.items() for depth in kind.depths]


def declared(annotation: Any, depth: int) -> Any:
    return annotation if depth == 0 else Map[str, declared(annotation, depth - 1)]  # type: ignore[misc]


def specified(of: meaning.Meaning, depth: int) -> meaning.Meaning:
    return of if depth == 0 else meaning.mapping(specified(of, depth - 1))


class Thing(Document):
    """A field of every kind at every depth it is allowed at."""

    __annotations__ = {
        f"{name}_{depth}": declared(KINDS[name].annotation, depth) for name, depth in FIELDS
    }


class Step(NamedTuple):
    """Who listens to whom, if at all, and then does what where."""

    who: int
    hear: int  # 0, 1: nobody; 2, 3: joins, or applies the operations of, one of the others
    partner: int
    field: int  # 0: the other field
    choice: int
    keys: int
    delete: int  # a level of Maps at which to remove instead; 5: to clear


step = st.builds(
    Step,
    st.integers(0, 2),
    st.integers(0, 3),
    st.integers(0, 1),
    st.integers(0, 3),
    st.integers(0, 7),
    st.integers(0, 3),
    st.integers(0, 9),
)


def perform(thing: Any, name: str, depth: int, step: Step) -> list[tuple[meaning.Place, str, Any]]:
    """Do one thing to the document and say what was done, for the specification."""
    attribute = f"{name}_{depth}"
    # The outermost and the innermost key are chosen: that is enough to meet, and to miss.
    keys = ["ab"[step.keys // 2 if level == 0 else step.keys % 2] for level in range(depth)]
    place: list[str] = [attribute]
    holder: Any = thing
    key = attribute
    for level, following in enumerate(keys):
        holder = holder[key] if level else getattr(holder, key)
        if step.delete == level:
            present = following in holder
            holder.discard(following)
            return [((*place, following), "delete", None)] if present else []
        if step.delete == 5 and level == step.choice % depth:
            present = len(holder) > 0
            holder.clear()
            return [(tuple(place), "delete", None)] if present else []
        place.append(following)
        key = following
    done = KINDS[name].act(Leaf(holder, key), step.choice)
    return [(tuple(place), action, value) for action, value in done]


@dataclass
class Writer:
    """One replica with the real lattice on one side and the bare events on the other."""

    session: int
    shard: Shard = field(default_factory=Shard)
    events: dict[Dot, Event] = field(default_factory=dict)
    history: dict[Dot, Operation] = field(default_factory=dict)

    def edit(self, name: str, depth: int, step: Step) -> None:
        clock = HybridClock(lambda: 1000 + step.choice)  # wall clocks disagree, and go back
        overlay = Overlay(self.shard, self.session, clock)
        done = perform(Thing.bind(overlay, ID), name, depth, step)
        inside = shown(overlay)
        first = self.shard.frontier.get(self.session, 0) + 1
        transaction = commit(self.shard, overlay, "edit", "a", "")
        operations = () if transaction is None else transaction.operations
        assert len(operations) == len(done)
        assert shown(ShardView(self.shard)) == inside
        for seq, operation in enumerate(operations, first):
            place, action, value = done[seq - first]
            stamp = 0
            if operation.payload is not None and leaf_code(operation.path) in STAMPED:
                stamp, _ = decode_stamped(operation.payload)
            dot = (self.session, seq)
            self.events[dot] = Event(dot, stamp, place, action, value, frozenset(self.events))
            self.history[dot] = operation

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


def converted(name: str, depth: int, value: Any) -> Any:
    if depth:
        return {key: converted(name, depth - 1, each) for key, each in value.items()}
    if name in ("set", "banned"):
        return frozenset(value)
    if name == "multivalue":
        return tuple((type(each), each) for each in value)
    if name == "decided":
        return value and (value["epoch"], value["value"])
    return value


def expected(events: list[Event], name: str, depth: int) -> Any:
    kind = KINDS[name]
    typed = kind.meaning
    if name == "multivalue":

        def typed(events: meaning.Events, place: meaning.Place) -> Any:
            found = meaning.multivalue(events, place)
            return found and tuple((type(each), each) for each in found)

    return specified(typed, depth)(events, (f"{name}_{depth}",)) or None


@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=100)
@given(
    depth=st.sampled_from(DEPTHS),
    other=st.sampled_from(FIELDS),
    steps=st.lists(step, min_size=1, max_size=40),
)
def test_values_are_what_the_specification_says(
    name: str, depth: int, other: tuple[str, int], steps: list[Step]
) -> None:
    fields = [(name, depth % len(KINDS[name].depths)), other]
    writers = [Writer(session) for session in SESSIONS]
    for step in steps:
        writer = writers[step.who]
        if step.hear >= 2:
            partner = writers[(step.who + 1 + step.partner) % 3]
            writer.hear(partner, join=step.hear == 2)
        writer.edit(*fields[step.field == 0], step)
    for writer in writers:
        events = list(writer.events.values())
        seen = shown(ShardView(writer.shard))
        for each, level in FIELDS:
            assert seen[f"{each}_{level}"] == expected(events, each, level), (each, level)
    for writer in writers:
        for partner in writers:
            writer.hear(partner, join=False)
    assert len({repr(shown(ShardView(writer.shard))) for writer in writers}) == 1
    assert len({writer.shard.digest() for writer in writers}) == 1
