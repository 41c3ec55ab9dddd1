"""What the replicas of a world write: honest authors, and members who don't keep to the rules.

Dishonest ones write whatever they like, but for one thing: no removal claims to have seen what its
author has not. Such a claim can't be judged by its receivers; their digests give it away.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from crdt.codec import encode_stamped
from crdt.ids import Dot
from crdt.limits import MAX_GENERATION
from crdt.operation import Operation, Removal
from crdt.types.guards import read_row
from crdt.types.text import Delete, Insert, TextEdit

from .places import BOUNDED, DOCUMENTS, GUARDED, MAP, PLACES, PLAIN, PREFIXES, TEXT, row

if TYPE_CHECKING:
    from .world import Peer, Step


def act(peer: Peer, step: Step) -> None:
    """One write, chosen by a step."""
    document = DOCUMENTS[step.other == 7]
    place = PLACES[step.place % len(PLACES)]
    payload = place.payload(step.choice)
    removals = removal(peer, document, place.path)
    generation = peer.shard.generation(document)
    match step.what:
        case "write":
            peer.write(Operation(document, place.path, payload, removals, generation))
        case "blind":
            peer.write(Operation(document, place.path, payload, (), generation))
        case "remove":
            peer.write(Operation(document, place.path, None, removals, generation))
        case "below":
            prefix = PREFIXES[step.place % len(PREFIXES)]
            below = removal(peer, document, prefix, prefix=True)
            peer.write(Operation(document, prefix, None, below, generation))
        case "retire":
            if generation < MAX_GENERATION:
                peer.write(Operation(document, b"", None, (), generation + 1))
        case "text":
            write_text(peer, document, step)
        case "bounded":
            write_row(peer, document, step)
        case "void":
            peer.write(void_operation(peer, document, step))
        case "hostile":
            peer.write(hostile_operation(peer, document, step))
        case _:
            raise AssertionError(step.what)


def removal(
    peer: Peer, document: str, path: bytes, *, prefix: bool = False, own: bool = False
) -> tuple[Removal, ...]:
    """Of what is live there now, as an author says it."""
    shard = peer.shard
    live = shard.under(document, path) if prefix else [(path, shard.entries(document, path))]
    seen: dict[int, int] = {}
    for _, entries in live:
        for session, seq, _ in entries:
            if session == peer.session or not own:
                # A closed session is not in the frontier any more.
                seen[session] = max(seq, seen.get(session, 0), shard.frontier.get(session, 0))
    return (Removal(path, prefix, tuple(sorted(seen.items()))),) if seen else ()


def write_text(peer: Peer, document: str, step: Step) -> None:
    """Insert or delete a character, as a commit does."""
    shard = peer.shard
    held = shard.text(document, TEXT)
    length = 0 if held is None else len(held.value())
    edit: TextEdit = Insert(step.place % (length + 1), "abcdé😀gh"[step.choice])
    if length and step.choice == 6:
        edit = Delete(step.place % length, 1)
    update = shard.edit_text(peer.session, document, TEXT, [edit])
    peer.write(Operation(document, TEXT, update, (), shard.generation(document)))


def write_row(peer: Peer, document: str, step: Step) -> None:
    """The next row of one's own in a bounded counter; every other one takes something back."""
    shard = peer.shard
    rows = [e for e in shard.entries(document, BOUNDED) if e[0] == peer.session]
    granted, spent, given, taken = read_row(rows[-1][2]) if rows else (0, 0, {}, {})
    other = 1 + step.choice % 2
    if step.choice >= 4:
        granted, spent = max(0, granted - 1), max(0, spent - 1)
        given.pop(other, None)
        taken.pop(other, None)
    elif step.other % 4 == 0:
        granted += 1
    elif step.other % 4 == 1:
        spent += 1
    else:
        part = given if step.other % 4 == 2 else taken
        part[other] = part.get(other, 0) + 1
    removals = removal(peer, document, BOUNDED, own=True)
    payload = row(granted, spent, given, taken)
    peer.write(Operation(document, BOUNDED, payload, removals, shard.generation(document)))


def void_operation(peer: Peer, document: str, step: Step) -> Operation:
    """An operation that is not valid, and would remove something if it were."""
    place = PLACES[step.place % len(PLACES)]
    removals = removal(peer, document, place.path) or removal(peer, document, b"", prefix=True)
    seen: tuple[Dot, ...] = removals[0].seen if removals else ((peer.session, peer.next_seq),)
    generation = peer.shard.generation(document) + step.choice % 2
    good = place.payload(step.choice)
    found: tuple[tuple[bytes, bytes | None, tuple[Removal, ...]], ...] = (
        (place.path, b"\xc1", removals),
        (place.path, encode_stamped(1, 1) + b"\x00", removals),
        (b"\xff", good, removals),
        (MAP, good, removals),
        (place.path, good, (*removals, Removal(b"", False, seen))),
        (place.path, good, (*removals, Removal(b"\xff", True, seen))),
        (place.path, good, (Removal(place.path, False, (*seen, seen[0])),)),
    )
    path, payload, removals = found[step.choice % len(found)]
    return Operation(document, path, payload, removals, generation)


def hostile_operation(peer: Peer, document: str, step: Step) -> Operation:
    """A valid operation that no honest author writes."""
    guarded = PLACES[step.place % len(PLACES)]
    if guarded not in GUARDED:
        guarded = GUARDED[step.place % len(GUARDED)]
    plain = PLAIN[step.place % len(PLAIN)]
    shard = peer.shard
    generation = shard.generation(document)
    low = guarded.payload(step.other)
    everything = removal(peer, document, b"", prefix=True)
    there = removal(peer, document, guarded.path)
    rows = removal(peer, document, BOUNDED)
    match step.choice:
        case 0:  # takes what outranks it
            return Operation(document, guarded.path, low, there, generation)
        case 1:  # takes what may not be taken
            return Operation(document, b"", None, there + rows + everything, generation)
        case 2:  # takes everything by the way, in no order, twice
            return Operation(document, plain.path, plain.payload(0), everything + there, generation)
        case 3:  # takes from another place, and only some of what it saw
            some = tuple(each._replace(seen=each.seen[:1]) for each in there + rows)
            return Operation(document, plain.path, plain.payload(1), some, generation)
        case 4:  # takes the rows of others
            return Operation(document, BOUNDED, row(step.place, 0, {}, {}), rows, generation)
        case 5:  # a second row beside its first
            return Operation(document, BOUNDED, row(9, step.place, {}, {}), (), generation)
        case 6:  # writes to a generation that is over
            older = max(0, generation - 1)
            return Operation(document, plain.path, plain.payload(2), everything, older)
        case _:  # writes to one that nobody has begun
            payload = None if step.place % 2 else guarded.payload(2)
            return Operation(document, guarded.path, payload, there, generation + 2)
