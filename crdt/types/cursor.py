"""Cursor: a position in a Text or Sequence that stays where it is while others edit."""

from dataclasses import dataclass

from crdt.codec import decode, encode
from crdt.errors import CodecError
from crdt.ids import MAX_SESSION

_MAX_BYTES = 32
_MAX_CLOCK = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place between two neighbours, told by one of them: it moves with that neighbour, and stays
    where that was if it is deleted. Made by `.cursor(…)`, read by `.position(…)` of the same field.

    `before`: whether it is the neighbour before the place, or the one after it; `of` is that
    neighbour's id, None where there was none: at the very start or end.
    """

    before: bool
    of: tuple[int, int] | None = None

    def __bytes__(self) -> bytes:
        """To be stored or sent: some 20 bytes at most."""
        return encode([self.before, *(self.of or ())])

    @staticmethod
    def decode(data: bytes) -> "Cursor":
        """What `bytes(cursor)` gave. Raises CodecError for everything else."""
        parts = decode(data, max_bytes=_MAX_BYTES)
        if type(parts) is list and len(parts) in (1, 3) and type(parts[0]) is bool:
            if len(parts) == 1:
                return Cursor(parts[0])
            before, client, clock = parts
            known = type(client) is type(clock) is int
            if known and 0 <= client <= MAX_SESSION and 0 <= clock <= _MAX_CLOCK:
                return Cursor(before, (client, clock))
        raise CodecError(f"not a cursor: {data[:_MAX_BYTES].hex()}")
