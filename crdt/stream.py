"""Reading and writing MessagePack piece by piece, so that a large state is never in memory twice.

The reader takes scalars one at a time and array headers as mere numbers. So nothing is ever
allocated for what is announced and not there, however an input lies about its sizes or nests.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from io import BytesIO
from typing import Any, Final

import msgpack  # type: ignore[import-untyped]

from crdt.errors import CodecError

CHUNK_BYTES: Final = 1 << 18
_MAX_BUFFER: Final = (1 << 31) - 1
MALFORMED: Final = (TypeError, ValueError, LookupError, OverflowError, msgpack.UnpackException)
"""What reading a malformed input may raise."""


class StreamWriter:
    """Gathers MessagePack and hands it out in chunks."""

    __slots__ = ("_packer", "header", "put")

    def __init__(self) -> None:
        self._packer = msgpack.Packer(autoreset=False)
        # The packer's own methods, without a call in between.
        self.header = self._packer.pack_array_header
        self.put = self._packer.pack

    def full(self) -> Iterator[bytes]:
        """A chunk, if there is enough for one."""
        if len(self._packer.getbuffer()) >= CHUNK_BYTES:
            yield self.rest()

    def rest(self) -> bytes:
        """All that was not handed out yet."""
        chunk: bytes = self._packer.bytes()
        self._packer.reset()
        return chunk


class StreamReader:
    """Reads what a StreamWriter wrote, in bytes or in chunks of any size.

    `next` gives one scalar, `header` the length of an array that follows. All methods raise one of
    MALFORMED where something else comes, and CodecError after `most` bytes.
    """

    __slots__ = ("_unpacker", "header", "next")

    def __init__(self, data: bytes | Iterable[bytes], most: int) -> None:
        self._unpacker = msgpack.Unpacker(
            _Source((data,) if isinstance(data, bytes) else data, most),
            max_buffer_size=_MAX_BUFFER,
            max_array_len=0,
            max_map_len=0,
            max_ext_len=0,
        )
        self.header = self._unpacker.read_array_header
        self.next = self._unpacker.unpack

    def integer(self) -> int:
        """The next scalar, which must be an int."""
        found = self.next()
        if type(found) is not int:
            raise ValueError(f"{found!r:.40} where a number belongs")
        return found

    def scalars(self) -> list[Any]:
        """A whole array of scalars."""
        item = self.next
        return [item() for _ in range(self.header())]

    def end(self) -> None:
        """Raises ValueError if anything follows."""
        if self._unpacker.read_bytes(1):
            raise ValueError("bytes after the end")


class _Source:
    """Chunks as the file that msgpack reads from."""

    __slots__ = ("_chunks", "_left", "_rest")

    def __init__(self, chunks: Iterable[bytes], most: int) -> None:
        self._chunks = iter(chunks)
        self._rest = BytesIO()
        self._left = most

    def read(self, size: int) -> bytes:
        found = self._rest.read(size)
        while not found:
            chunk = next(self._chunks, None)
            if chunk is None:
                return b""
            self._left -= len(chunk)
            if self._left < 0:
                raise CodecError("a state that is larger than any may be")
            self._rest = BytesIO(chunk)
            found = self._rest.read(size)
        return found
