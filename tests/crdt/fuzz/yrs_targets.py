"""Updates and states of shared fields, and what accepting one promises."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Final, NamedTuple

from crdt.errors import CodecError
from crdt.types.sequence_state import InsertSlots, SequenceState
from crdt.types.slots import Slot, make_slot
from crdt.types.text import Delete, Insert, SetFormat, TextState
from crdt.types.yrs_check import decode_clocks
from crdt.types.yrs_state import YrsState
from tests.crdt.fuzz.corpus import any_value
from tests.crdt.fuzz.mutate import damaged
from tests.crdt.fuzz.verdict import Outcome, expect
from tests.crdt.fuzz.yrs_forms import PIECES, SLOTS, TEXT, altered, invented

HISTORIES: Final = 12
STEPS: Final = 14
SESSIONS: Final = (1, 2, 3, 2**53 - 1)
HONEST: Final = 99

State = YrsState[Any]
Edit = Callable[[Random, Any, int, int], Any]


class Kind(NamedTuple):
    """A shared type: its state, an honest edit (random, state, session, stamp), an appended one."""

    state: type[State]
    content: int
    edit: Edit
    last: Callable[[], Any]


class History(NamedTuple):
    """Operations in a causal order, and the state after each number of them."""

    operations: list[tuple[int, bytes]]
    states: list[bytes]


def _text_edit(random: Random, state: Any, session: int, stamp: int) -> Any:
    length = len(state)
    at = random.randrange(length + 1)
    if at < length and (chance := random.random()) < 0.6:
        size = random.randrange(1, min(4, length - at) + 1)
        if chance < 0.3:
            return Delete(at, size)
        return SetFormat(at, size, {"bold": random.choice((True, None, 7, "x"))})
    return Insert(at, random.choice(PIECES[:5]))


def _sequence_edit(random: Random, state: Any, session: int, stamp: int) -> Any:
    length = len(state)
    at = random.randrange(length + 1)
    if at < length and random.random() < 0.3:
        return Delete(at, random.randrange(1, min(3, length - at) + 1))
    made: list[Slot] = []
    for extra in range(random.choice((1, 1, 2))):
        every = state.slots().all
        if every and random.random() < 0.3:  # moved or replaced
            made.append(make_slot(any_value(random), random.choice(every).element, stamp))
        else:
            made.append(make_slot(any_value(random), (session, stamp + extra)))
    return InsertSlots(at, tuple(made))


KINDS: Final = {
    "text": Kind(TextState, TEXT, _text_edit, lambda: Insert(0, "!")),
    "sequence": Kind(
        SequenceState, SLOTS, _sequence_edit, lambda: InsertSlots(0, (make_slot(1, (HONEST, 1)),))
    ),
}


@functools.cache
def histories(name: str) -> list[History]:
    """What some sessions wrote, partly at the same time; always the same."""
    random, kind = Random(7), KINDS[name]
    made = []
    for _ in range(HISTORIES):
        sites = [kind.state() for _ in SESSIONS]
        whole, history = kind.state(), History([], [kind.state().encode()])
        for step in range(STEPS):
            at = random.randrange(len(sites))
            session, site = SESSIONS[at], sites[at]
            update = site.edit(session, [kind.edit(random, site, session, 100 * step + at)])
            assert whole.apply(session, update)
            history.operations.append((session, update))
            history.states.append(whole.encode())
            if random.random() < 0.4:
                for other in sites:
                    other.merge(whole.encode())
        made.append(history)
    return made


# ------------------------------------------------------------------------------------- operations


def make_operation(name: str, random: Random) -> tuple[bytes, Any]:
    """A hostile update, and (history, operations before it, session)."""
    history = random.randrange(HISTORIES)
    operations, states = histories(name)[history]
    behind = random.randrange(len(operations))
    session, update = random.choice(operations[behind:])
    clocks = _clocks(KINDS[name].state, states[behind])
    chance = random.random()
    if chance < 0.4:
        session = random.choice(SESSIONS)
        update = invented(random, clocks, session, KINDS[name].content)
    elif chance < 0.7:
        update = altered(random, update, clocks)
    else:
        update = damaged(random, update, [each for _, each in operations])
    if random.random() < 0.05:
        session = random.choice(SESSIONS)
    return update, (history, behind, session)


@functools.lru_cache(maxsize=1024)
def _clocks(kind: type[State], state: bytes) -> dict[int, int]:
    return kind.load(state)._known.clocks


def check_operation(name: str, data: bytes, context: Any) -> Outcome:
    """An accepted operation takes effect at once, for its own session, and once only."""
    history, behind, session = context
    kind = KINDS[name]
    state = kind.state.load(histories(name)[history].states[behind])
    before, clocks = state.content(), dict(state._known.clocks)
    accepted = state.apply(session, data)
    _expect_sound(state)
    if not accepted:
        expect(state.content() == before, "refused, and the content changed")
        expect(state._known.clocks == clocks, "refused, and the clocks changed")
        return Outcome.REFUSED
    after = dict(state._known.clocks)
    expect(after.pop(session, 0) >= clocks.pop(session, 0), "the session's clock went back")
    expect(after == clocks, "an operation moved another session's clock")
    once = state.content(), dict(state._known.clocks)
    state.apply(session, data)
    _expect_sound(state)
    expect(once == (state.content(), state._known.clocks), "applied twice changes something")
    return _expect_reloads(kind, state)


# ----------------------------------------------------------------------------------------- states


def make_state(name: str, random: Random) -> tuple[bytes, Any]:
    """A hostile state, and (history, operations before it is merged)."""
    history = random.randrange(HISTORIES)
    states = histories(name)[history].states
    own = random.randrange(len(states))
    data = random.choice(states[1:])
    if random.random() < 0.6:
        data = altered(random, data, _clocks(KINDS[name].state, data))
    else:
        data = damaged(random, data, states)
    return data, (history, own)


def check_state(name: str, data: bytes, context: Any) -> Outcome:
    """An accepted state is complete in itself, and joins whatever was there."""
    history, own = context
    kind = KINDS[name]
    state = kind.state.load(histories(name)[history].states[own])
    before, clocks = state.content(), dict(state._known.clocks)
    try:
        state.merge(data)
    except CodecError:
        _expect_sound(state)
        expect(state.content() == before, "refused, and the content changed")
        expect(state._known.clocks == clocks, "refused, and the clocks changed")
        return Outcome.REFUSED
    _expect_sound(state)
    for client, clock in clocks.items():
        expect(state._known.clocks[client] >= clock, "a clock went back")
    content = state.content()
    expect(not state.merge(data), "merged twice changes something")
    expect(state.content() == content, "merged twice changes the content")
    outcome = _expect_reloads(kind, state)
    try:
        alone = kind.state.load(data)
    except CodecError as error:
        expect(False, f"merged, but does not load: {error}")
        raise
    _expect_sound(alone)
    return max(outcome, _expect_reloads(kind, alone))


def _expect_sound(state: State) -> None:
    """Nothing waits inside pycrdt, and there is one root."""
    expect(decode_clocks(state._doc.get_state()) == state._known.clocks, "the clocks disagree")
    expect(set(state._doc.keys()) == {"t"}, "there are other roots")
    expect(len(state) >= 0, "no length")


def _expect_reloads(kind: Kind, state: State) -> Outcome:
    """Its encoding loads and shows the same, and an honest author goes on in either.

    A dishonest author may have named neighbours that nobody saw side by side. Then the order of
    what is shown is not the same everywhere, which `crdt.types.yrs_check` admits.
    """
    try:
        again = kind.state.load(state.encode())
    except CodecError as error:
        expect(False, f"accepted, but its state does not load: {error}")
        raise
    expect(again._known.clocks == state._known.clocks, "a reloaded state has other clocks")
    expect(again._known.halves == state._known.halves, "a reloaded state has other halves")
    same = again.content() == state.content()
    if not same:
        expect(parts(again) == parts(state), "a reloaded state shows something else")
    update = again.edit(HONEST, [kind.last()])
    expect(state.apply(HONEST, update), "an honest operation does not apply any more")
    _expect_sound(state)
    return Outcome.ACCEPTED if same else Outcome.REORDERED


def parts(state: State) -> Sequence[Any]:
    """What it shows, without an order."""
    if isinstance(state, TextState):
        return sorted(state.value())
    assert isinstance(state, SequenceState)
    return sorted(slot.raw for slot in state.slots().all)
