"""Rows out of a damaged SQLite file, page by page, whatever became of the trees above them.

A row lies in a leaf page of its table, and what does not fit in a chain of overflow pages. Every
page of the file, and every version of one in the write-ahead log, is looked at by itself: no index,
no tree and no header has to be sound. So rows come out that were deleted, replaced or never
committed, and bytes that never were rows: whoever asks must prove what he gets.

Pure. https://sqlite.org/fileformat2.html, sections 1.3 to 1.6, 2.1 and 4.1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

Value = int | bytes | None
Buffer = bytes | memoryview
Row = tuple[int, tuple[Value, ...]]
"""The rowid, and the columns as they are stored (None for an INTEGER PRIMARY KEY)."""

_LEAF: Final = 0x0D
_DEFAULT_PAGE: Final = 4096
_WAL_HEADER: Final = 32
_WAL_FRAME: Final = 24
_MAX_COLUMNS: Final = 16
_INTEGER_BYTES: Final = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}


def scan_rows(database: Buffer, wal: Buffer, max_bytes: int) -> Iterator[Row]:
    """Everything that looks like a row of a table, none larger than `max_bytes`.

    Whatever the bytes, it ends and raises nothing.
    """
    size = _page_size(database)
    main = {
        at // size + 1: database[at : at + size] for at in range(0, len(database) - size + 1, size)
    }
    logged: list[tuple[int, Buffer]] = []
    step = _WAL_FRAME + size
    for at in range(_WAL_HEADER, len(wal) - step + 1, step):
        number = int.from_bytes(wal[at : at + 4], "big")
        logged.append((number, wal[at + _WAL_FRAME : at + step]))
    newest = {**main, **dict(logged)}
    for number, page in [*main.items(), *logged]:
        yield from _leaf_rows(number, page, newest, max_bytes)
        if logged:
            # What the log replaced may be what an older row goes on in.
            yield from _leaf_rows(number, page, main, max_bytes)


def _page_size(database: Buffer) -> int:
    size = int.from_bytes(database[16:18], "big")
    size = 65_536 if size == 1 else size
    sound = 512 <= size <= 65_536 and size & (size - 1) == 0
    return size if sound else _DEFAULT_PAGE


def _leaf_rows(
    number: int, page: Buffer, pages: Mapping[int, Buffer], max_bytes: int
) -> Iterator[Row]:
    start = 100 if number == 1 else 0
    if page[start] != _LEAF:
        return
    count = int.from_bytes(page[start + 3 : start + 5], "big")
    for at in range(start + 8, min(start + 8 + 2 * count, len(page) - 1), 2):
        place = int.from_bytes(page[at : at + 2], "big")
        try:
            row = _row(page, place, pages, max_bytes)
        except (IndexError, KeyError):
            continue
        if row is not None:
            yield row


def _row(page: Buffer, place: int, pages: Mapping[int, Buffer], max_bytes: int) -> Row | None:
    length, place = _varint(page, place)
    rowid, place = _varint(page, place)
    if not 0 < length <= max_bytes:
        return None
    usable = len(page)
    most, least = usable - 35, (usable - 12) * 32 // 255 - 23
    local = length
    if length > most:
        local = least + (length - least) % (usable - 4)
        local = local if local <= most else least
    parts = [page[place : place + local]]
    missing = length - local
    follow = int.from_bytes(page[place + local : place + local + 4], "big") if missing else 0
    while missing > 0:
        overflow = pages[follow]
        parts.append(overflow[4 : 4 + missing])
        missing -= usable - 4
        follow = int.from_bytes(overflow[:4], "big")
    columns = _columns(b"".join(parts))
    return None if columns is None else (rowid, columns)


def _columns(record: bytes) -> tuple[Value, ...] | None:
    head, at = _varint(record, 0)
    kinds: list[int] = []
    while at < head and len(kinds) <= _MAX_COLUMNS:
        kind, at = _varint(record, at)
        kinds.append(kind)
    if at != head or len(kinds) > _MAX_COLUMNS:
        return None
    values: list[Value] = []
    for kind in kinds:
        value: Value
        if kind == 0:
            value, size = None, 0
        elif kind in (8, 9):
            value, size = kind - 8, 0
        elif kind in _INTEGER_BYTES:
            size = _INTEGER_BYTES[kind]
            value = int.from_bytes(record[at : at + size], "big", signed=True)
        elif kind >= 12:
            size = (kind - 12) // 2
            value = record[at : at + size]
        else:
            return None
        at += size
        values.append(value)
    return tuple(values) if at == len(record) else None


def _varint(data: Buffer, at: int) -> tuple[int, int]:
    value = 0
    for count in range(8):
        byte = data[at + count]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + count + 1
    return value << 8 | data[at + 8], at + 9
