"""Hostile bytes against Text and Sequence, in a child process: no crash, no hang, nothing unsound.

pycrdt takes the process down, or never returns, for some updates (a panic is the mild case), so
only a child can show that none of them passes the gate. Seeds are fixed: a failure repeats.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from random import Random
from typing import Any

import pytest

from crdt.errors import CodecError
from crdt.types.cursor import Cursor
from crdt.types.sequence_state import InsertSlots, SequenceState
from crdt.types.slots import make_slot
from crdt.types.text import Delete, Insert, SetFormat, TextState
from crdt.types.yrs_check import decode_clocks

State = TextState | SequenceState

SESSIONS = (1, 2, 3, 2**53 - 1)
VALUES = (None, True, 7, "x", b"y", [1, {"k": 2.5}])
PIECES = ("a", "bc", "é", "😀", "x😀y", "e\u0301")
MEMORY_BYTES = 1 << 31
CPU_SECONDS = 30
ROUNDS, ROUND_CASES = 300, 40


def honest(random: Random, state: State) -> list[tuple[int, bytes]]:
    """Operations that made something of an empty state."""
    operations = []
    for _ in range(random.randrange(2, 10)):
        session = random.choice(SESSIONS)
        length = len(state)
        at = random.randrange(length) if length else 0
        count = random.randrange(1, min(4, length - at) + 1) if length else 0
        kind = random.random() if length else 1.0
        edit: Any
        if kind < 0.35:
            edit = Delete(at, count)
        elif isinstance(state, SequenceState):
            new = tuple(make_slot(each, (session, 7)) for each in random.choices(VALUES, k=2))
            edit = InsertSlots(random.randrange(length + 1), new)
        elif kind < 0.6:
            edit = SetFormat(at, count, {random.choice("bi"): random.choice((True, None, 5, "x"))})
        else:
            edit = Insert(random.randrange(length + 1), random.choice(PIECES))
        operations.append((session, state.edit(session, [edit])))
    return operations


def mutated(random: Random, data: bytes) -> bytes:
    """The bytes with a few flips, cuts, copies and interesting numbers in them."""
    out = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 3, 6))):
        at = random.randrange(len(out) + 1)
        match random.randrange(6):
            case 0:
                out[at : at + 1] = bytes([random.randrange(256)])
            case 1:
                out[at : at + 1] = bytes(
                    [random.choice((0, 1, 2, 3, 4, 0x44, 0x7F, 0x81, 0x84, 0xC4))]
                )
            case 2:
                del out[at : at + random.randrange(1, 4)]
            case 3:
                out[at:at] = out[: random.randrange(len(out) + 1)][-8:]
            case 4:
                out[at : at + 1] = random.choice((b"\xff\xff\xff\xff\x0f", b"\xfd\xff\xff\xff\x07"))
            case _ if at < len(out):
                out[at] ^= 1 << random.randrange(8)
    return bytes(out)


def invented(random: Random, state: State, session: int) -> bytes:
    """An operation of a correct form, whose neighbours and deletions are picked blindly.

    Most ids exist; the neighbours are mostly in an order that no honest author can have seen.
    """
    clocks = {client: clock for client, clock in state._known.clocks.items() if client < 128}

    def anybody() -> list[int]:
        client = random.choice([*clocks, session])
        return [client, random.randrange(min(100, clocks.get(client, 0) + 1))]

    items: list[int] = []
    count = random.choice((0, 1, 1, 1, 2, 3))
    for _ in range(count):
        origin = anybody() if random.random() < 0.8 else []
        right = anybody() if random.random() < 0.6 else []
        root = [] if origin or right else [1, 1, ord("t")]
        info = 0x80 * bool(origin) | 0x40 * bool(right)
        kind = random.random()
        if kind < 0.1:
            items += [info | 1, *origin, *right, *root, random.randrange(1, 5)]
        elif isinstance(state, SequenceState):
            slots = [make_slot(value, (session, 7), 9).raw for value in random.choices(VALUES, k=2)]
            tagged = [number for raw in slots for number in (116, len(raw), *raw)]
            items += [info | 8, *origin, *right, *root, len(slots), *tagged]
        elif kind < 0.4:
            value = random.choice((b"true", b"null", b"7"))
            items += [info | 6, *origin, *right, *root, 1, ord("b"), len(value), *value]
        else:
            text = random.choice(PIECES).encode()
            items += [info | 4, *origin, *right, *root, len(text), *text]
    sections = [1, count, session, min(127, clocks.get(session, 0)), *items] if count else [0]
    deleted = {client: clock for client, clock in [anybody()] if random.random() < 0.4}
    ranges = [
        n for client, clock in deleted.items() for n in (client, 1, clock, random.randrange(4))
    ]
    return bytes([*sections, len(deleted), *ranges])


def attack(random: Random, state: State, corpus: list[tuple[int, bytes]]) -> bool:
    """One hostile input; True if it was accepted. What is accepted leaves nothing waiting."""
    session, update = random.choice(corpus)
    before, clocks = state.content(), dict(state._known.clocks)
    kind = random.randrange(4)
    try:
        if kind == 0:
            state.merge(mutated(random, state.encode()))
            accepted = True
        elif kind == 1:
            session = random.choice(SESSIONS[:3])
            accepted = state.apply(session, invented(random, state, session))
        else:
            accepted = state.apply(session, mutated(random, update))
    except CodecError:
        accepted = False
    assert decode_clocks(state._doc.get_state()) == state._known.clocks
    assert set(state._doc.keys()) == {"t"}
    if not accepted:
        assert (state.content(), state._known.clocks) == (before, clocks)
    elif kind:
        others = {
            client: clock for client, clock in state._known.clocks.items() if client != session
        }
        assert others.items() <= clocks.items()
        assert state._known.clocks.get(session, 0) >= clocks.get(session, 0)
    return accepted


def shown(state: State) -> list[Any]:
    """What it shows, apart from the order."""
    if isinstance(state, TextState):
        return sorted(state.value())
    return sorted(slot.raw for slot in state.slots().all)


def fuzz(seed: int, make: type[State]) -> tuple[int, int]:
    """How many cases there were, and how many of them were accepted."""
    accepted = 0
    for index in range(ROUNDS):
        random = Random(seed * ROUNDS + index)
        operations = honest(random, make())
        behind = random.randrange(len(operations))  # so that mutants of later ones are not replays
        target = make()
        assert all(target.apply(*operation) for operation in operations[:behind])
        for _ in range(ROUND_CASES):
            accepted += attack(random, target, operations[behind:])
        restored = make.load(target.encode())
        assert restored._known.clocks == target._known.clocks
        assert shown(restored) == shown(target)
        for client, clock in target._known.clocks.items():
            for of in {random.randrange(min(clock, 1 << random.randrange(32))) for _ in range(5)}:
                if not target._known.cuts_pair(client, of + 1):
                    assert target.position(Cursor(random.random() < 0.5, (client, of))) >= 0
        more: Any = Insert(0, "!")
        if isinstance(target, SequenceState):
            more = InsertSlots(0, (make_slot("!", (99, 1)),))
        assert target.apply(99, restored.edit(99, [more]))
    return ROUNDS * ROUND_CASES, accepted


@pytest.mark.parametrize("make", [TextState, SequenceState])
@pytest.mark.parametrize("seed", [1, 2])
def test_no_bytes_get_past_the_gate(seed: int, make: type[State]) -> None:
    done = subprocess.run(
        [sys.executable, __file__, str(seed), make.__name__],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    cases, accepted = map(int, done.stdout.split())
    assert cases == ROUNDS * ROUND_CASES
    assert cases // 20 < accepted < cases // 2


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    print(*fuzz(int(sys.argv[1]), {"TextState": TextState}.get(sys.argv[2], SequenceState)))
