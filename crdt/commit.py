"""Commit: everything is checked first, then everything is applied. All of a transaction or nothing.

So an edit that raises has changed nothing, and one that returns has changed all it meant to.
"""

from collections.abc import Sequence
from typing import Any

from crdt.errors import EditMisuse, InvalidValue, TransactionTooLarge
from crdt.ids import week_of
from crdt.lattice import Shard
from crdt.limits import MAX_BODY_BYTES, MAX_LABEL_BYTES, MAX_OPERATIONS
from crdt.operation import Operation, Transaction, is_valid, operations_bytes
from crdt.overlay import Overlay
from crdt.texts import new_state
from crdt.types.expect import refuse

_MAX_TRANSACTION_BYTES = MAX_BODY_BYTES // 2


def commit(
    shard: Shard,
    overlay: Overlay,
    type: str,
    actor: str,
    caused_by: str,
) -> Transaction | None:
    """Apply the overlay to its shard as one transaction, close it, and return what goes into the
    frame.

    None if nothing was written. Raises, before anything is changed: EditMisuse if the overlay has
    ended or is of another shard, if the session is closed, or wrote to the shard since the overlay
    was made; TransactionTooLarge if no frame could carry it; OutOfBounds if a text would become too
    large; InvalidValue for a label that is too long. Heads are the caller's: they move when the
    frame is cut.
    """
    if not overlay.writable:
        raise EditMisuse("this edit has ended already; it cannot be committed a second time")
    if overlay.shard is not shard:
        raise EditMisuse("this edit was opened on another shard")
    session, first = overlay.session, overlay.base + 1
    if week_of(session) < shard.floor:
        raise EditMisuse("this session has been closed by the mesh; open the replica again")
    if shard.frontier.get(session, 0) + 1 != first:
        raise EditMisuse("another edit of this session was committed while this one was open")
    texts = overlay.texts if overlay.edits_texts else {}
    written = overlay.operations
    if not written and not texts:
        overlay.close()
        return None
    _check_labels(type, actor, caused_by)
    _check_operations(written, len(texts))
    size = operations_bytes(written)
    if len(texts) > 1:
        size += _check_texts(shard, session, list(texts.items())[1:], overlay.retired)
    if size > _MAX_TRANSACTION_BYTES:
        raise TransactionTooLarge(
            f"a transaction of about {size} bytes, at most {_MAX_TRANSACTION_BYTES}: split it"
        )
    stamp = overlay.stamp()
    overlay.close()
    operations = written
    for (document, path), edits in texts.items():
        retired = document in overlay.retired
        payload = shard.edit_text(session, document, path, edits, fresh=retired)
        generation = overlay.generation(document)
        operations += (Operation(document, path, payload, (), generation),)
    transaction = Transaction(type, actor, stamp, caused_by, operations)
    shard.apply_transactions(session, first, (transaction,))
    return transaction


def _check_labels(*labels: str) -> None:
    for label in labels:
        if type(label) is str and len(label) * 4 <= MAX_LABEL_BYTES:
            continue
        if type(label) is not str:
            refuse("a transaction", "str as type, actor and caused_by", label)
        if len(label.encode()) > MAX_LABEL_BYTES:
            raise InvalidValue(f"{label!r:.60}… is a label of more than {MAX_LABEL_BYTES} bytes")


def _check_operations(operations: Sequence[Operation], texts: int) -> None:
    """What every receiver will check of each operation."""
    if len(operations) + texts > MAX_OPERATIONS:
        raise TransactionTooLarge(
            f"{len(operations)} operations in one transaction, at most {MAX_OPERATIONS}: split it"
        )
    for operation in operations:
        if not is_valid(operation):
            place = f"{operation.document}, path {operation.path.hex()}"
            raise InvalidValue(f"{place}: what was written is not valid there")


def _check_texts(
    shard: Shard,
    session: int,
    texts: Sequence[tuple[tuple[str, bytes], tuple[Any, ...]]],
    retired: frozenset[str],
) -> int:
    """Make edits of texts on copies, to learn whether they are refused, and what they take in the
    frame.

    pycrdt cannot take an edit back, so where several texts are edited, only the first edit may
    still fail when it is made; it has its own bound, for which there is room.
    """
    size = 0
    for (document, path), edits in texts:
        state = None if document in retired else shard.shared(document, path)
        copy = new_state(path) if state is None else state.copy()
        size += operations_bytes([Operation(document, path, copy.edit(session, edits))])
    return size
