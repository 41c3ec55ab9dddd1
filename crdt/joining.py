"""Joining the entries of two states of one shard: what one side removed goes, what it has comes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Final

from crdt.entries import EntryStore
from crdt.holding import Holding, entries_of, payload_at
from crdt.snapshot import ShardSnapshot

Seen = Callable[[int, int], bool]
"""(session, seq): has this side applied that operation?"""

Resolve = Callable[[str, bytes, int, int, bytes, bytes], None]
"""(document, path, session, seq, ours, theirs): two payloads met under one dot."""

_NOTHING: Final[Mapping[bytes, Holding]] = {}


def join_entries(
    store: EntryStore,
    seen: Seen,
    snapshot: ShardSnapshot,
    outdated: Collection[str],
    newer: Collection[str],
    resolve: Resolve,
) -> set[str]:
    """Join a snapshot's entries into the store; returns the documents that changed.

    An entry stays if the other side holds it too or has not seen its dot. `outdated` are documents
    of which the snapshot only knows an older generation, `newer` those of which we did: what a side
    has seen says nothing of a generation it does not know (but for cloned sessions it has seen none
    of it). Costs one comparison a document, and what differs.
    """
    changed: set[str] = set()
    for document, fields in list(store.documents.items()):
        if document in outdated:
            continue
        others = snapshot.documents.get(document, _NOTHING)
        if fields != others and _drop_removed(store, document, others, snapshot.seen, resolve):
            changed.add(document)
    for document, others in snapshot.documents.items():
        if document in outdated or store.documents.get(document) == others:
            continue
        if _take_over(store, document, others, _unseen if document in newer else seen):
            changed.add(document)
    return changed


def _unseen(session: int, seq: int) -> bool:
    del session, seq
    return False


def _drop_removed(
    store: EntryStore,
    document: str,
    others: Mapping[bytes, Holding],
    seen_there: Seen,
    resolve: Resolve,
) -> bool:
    changed = False
    for path, held in list(store.documents[document].items()):
        theirs = others.get(path)
        if held == theirs:
            continue
        for session, seq, payload in entries_of(held):
            rival = payload_at(theirs, session, seq)
            if rival is not None:
                if rival != payload:
                    resolve(document, path, session, seq, payload, rival)
                    changed = True
            elif seen_there(session, seq):
                store.discard(document, path, session, seq)
                changed = True
    return changed


def _take_over(
    store: EntryStore, document: str, others: Mapping[bytes, Holding], seen: Seen
) -> bool:
    entries = (entry for held in others.values() for entry in entries_of(held))
    all_new = not any(seen(session, seq) for session, seq, _ in entries)
    if all_new and store.adopt(document, others):
        return True
    changed = False
    mine = store.documents.get(document, _NOTHING)
    for path, held in [item for item in others.items() if mine.get(item[0]) != item[1]]:
        for session, seq, payload in entries_of(held):
            if not seen(session, seq):
                store.put(document, path, session, seq, payload)
                changed = True
    return changed
