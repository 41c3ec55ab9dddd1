"""Programs that are wrong on purpose, each in one thing, and the law that tells.

A law that no wrong program breaks proves nothing. `python -m tests.crdt.planted --json` plants each
mistake and prints {variant: law that caught it}.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from contextlib import AbstractContextManager
from typing import Any, Final
from unittest.mock import patch

import crdt.joining
import crdt.operation
import crdt.snapshot
import tests.crdt.laws.test_lattice_laws
import tests.crdt.planted_types  # noqa: F401 - imported for the variants in it
from crdt.digest import EntryHash
from crdt.entries import EntryStore
from crdt.holding import entries_of
from crdt.lattice import Shard
from crdt.limits import MAX_SEQ
from crdt.operation import is_valid
from crdt.overlay import Overlay
from crdt.prefixes import PrefixIndex
from crdt.snapshot import ShardSnapshot
from crdt.texts import TextStore
from mesh.inbox import Inbox
from tests.crdt.planting import VARIANTS, breaks, instead, without

STATE: Final = "state is a function of the set of operations"
AGREE: Final = "replicas that hear everything agree"
JOIN: Final = "join is commutative associative and idempotent"
APPLY: Final = "joining equals applying"
DIGEST: Final = "digests are equal exactly if states are"
PARTS: Final = "digests tell every part"
CARRY: Final = "bodies and snapshots carry all of it"
FROZEN: Final = "a snapshot never changes"
LARGER: Final = "of two payloads under one dot the larger stays"
HEADS: Final = "heads are what no other frame depends on"
TWICE: Final = "duplicates change nothing"
BELOW: Final = "what lies below a prefix is what begins with it"


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


@breaks(PARTS)
def the_digest_misses_generations() -> AbstractContextManager[Any]:
    return without(EntryHash, "generation", 0)


@breaks(PARTS)
def the_digest_misses_texts() -> AbstractContextManager[Any]:
    return without(TextStore, "sum", 0)


@breaks(DIGEST)
def the_digest_is_computed_once() -> AbstractContextManager[Any]:
    computed: dict[int, tuple[Any, int]] = {}

    def wrong(right: Any, store: Any) -> int:
        return computed.setdefault(id(store), (store, right(store)))[1]

    return instead(EntryStore, "sum", wrong)


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
