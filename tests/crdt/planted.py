"""Programs that are wrong on purpose, each in one thing, and the law that tells.

A law that no wrong program breaks proves nothing.

`python -m tests.crdt.planted --json` plants each and prints {variant: law that caught it}.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Final, NamedTuple
from unittest.mock import patch

import crdt.joining
import crdt.lattice
import crdt.operation
import crdt.snapshot
import crdt.types.guards
import crdt.types.multivalue
import crdt.types.register
import crdt.types.set
import tests.crdt.laws.test_lattice_laws
import tests.crdt.laws.test_types_meaning  # noqa: F401 - imported for the laws in it
from crdt.clock import HybridClock
from crdt.codec import decode, encode
from crdt.digest import EntryHash
from crdt.entries import EntryStore
from crdt.holding import entries_of
from crdt.lattice import Shard
from crdt.limits import MAX_SEQ
from crdt.operation import is_valid
from crdt.overlay import Overlay
from crdt.paths import TypeCode
from crdt.prefixes import PrefixIndex
from crdt.snapshot import ShardSnapshot
from crdt.texts import TextStore
from crdt.types.counter import Counter
from crdt.types.extremum import Extremum
from crdt.types.flag import Flag
from crdt.types.guards import may_remove
from crdt.types.rules import PRESENT
from mesh.inbox import Inbox
from tests.crdt.laws.law import LAWS

TRIES: Final = 300
"""On how many cases a law is tried; the same ones each time."""

Plant = Callable[[], AbstractContextManager[Any]]

STATE: Final = "state is a function of the set of operations"
AGREE: Final = "replicas that hear everything agree"
JOIN: Final = "join is commutative associative and idempotent"
APPLY: Final = "joining equals applying"
DIGEST: Final = "digests are equal exactly if states are"
PARTS: Final = "digests tell every part of an entry"
CARRY: Final = "bodies and snapshots carry all of it"
FROZEN: Final = "a snapshot never changes"
LARGER: Final = "of two payloads under one dot the larger stays"
HEADS: Final = "heads are what no other frame depends on"
TWICE: Final = "duplicates change nothing"
BELOW: Final = "what lies below a prefix is what begins with it"


class Variant(NamedTuple):
    """How to plant a mistake for a while, and the law that it breaks."""

    plant: Plant
    law: str

    def caught(self) -> AssertionError | None:
        """What the law has to say of it; None: it did not notice."""
        with self.plant():
            return LAWS[self.law].broken(TRIES)


VARIANTS: Final[dict[str, Variant]] = {}


def breaks(law: str) -> Callable[[Plant], Plant]:
    """Enter a variant under its function's name."""

    def enter(plant: Plant) -> Plant:
        VARIANTS[plant.__name__.replace("_", " ")] = Variant(plant, law)
        return plant

    return enter


def instead(where: Any, name: str, wrong: Callable[..., Any]) -> AbstractContextManager[Any]:
    """A function in another's place; `wrong` takes the right one first."""
    right = getattr(where, name)

    def planted(*arguments: Any, **named: Any) -> Any:
        return wrong(right, *arguments, **named)

    return patch.object(where, name, planted)


def without(where: Any, name: str, result: Any = None) -> AbstractContextManager[Any]:
    """A function that does nothing."""
    return instead(where, name, lambda *_, **__: result)


# ----------------------------------------------------------------------------- removals


@breaks(STATE)
def a_removal_takes_what_its_author_had_not_seen() -> AbstractContextManager[Any]:
    def wrong(right: Any, store: Any, document: str, path: bytes, seen: Any) -> None:
        right(store, document, path, [(session, MAX_SEQ) for session, _ in seen])

    return instead(EntryStore, "remove_seen", wrong)


@breaks(STATE)
def a_removal_takes_all_sessions_entries() -> AbstractContextManager[Any]:
    def wrong(right: Any, store: Any, document: str, path: bytes, seen: Any) -> None:
        right(store, document, path, [(s, MAX_SEQ) for s, _, _ in held(store, document, path)])

    def held(store: Any, document: str, path: bytes) -> Any:
        found = store.holding(document, path)
        return entries_of(found) if found else []

    return instead(EntryStore, "remove_seen", wrong)


@breaks("values of register")
def a_removal_names_only_the_first_session() -> AbstractContextManager[Any]:
    return instead(Overlay, "_seen", lambda right, *a: right(*a)[:1])


@breaks(BELOW)
def a_prefix_spares_what_lies_below() -> AbstractContextManager[Any]:
    return without(PrefixIndex, "below", [])


@breaks(BELOW)
def the_index_keeps_what_is_gone() -> AbstractContextManager[Any]:
    return instead(
        PrefixIndex,
        "below",
        lambda _, index, document, prefix: list(
            {p for p in index._below.get(document, {}) if p.startswith(prefix) and p != prefix}
        ),
    )


# ----------------------------------------------------------------------------- joins


@breaks(JOIN)
def a_join_keeps_what_the_other_side_removed() -> AbstractContextManager[Any]:
    return without(crdt.joining, "_drop_removed", False)


@breaks(APPLY)
def a_join_brings_nothing() -> AbstractContextManager[Any]:
    return without(crdt.joining, "_take_over", False)


@breaks(STATE)
def a_join_brings_back_what_was_removed_here() -> AbstractContextManager[Any]:
    def wrong(right: Any, store: Any, document: str, others: Any, seen: Any) -> Any:
        del seen
        here = store.documents.get(document, {})
        return right(
            store, document, {p: h for p, h in others.items() if p not in here}, lambda *_: False
        )

    return instead(crdt.joining, "_take_over", wrong)


@breaks(APPLY)
def a_join_drops_what_the_other_side_has_not_seen() -> AbstractContextManager[Any]:
    def wrong(right: Any, store: Any, document: str, others: Any, _: Any, resolve: Any) -> Any:
        return right(store, document, others, lambda *_: True, resolve)

    return instead(crdt.joining, "_drop_removed", wrong)


@breaks(APPLY)
def a_join_forgets_the_frontier() -> AbstractContextManager[Any]:
    def wrong(right: Any, shard: Any, snapshot: Any) -> None:
        mine = dict(shard.frontier)
        right(shard, snapshot)
        shard.frontier = mine

    return instead(Shard, "_join_context", wrong)


@breaks(JOIN)
def a_join_forgets_the_floor() -> AbstractContextManager[Any]:
    def wrong(right: Any, shard: Any, snapshot: Any) -> None:
        mine = shard.floor
        right(shard, snapshot)
        shard.floor = mine

    return instead(Shard, "_join_context", wrong)


@breaks(HEADS)
def a_join_keeps_heads_that_are_none_any_more() -> AbstractContextManager[Any]:
    def wrong(right: Any, shard: Any, snapshot: Any) -> None:
        mine = dict(shard.heads)
        right(shard, snapshot)
        shard.heads = {**mine, **shard.heads}

    return instead(Shard, "_join_context", wrong)


@breaks(STATE)
def a_join_knows_no_generations() -> AbstractContextManager[Any]:
    def wrong(right: Any, shard: Any, snapshot: Any) -> Any:
        return right(shard, dataclasses.replace(snapshot, generations={}))

    return instead(Shard, "join", wrong)


@breaks(FROZEN)
def a_snapshot_shares_what_changes() -> AbstractContextManager[Any]:
    return without(EntryStore, "_thaw")


@breaks(FROZEN)
def a_snapshot_shares_the_rows_of_a_feed() -> AbstractContextManager[Any]:
    return patch("crdt.entries.copy_of", lambda held: held)


# ----------------------------------------------------------------------------- dots, floor, heads


@breaks(AGREE)
def a_void_operation_takes_no_seq() -> AbstractContextManager[Any]:
    def wrong(right: Any, shard: Any, session: int, seq: int, operation: Any) -> None:
        if is_valid(operation):
            right(shard, session, seq, operation)

    return instead(Shard, "apply", wrong)


@breaks(STATE)
def a_pure_removal_takes_no_seq() -> AbstractContextManager[Any]:
    def wrong(right: Any, shard: Any, session: int, seq: int, operation: Any) -> None:
        right(shard, session, seq, operation)
        if operation.payload is None and shard.frontier.get(session) == seq:
            shard.frontier[session] = seq - 1

    return instead(Shard, "apply", wrong)


@breaks(AGREE)
def a_void_frame_takes_no_seqs() -> AbstractContextManager[Any]:
    def wrong(right: Any, shard: Any, session: int, first: int, last: int) -> None:
        right(shard, session, first, min(first, last))

    return instead(Shard, "use_up", wrong)


@breaks(TWICE)
def what_comes_twice_is_done_twice() -> AbstractContextManager[Any]:
    def wrong(_: Any, shard: Any, session: int, seq: int, operation: Any) -> None:
        if is_valid(operation):
            shard._perform(session, seq, operation)

    return instead(Shard, "_compare", wrong)


@breaks(AGREE)
def frames_do_not_wait_for_their_deps() -> AbstractContextManager[Any]:
    def wrong(_: Any, inbox: Any, arrival: Any) -> Any:
        before = (arrival.session, arrival.first - 1)
        return None if arrival.first == 1 or inbox._seen(*before) else before

    return instead(Inbox, "_unmet", wrong)


@breaks(JOIN)
def the_floor_says_nothing_of_what_was_seen() -> AbstractContextManager[Any]:
    def wrong(_: Any, state: Any, session: int, seq: int) -> bool:
        return bool(seq <= state.frontier.get(session, 0))

    return instead(ShardSnapshot, "seen", wrong)


@breaks(STATE)
def a_raised_floor_leaves_closed_sessions_in_the_frontier() -> AbstractContextManager[Any]:
    def wrong(right: Any, shard: Any, floor: int) -> None:
        frontier = dict(shard.frontier)
        right(shard, floor)
        shard.frontier = frontier

    return instead(Shard, "raise_floor", wrong)


@breaks(HEADS)
def a_frame_leaves_the_heads_it_depends_on() -> AbstractContextManager[Any]:
    return instead(
        Shard,
        "frame_applied",
        lambda right, shard, session, first, last, _: right(shard, session, first, last, ()),
    )


@breaks(LARGER)
def of_two_payloads_that_join_ours_stays() -> AbstractContextManager[Any]:
    def wrong(right: Any, store: Any, document: str, others: Any, seen: Any, _: Any) -> Any:
        return right(store, document, others, seen, lambda *_: None)

    return instead(crdt.joining, "_drop_removed", wrong)


@breaks(LARGER)
def of_two_payloads_that_are_applied_the_first_stays() -> AbstractContextManager[Any]:
    return without(Shard, "_compare")


@breaks(LARGER)
def of_two_payloads_the_smaller_stays() -> AbstractContextManager[Any]:
    def wrong(_: Any, shard: Any, document: str, path: bytes, *rest: Any) -> None:
        session, seq, held, rival = rest
        if rival < held:
            shard._store.overwrite(document, path, session, seq, rival)
        shard.conflicts.append((document, path, (session, seq)))

    return instead(Shard, "_resolve", wrong)


# ----------------------------------------------------------------------------- generations


@breaks(STATE)
def an_older_generation_is_still_written_to() -> AbstractContextManager[Any]:
    def wrong(right: Any, shard: Any, session: int, seq: int, operation: Any) -> None:
        current = shard.generation(operation.document)
        newer = max(current, operation.generation)
        right(shard, session, seq, operation._replace(generation=newer))

    return instead(Shard, "_perform", wrong)


@breaks(STATE)
def a_new_generation_begins_with_what_was_there() -> AbstractContextManager[Any]:
    return instead(
        EntryStore,
        "paths_under",
        lambda right, store, document, prefix: right(store, document, prefix) if prefix else [],
    )


@breaks(STATE)
def a_generation_ends_itself() -> AbstractContextManager[Any]:
    def wrong(right: Any, shard: Any, session: int, seq: int, operation: Any) -> None:
        if 0 < operation.generation == shard.generation(operation.document):
            shard._retire(operation.document, operation.generation)
        right(shard, session, seq, operation)

    return instead(Shard, "_perform", wrong)


@breaks("values of text")
def texts_outlive_their_generation() -> AbstractContextManager[Any]:
    return without(TextStore, "drop")


@breaks(CARRY)
def bodies_carry_no_generations() -> AbstractContextManager[Any]:
    return instead(crdt.operation, "_target", lambda right, document: (right(document)[0], 0))


@breaks(CARRY)
def snapshots_carry_no_generations() -> AbstractContextManager[Any]:
    return without(crdt.snapshot, "_generations", {})


# ----------------------------------------------------------------------------- digests


def deaf_to(part: int, value: Any) -> AbstractContextManager[Any]:
    """An entry's hash without one of document, path, session, seq, payload."""

    def wrong(right: Any, hashed: Any, *entry: Any) -> Any:
        return right(hashed, *entry[:part], value, *entry[part + 1 :])

    return instead(EntryHash, "entry", wrong)


@breaks(PARTS)
def the_digest_misses_documents() -> AbstractContextManager[Any]:
    return deaf_to(0, "Task/1")


@breaks(PARTS)
def the_digest_misses_paths() -> AbstractContextManager[Any]:
    return deaf_to(1, b"path")


@breaks(PARTS)
def the_digest_misses_dots() -> AbstractContextManager[Any]:
    return deaf_to(3, 1)


@breaks(PARTS)
def the_digest_misses_payloads() -> AbstractContextManager[Any]:
    return deaf_to(4, b"payload")


@breaks(DIGEST)
def the_digest_misses_generations() -> AbstractContextManager[Any]:
    return without(EntryHash, "generation", 0)


@breaks(DIGEST)
def the_digest_misses_texts() -> AbstractContextManager[Any]:
    return without(TextStore, "sum", 0)


@breaks(DIGEST)
def the_digest_misses_removals() -> AbstractContextManager[Any]:
    def wrong(right: Any, *change: Any) -> None:
        if change[-1] is None:
            right(*change)

    return instead(EntryStore, "_note", wrong)


# ----------------------------------------------------------------------------- guards


def unguarded(*codes: TypeCode) -> AbstractContextManager[Any]:
    """Removals of these types are not judged."""

    def wrong(_: Any, code: TypeCode, *rest: Any) -> bool:
        return code in codes or may_remove(code, *rest)

    return instead(crdt.lattice, "may_remove", wrong)


@breaks(STATE)
def a_maximum_is_removed_by_less() -> AbstractContextManager[Any]:
    return unguarded(TypeCode.MAXIMUM)


@breaks(STATE)
def a_minimum_is_removed_by_more() -> AbstractContextManager[Any]:
    return unguarded(TypeCode.MINIMUM)


@breaks(STATE)
def a_decision_is_removed() -> AbstractContextManager[Any]:
    return unguarded(TypeCode.DECIDED)


@breaks(STATE)
def a_row_is_removed_by_others() -> AbstractContextManager[Any]:
    return unguarded(TypeCode.BOUNDED)


@breaks(STATE)
def a_row_takes_back() -> AbstractContextManager[Any]:
    return without(crdt.lattice, "continues", True)


@breaks(STATE)
def a_minimum_is_ranked_like_a_maximum() -> AbstractContextManager[Any]:
    def wrong(right: Any, code: TypeCode, held: bytes, payload: bytes) -> Any:
        return right(TypeCode.MAXIMUM if code is TypeCode.MINIMUM else code, held, payload)

    return instead(crdt.types.guards, "outranks", wrong)


@breaks(STATE)
def equal_numbers_have_no_order() -> AbstractContextManager[Any]:
    return instead(crdt.types.guards, "rank", lambda right, payload: right(payload)[:2])


# ----------------------------------------------------------------------------- types


@breaks("values of register")
def the_earlier_write_wins() -> AbstractContextManager[Any]:
    return instead(crdt.types.register, "ranked", lambda right, found: right(found)[::-1])


@breaks("values of register")
def ties_are_broken_by_seq() -> AbstractContextManager[Any]:
    def wrong(right: Any, found: Any) -> Any:
        return sorted(right(found), key=lambda each: (each[0], each[2], -each[1]))

    return instead(crdt.types.register, "ranked", wrong)


@breaks("values of register")
def a_stamp_may_be_below_what_it_overwrites() -> AbstractContextManager[Any]:
    return instead(HybridClock, "after", lambda _, clock, __: clock.now())


@breaks("values of multivalue")
def a_multivalue_shows_one_value() -> AbstractContextManager[Any]:
    return instead(crdt.types.multivalue, "distinct", lambda right, found: right(found)[:1])


@breaks("values of counter")
def a_total_stays_beside_the_next() -> AbstractContextManager[Any]:
    def wrong(_: Any, counter: Any, access: Any, document: str, path: bytes, value: Any) -> None:
        change = value - counter.view(access, document, path)
        if change:
            access.write(document, path, encode(value))

    return instead(Counter, "assign", wrong)


@breaks("values of counter")
def a_counter_replaces_the_totals_of_others() -> AbstractContextManager[Any]:
    def wrong(right: Any, overlay: Any, document: str, path: bytes, **how: Any) -> Any:
        return right(overlay, document, path, **{**how, "own": False})

    return instead(Overlay, "removal", wrong)


@breaks("values of mixed")
def elements_are_compared_as_python_does() -> AbstractContextManager[Any]:
    def wrong(right: Any, path: bytes, element: Any) -> Any:
        return right(path, int(element) if element in (0, 1) else element)

    return instead(crdt.types.set, "element_path", wrong)


@breaks("values of banned")
def adding_wins_against_removing() -> AbstractContextManager[Any]:
    def wrong(_: Any, found: Any) -> bool:
        return any(payload == PRESENT for _, _, payload in found)

    return instead(crdt.types.set, "_present", wrong)


@breaks("values of careful")
def enabling_wins_against_disabling() -> AbstractContextManager[Any]:
    def wrong(_: Any, flag: Any, access: Any, document: str, path: bytes) -> bool:
        del flag
        return any(decode(payload) for _, _, payload in access.entries(document, path))

    return instead(Flag, "view", wrong)


@breaks("values of maximum")
def a_maximum_writes_what_gains_nothing() -> AbstractContextManager[Any]:
    def wrong(_: Any, field: Any, access: Any, document: str, path: bytes, value: Any) -> None:
        del field
        access.replace(document, path, encode(value))

    return instead(Extremum, "assign", wrong)


@breaks("values of decided")
def a_deleted_document_reads_on_in_its_edit() -> AbstractContextManager[Any]:
    def wrong(right: Any, overlay: Any, document: str) -> None:
        right(overlay, document)
        overlay._changed[document] = {}

    return instead(Overlay, "retire", wrong)


def main() -> None:
    """Plant every variant and say which law caught it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print {variant: law} as JSON")
    as_json = parser.parse_args().json
    found = {name: each.law if each.caught() else None for name, each in VARIANTS.items()}
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        for name, law in found.items():
            print(f"{name}: {law or 'NOT CAUGHT'}")


if __name__ == "__main__":
    main()
