"""A member that lies: under one name it signs two different frames, and tells some peers the one
and some the other (equivocation).

What runs is today's replica, which knows nothing of it; the lies are told on its links. Each twin
of a frame has its seqs and its causes, and another body; a liar that is careful lets it follow the
twin before it, so that either half of the peers sees a history without a break.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Sequence

from crdt.codec import decode_stamped, encode_stamped
from crdt.errors import CodecError
from crdt.operation import Operation, Transaction, decode_body, encode_body, void
from crdt.paths import TypeCode, leaf_code
from mesh.core import Core
from mesh.wire import VOCABULARY, Frames, decode, encode
from persistence.frame import frame_hash
from persistence.sealing import Draft, Sealer
from simulations.faults.versions import kind_of

__all__ = ("Liar",)

_FRAMES = VOCABULARY._by_class[Frames].kind
_MALFORMED = b"\xc1"
_VALUES = (TypeCode.REGISTER, TypeCode.MULTIVALUE)


class Liar:
    """`Translator` of one run of a replica. It is honest until it `begin`s; what it has once told
    somebody it tells him again. `tell` hears of each twin.
    """

    def __init__(
        self, core: Callable[[], Core], rng: random.Random, tell: Callable[..., None]
    ) -> None:
        self._core = core
        self._rng = rng
        self._tell = tell
        self._deceived: frozenset[str] = frozenset()
        self._careful = rng.random() < 0.5
        self._twins: dict[bytes, bytes] = {}
        self._hashes: dict[bytes, bytes] = {}
        """{hash of a frame: hash of its twin}"""

    def begin(self, deceived: Collection[str]) -> None:
        """From now on these hear something else."""
        self._deceived = frozenset(deceived)

    def said(self, peer: str, message: bytes) -> bytes | None:
        """See `Translator.said`."""
        if peer not in self._deceived or kind_of(message) != _FRAMES:
            return message
        frames = decode(message).frames
        return encode(Frames(tuple(map(self._as_told, frames))))

    def heard(self, peer: str, message: bytes) -> bytes | None:
        """See `Translator.heard`."""
        del peer
        return message

    def _as_told(self, raw: bytes) -> bytes:
        core = self._core()
        header = core.opener.header(raw)
        if header.session != core.session:
            return raw
        if raw not in self._twins:
            twin = self._twins[raw] = self._twin(core, raw)
            self._hashes[frame_hash(raw)] = frame_hash(twin)
            self._tell(
                "equivocated", shard=header.shard, session=header.session, first=header.first
            )
        return self._twins[raw]

    def _twin(self, core: Core, raw: bytes) -> bytes:
        header = core.opener.header(raw)
        body = self._lie(decode_body(core.opener.unseal(raw).body))
        previous = header.previous
        if self._careful:
            previous = self._hashes.get(previous, previous)
        draft = Draft(
            header.shard, header.first, header.last, header.deps, header.stamp, previous, body,
            header.extensions, header.policy,
        )  # fmt: skip
        # One of its own: that of the core seals no seq twice.
        return Sealer(core.identity, core.sealer._key).seal([draft])[0]

    def _lie(self, transactions: Sequence[Transaction]) -> bytes:
        chance = self._rng.random()
        if chance < 0.05:
            return _MALFORMED
        change = _another_value if chance < 0.7 else _nothing
        told = [one._replace(operations=tuple(map(change, one.operations))) for one in transactions]
        if told == list(transactions):
            told = [
                one._replace(operations=tuple(map(_nothing, one.operations)))
                for one in transactions
            ]
        return encode_body(told)


def _nothing(operation: Operation) -> Operation:
    return void(operation.document)


def _another_value(operation: Operation) -> Operation:
    """The same, but for what is written, where that is a plain value."""
    if operation.payload is None:
        return operation
    try:
        if leaf_code(operation.path) not in _VALUES:
            return operation
    except CodecError:
        return operation
    stamp, value = decode_stamped(operation.payload)
    other = value + 1 if isinstance(value, int) else f"not {value}"
    return operation._replace(payload=encode_stamped(stamp, other))
