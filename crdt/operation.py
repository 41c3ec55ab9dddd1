"""Operations, transactions, and the body of a frame that carries them.

A body is [format, labels, documents, paths, sessions, transactions]; what repeats lies in the four
tables and is named by index. A document is its id, or [id, generation] from generation 1 on. A
transaction is [type, actor, stamp, caused by, operation …] and an operation one of

    [document, path, payload]                  an assignment
    [document, path, payload, session, seq]    … that replaces what one session had written there
    [document, path, payload, [removal …]]     anything else; payload nil: no assignment
                                               removal = [path, is prefix, session, seq, …]

Decoding is total and bounded by the input. A malformed body is refused as a whole. An operation
whose path or payload is not valid for its type is *void*: it keeps its seq and document and does
nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from crdt.errors import CodecError, InvalidId
from crdt.ids import MAX_SESSION, Dot, check_document_id
from crdt.limits import (
    MAX_BODY_BYTES,
    MAX_BODY_SESSIONS,
    MAX_GENERATION,
    MAX_LABEL_BYTES,
    MAX_OPERATIONS,
    MAX_PATH_BYTES,
    MAX_SEQ,
    MAX_STAMP,
)
from crdt.paths import parse_path
from crdt.structure import pack, unpack
from crdt.types.rules import PayloadRule, nothing, path_rule, update, valid_assignment

BODY_FORMAT: Final = 2

new: Final[Any] = tuple.__new__
"""`new(Operation, (…))`, all parts given: a third of what its own constructor costs. For the two
places that make a hundred thousand a second.
"""

# What an operation, and a session named in a removal, take in a frame at most, besides names, paths
# and payload.
_OPERATION_BYTES: Final = 32
_SEEN_BYTES: Final = 20


class Removal(NamedTuple):
    """What its author had seen at `path` (or anywhere below it, if `prefix`) goes; anything else
    stays.

    `seen`: (session, seq of the author's frontier) for the sessions that had live entries there,
    in order of session. The prefix b"" is the whole document. Texts are not touched by removals.
    """

    path: bytes
    prefix: bool
    seen: tuple[Dot, ...]


class Operation(NamedTuple):
    """One step on one document: removals, then an assignment unless `payload` is None. Takes
    exactly one seq.

    `generation`: that of the document which the author wrote to. A newer one than its readers know
    ends all older ones, by itself and for good: that is how a document is deleted for good.
    """

    document: str
    path: bytes
    payload: bytes | None
    removals: tuple[Removal, ...] = ()
    generation: int = 0


class Transaction(NamedTuple):
    """Operations that are applied together or not at all, by whom (`actor`), what for, and because
    of what.
    """

    type: str
    actor: str
    stamp: int
    caused_by: str
    operations: tuple[Operation, ...]


def operation_count(transactions: Sequence[Transaction]) -> int:
    """How many seqs these transactions take."""
    return sum(len(transaction.operations) for transaction in transactions)


def claims_of(transactions: Sequence[Transaction]) -> dict[int, int]:
    """{session: seq}: how far the author of these had seen sessions, as their removals say."""
    claims: dict[int, int] = {}
    claimed = claims.get
    for transaction in transactions:
        for operation in transaction[4]:
            for removal in operation[3]:
                for dot in removal[2]:
                    if claimed(dot[0], 0) < dot[1]:
                        claims[dot[0]] = dot[1]
    return claims


def is_valid(operation: Operation) -> bool:
    """Whether every path and payload is well-formed; if not, the operation is void. A pure
    function of bytes.
    """
    _, path, payload, removals, generation = operation
    if not 0 <= generation <= MAX_GENERATION:
        return False
    if payload is not None:
        if not valid_assignment(path, payload):
            return False
        # Whether an update takes effect is for its own parser to say: nothing else may hang on it.
        if removals and path_rule(path) is update:
            return False
    for target, prefix, seen in removals:
        proven = target == path and payload is not None
        if not (proven or _valid_target(target, prefix)) or not _valid_seen(seen):
            return False
    return True


def void(document: str) -> Operation:
    """An operation that takes its seq and does nothing."""
    return Operation(document, b"", None, ())


def _valid_target(path: bytes, prefix: bool) -> bool:
    if prefix and not path:
        return True
    try:
        parse_path(path)
    except CodecError:
        return False
    return True


def _valid_seen(seen: tuple[Dot, ...]) -> bool:
    previous = -1
    for session, seq in seen:
        if not (previous < session <= MAX_SESSION and 0 < seq <= MAX_SEQ):
            return False
        previous = session
    return bool(seen)


# ---------------------------------------------------------------------------------------- encoding


def bytes_of(text: str) -> int:
    """Bytes of the UTF-8 of a text."""
    return len(text) if text.isascii() else len(text.encode())


def operations_bytes(operations: Sequence[Operation]) -> int:
    """What operations take in a frame at most, before compression."""
    size = _OPERATION_BYTES * len(operations)
    for document, path, payload, removals, _ in operations:
        # Not by `bytes_of`: this is on the path of every edit.
        size += len(path)
        size += len(document) if document.isascii() else len(document.encode())
        if payload is not None:
            size += len(payload)
        for removal in removals:
            size += len(removal.path) + _SEEN_BYTES * len(removal.seen)
    return size


def encode_body(transactions: Sequence[Transaction]) -> bytes:
    """The body of a frame. The same transactions always give the same bytes."""
    labels: dict[str, int] = {}
    documents: dict[str | tuple[str, int], int] = {}
    paths: dict[bytes, int] = {}
    sessions: dict[int, int] = {}
    rows = []
    for type_, actor, stamp, caused_by, operations in transactions:
        row: list[Any] = [
            labels.setdefault(type_, len(labels)),
            labels.setdefault(actor, len(labels)),
            stamp,
            labels.setdefault(caused_by, len(labels)),
        ]
        for document, path, payload, removals, generation in operations:
            target = (document, generation) if generation else document
            item: list[Any] = [
                documents.setdefault(target, len(documents)),
                paths.setdefault(path, len(paths)),
                payload,
            ]
            if removals:
                first = removals[0]
                if (
                    len(removals) == 1
                    and len(first.seen) == 1
                    and first.path == path
                    and not first.prefix
                ):
                    session, seq = first.seen[0]
                    item.append(sessions.setdefault(session, len(sessions)))
                    item.append(seq)
                else:
                    item.append([_removal_row(removal, paths, sessions) for removal in removals])
            row.append(item)
        rows.append(row)
    return pack([BODY_FORMAT, list(labels), list(documents), list(paths), list(sessions), rows])


def _removal_row(removal: Removal, paths: dict[bytes, int], sessions: dict[int, int]) -> list[Any]:
    row: list[Any] = [paths.setdefault(removal.path, len(paths)), removal.prefix]
    for session, seq in removal.seen:
        row.append(sessions.setdefault(session, len(sessions)))
        row.append(seq)
    return row


# ---------------------------------------------------------------------------------------- decoding


def decode_body(data: bytes) -> list[Transaction]:
    """The transactions of a body, every operation proven or void. Raises CodecError; time and
    memory ~ len(data).
    """
    body = unpack(data, max_bytes=MAX_BODY_BYTES)
    if (
        type(body) is not tuple
        or len(body) != 6
        or body[0] != BODY_FORMAT
        or type(body[0]) is not int
    ):
        raise CodecError(f"a body that is not of format {BODY_FORMAT}")
    _, labels, documents, paths, sessions, rows = body
    if not all(type(part) is tuple for part in body[1:]):
        raise CodecError("a body whose tables are not lists")
    _check_labels(labels)
    targets = [_target(document) for document in documents]
    rules = [_rule_of(path) for path in paths]
    if len(sessions) > MAX_BODY_SESSIONS:
        raise CodecError(f"a body names {len(sessions)} sessions, above {MAX_BODY_SESSIONS}")
    for session in sessions:
        if type(session) is not int or not 0 <= session <= MAX_SESSION:
            raise CodecError(f"a body names session {session!r:.40}")
    reader = _BodyReader(targets, paths, rules, sessions)
    try:
        transactions = [_transaction(row, labels, reader) for row in rows]
    except (TypeError, LookupError, ValueError) as error:
        raise CodecError(f"a malformed transaction ({type(error).__name__}: {error})") from None
    if operation_count(transactions) > MAX_OPERATIONS:
        raise CodecError(f"more than {MAX_OPERATIONS} operations in a body")
    return transactions


def _check_labels(labels: tuple[object, ...]) -> None:
    for label in labels:
        if type(label) is not str or len(label.encode()) > MAX_LABEL_BYTES:
            raise CodecError(f"a body has the label {label!r:.60}")


def _target(document: object) -> tuple[str, int]:
    """A document of the table and its generation."""
    generation = 0
    if type(document) is tuple and len(document) == 2:
        document, generation = document
        if type(generation) is not int or not 0 < generation <= MAX_GENERATION:
            raise CodecError(f"a body names a document's generation {generation!r:.40}")
    try:
        return check_document_id(document), generation  # type: ignore[arg-type]
    except InvalidId as error:
        raise CodecError(f"a body names a document badly: {error}") from None


def _rule_of(path: object) -> PayloadRule | None:
    """The rule for assignments at a path, None if it is no path. b"" is no place, but a good
    prefix.
    """
    if type(path) is not bytes or len(path) > MAX_PATH_BYTES:
        raise CodecError(f"a body has the path {path!r:.60}")
    if not path:
        return nothing
    try:
        return path_rule(path)
    except CodecError:
        return None


def _transaction(row: tuple[Any, ...], labels: tuple[str, ...], reader: _BodyReader) -> Transaction:
    type_, actor, stamp, caused_by = row[:4]
    if type_ < 0 or actor < 0 or caused_by < 0:
        raise ValueError("a negative index")
    if type(stamp) is not int or not 0 <= stamp <= MAX_STAMP:
        raise ValueError(f"stamp {stamp!r:.40}")
    if len(row) < 5:
        raise ValueError("no operations")
    operations = tuple(map(reader.operation, row[4:]))
    return Transaction(labels[type_], labels[actor], stamp, labels[caused_by], operations)


class _BodyReader:
    """Reads operations against one body's tables. TypeError, LookupError, ValueError: malformed."""

    __slots__ = ("_documents", "_paths", "_rules", "_sessions")

    def __init__(
        self,
        documents: list[tuple[str, int]],
        paths: tuple[bytes, ...],
        rules: list[PayloadRule | None],
        sessions: tuple[int, ...],
    ) -> None:
        self._documents = documents
        self._paths = paths
        self._rules = rules
        self._sessions = sessions

    def operation(self, item: tuple[Any, ...]) -> Operation:
        size = len(item)
        if size == 5:
            at_document, at_path, payload, at_session, seq = item
            if at_document < 0 or at_path < 0 or at_session < 0 or type(seq) is not int:
                raise ValueError("a number out of range")
            path = self._paths[at_path]
            document, generation = self._documents[at_document]
            removal = new(Removal, (path, False, ((self._sessions[at_session], seq),)))
            removals: tuple[Removal, ...] = (removal,)
            valid = path != b"" and 0 < seq <= MAX_SEQ
        else:
            if size not in (3, 4):
                raise ValueError(f"an operation of {size} parts")
            at_document, at_path, payload = item[:3]
            if at_document < 0 or at_path < 0:
                raise ValueError("a number out of range")
            path = self._paths[at_path]
            document, generation = self._documents[at_document]
            removals, valid = ((), True) if size == 3 else self._removals(item[3])
        rule = self._rules[at_path]
        if payload is None:
            # Of an operation that assigns nothing only the removals' paths count.
            valid = valid and (size != 5 or rule is not None)
        elif type(payload) is bytes:
            valid = valid and rule is not None and rule(payload)
            valid = valid and not (removals and rule is update)
        else:
            raise TypeError("a payload that is not bytes")
        if not valid:
            return void(document)
        operation: Operation = new(Operation, (document, path, payload, removals, generation))
        return operation

    def _removals(self, rows: tuple[Any, ...]) -> tuple[tuple[Removal, ...], bool]:
        if type(rows) is not tuple or not rows:
            raise TypeError("removals that are not a list")
        removals = []
        valid = True
        for row in rows:
            at_path, prefix = row[:2]
            if type(prefix) is not bool or at_path < 0 or len(row) < 4 or len(row) % 2:
                raise ValueError("a malformed removal")
            path = self._paths[at_path]
            valid = valid and (prefix if not path else self._rules[at_path] is not None)
            seen = self._seen(row)
            valid = valid and _valid_seen(seen)
            removals.append(new(Removal, (path, prefix, seen)))
        return tuple(removals), valid

    def _seen(self, row: tuple[Any, ...]) -> tuple[Dot, ...]:
        sessions, seqs = row[2::2], row[3::2]
        for at_session, seq in zip(sessions, seqs, strict=True):
            if at_session < 0 or type(seq) is not int:
                raise ValueError("a number out of range")
        return tuple(zip(map(self._sessions.__getitem__, sessions), seqs, strict=True))
