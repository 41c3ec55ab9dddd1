"""Every type as it is written and read through the public API, and what was done, in the terms of
the specification.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

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
    Sequence,
    Set,
    Text,
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


def write_mixed(leaf: Leaf, choice: int) -> Done:
    """Elements that Python takes for equal."""
    element = (1, True, 1.0)[choice % 3]
    labels = leaf.read()
    before = {(type(each), each) for each in labels}
    if choice < 5:
        labels.add(element)
        return [("insert", (type(element), element))]
    labels.discard(element)
    return [("remove", (type(element), element))] if (type(element), element) in before else []


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


def write_text(leaf: Leaf, choice: int) -> Done:
    """Every character that is ever inserted is another one, so that each can be followed."""
    text = leaf.read()
    access = text._access
    if choice >= 5 and len(text):
        index = 0 if choice == 5 else len(text) - 1
        gone = text[index]
        text.delete(index)
        return [("remove", gone)]
    new = chr(0x4E00 + 64 * access.base + access.session)
    text.insert((0, len(text), len(text) // 2)[choice % 3], new)
    return [("insert", new)]


def write_sequence(leaf: Leaf, choice: int) -> Done:
    """An element is called by its first value; what replaces that begins with it."""
    items = leaf.read()
    access = items._access
    new = f"{access.session}.{access.base}"
    if choice < 3 or not len(items):
        items.insert((0, len(items), len(items) // 2)[choice % 3], new)
        return [("insert", new)]
    index = choice % len(items)
    old = items[index]
    if choice < 5:
        items.move(index, 0 if index else len(items) - 1)
        return [("move", old)] if len(items) > 1 else []
    if choice < 7:
        items[index] = f"{old.split()[0]} {new}"
        return [("move", f"{old.split()[0]} {new}")]
    del items[index]
    return [("remove", old)]


def characters(events: meaning.Events, place: meaning.Place) -> Any:
    """Which characters a text has. Their order is not specified but for being the same."""
    return sorted(meaning.elements(events, place) or ()) or None


def items(events: meaning.Events, place: meaning.Place) -> Any:
    """Which elements a sequence has, each by the values that may show: of its slots that nobody who
    had seen them deleted, moved or replaced those with the greatest stamp.
    """
    mine = [event for event in events if event.place == place]
    slots = [
        event
        for event in mine
        if event.action != "remove"
        and not any(event.dot in other.seen and named(event) == named(other) for other in mine)
    ]
    latest = {named(each): each.value for each in sorted(slots, key=lambda each: each.stamp)}
    return sorted(latest.values()) or None


def named(event: Event) -> str:
    """The element of a sequence that an event is about."""
    return str(event.value.split()[0])


KINDS = {
    "register": Kind(Register[str], meaning.register, write_register),
    "multivalue": Kind(MultiValue[Any], meaning.multivalue, write_multivalue),
    "maximum": Kind(Maximum[int], meaning.maximum, write_extremum(max)),
    "minimum": Kind(Minimum[int], meaning.minimum, write_extremum(min)),
    "counter": Kind(Counter, meaning.counter, write_counter),
    "flag": Kind(Flag, meaning.flag, write_flag),
    "careful": Kind(Annotated[Flag, DisableWins()], meaning.disable_wins, write_flag),
    "set": Kind(Set[str], meaning.elements, write_set),
    "mixed": Kind(Set[Any], meaning.elements, write_mixed, range(1)),
    "feed": Kind(Feed[str], meaning.feed, write_feed),
    "banned": Kind(
        Annotated[Set[str], RemoveWins()],
        meaning.elements_remove_wins,
        write_remove_wins,
        range(1),
    ),
    "decided": Kind(Decided[str], meaning.decided, write_decided, range(1)),
    "bounded": Kind(BoundedCounter, meaning.bounded, write_bounded, range(1)),
    "text": Kind(Text, characters, write_text, range(1)),
    "sequence": Kind(Sequence[str], items, write_sequence, range(1)),
}
FIELDS = [(name, depth) for name, kind in KINDS.items() for depth in kind.depths]


def declared(annotation: Any, depth: int) -> Any:
    return annotation if depth == 0 else Map[str, declared(annotation, depth - 1)]  # type: ignore[misc]


def specified(of: meaning.Meaning, depth: int) -> meaning.Meaning:
    return of if depth == 0 else meaning.mapping(specified(of, depth - 1))


class Step(NamedTuple):
    """Who listens to whom, if at all, and then does what where."""

    who: int
    hear: int  # joins (4), or applies the operations of (5), one of the others
    partner: int
    field: int  # 0: the other field
    choice: int
    keys: int
    delete: (
        int  # a level of Maps at which to remove instead; 5: to clear; 6: the document, for good
    )


steps = st.lists(
    st.builds(
        Step,
        st.integers(0, 2),
        st.integers(0, 5),
        st.integers(0, 1),
        st.integers(0, 3),
        st.integers(0, 7),
        st.integers(0, 3),
        st.sampled_from((9, 9, *range(10))),
    ),
    min_size=8,
    max_size=40,
)


class Distinct(HybridClock):
    """A clock of one session whose stamps no other session gives out."""

    def __init__(self, wall_ms: Callable[[], int], session: int) -> None:
        super().__init__(wall_ms)
        self._session = session

    def now(self) -> int:
        self._last = self._own(super().now())
        return self._last

    def after(self, greatest: int) -> int:
        return self._own(super().after(greatest))

    def _own(self, stamp: int) -> int:
        return stamp + (self._session - stamp) % 4


Look = Callable[[Any], Any]
"""What a document shows through an overlay or a view."""


class Typist:
    """One session that writes to one document of a class with fields named `kind_depth`."""

    def __init__(self, session: int, cls: type[Document]) -> None:
        self.session = session
        self._cls = cls
        self._wall_ms = 0
        self._edits = 0
        self._clock = HybridClock(lambda: self._wall_ms)
        self._distinct = Distinct(lambda: self._wall_ms, session)

    def remember(self, stamp: int) -> None:
        """A stamp that the session gave out before."""
        self._clock.observe(stamp)
        self._distinct.observe(stamp)

    def edit(
        self, shard: Shard, name: str, depth: int, step: Step, known: frozenset[Dot], look: Look
    ) -> list[tuple[Event, Operation]]:
        """Do one thing, and tell what was done in both languages; nothing, if it has no effect.
        What is read inside the edit is what is read after it.
        """
        # Wall clocks disagree, go back, and often show the same.
        self._edits += 1
        self._wall_ms = 1000 if step.choice == 7 else 1000 + 2 * self._edits + step.choice % 2
        clock = self._distinct if name == "sequence" else self._clock
        overlay = Overlay(shard, self.session, clock)
        done = perform(self._cls.bind(overlay, ID), name, depth, step)
        inside = look(overlay)
        written = clock.now() - 1  # at least the stamp that was asked for last, below the next
        first = overlay.base + 1
        transaction = commit(shard, overlay, "edit", "a", "")
        operations = () if transaction is None else transaction.operations
        assert len(operations) == len(done)
        assert look(ShardView(shard)) == inside
        told = []
        for seq, (operation, one) in enumerate(zip(operations, done, strict=True), first):
            stamp = written
            if operation.payload is not None and leaf_code(operation.path) in STAMPED:
                stamp, _ = decode_stamped(operation.payload)
            dot = (self.session, seq)
            told.append((Event(dot, stamp, *one, known, operation.generation), operation))
        return told


def perform(thing: Any, name: str, depth: int, step: Step) -> list[tuple[meaning.Place, str, Any]]:
    """Do one thing to the document and say what was done, for the specification."""
    if step.delete == 6:
        thing._access.retire(ID)
        return [((), "", None)]
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


def converted(name: str, depth: int, value: Any) -> Any:
    if depth:
        return {key: converted(name, depth - 1, each) for key, each in value.items()}
    if name in ("text", "sequence"):
        return sorted(value)
    if name in ("set", "banned"):
        return frozenset(value)
    if name == "mixed":
        return frozenset((type(each), each) for each in value)
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

    counted = meaning.current(events)
    return specified(typed, depth)(counted, (f"{name}_{depth}",)) or None
