"""How far a journal was written, in a small file of its own beside it.

SQLite takes the valid part of a torn write-ahead log for all there ever was, and an empty file for
a new database: either would be commits that are gone without a word. So the position of the last
frame is written here *after* each commit. That costs no sync: a process that is killed leaves what
it wrote with the system, and after a power cut the mark can only lag behind the journal, which was
synced before. A journal that ends before its mark has lost something.
"""

from __future__ import annotations

import contextlib
import os
import struct
import zlib
from pathlib import Path
from typing import Final

from persistence import folder as layout
from persistence.base import JournalDamaged

_FORM: Final = struct.Struct(">4sQI")
_MAGIC: Final = b"mark"


class Mark:
    """The mark of the journal in a folder, for its one writer. Made by `Mark.make`."""

    def __init__(self, path: Path, position: int) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self.set(position)

    @classmethod
    def make(cls, folder: Path, position: int) -> Mark:
        """The mark of a sound journal whose last frame is at `position`. Raises OSError."""
        path = folder / layout.MARK
        if not path.exists():
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(_packed(position))
                file.flush()
                os.fsync(file.fileno())
            layout.sync_folder(folder)
        return cls(path, position)

    def set(self, position: int) -> None:
        """The journal was committed up to there. A disk that refuses this makes the mark lag, which
        proves less and is never wrong.
        """
        with contextlib.suppress(OSError):
            os.pwrite(self._descriptor, _packed(position), 0)

    def close(self) -> None:
        """Release the file."""
        os.close(self._descriptor)


def read_mark(folder: Path) -> int | None:
    """The position marked; None if there is no mark: no journal was ever made here.

    Raises JournalDamaged and OSError.
    """
    path = folder / layout.MARK
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    if len(data) != _FORM.size or _packed(_FORM.unpack(data)[1]) != data:
        raise JournalDamaged(
            f"{path} is damaged: it does not say how far the journal was written; "
            f"{repair_cure(folder)}"
        )
    return int(_FORM.unpack(data)[1])


def repair_cure(folder: Path) -> str:
    """What to do about a damaged journal."""
    return (
        f"`mesh check {folder}` says all that is wrong; `mesh repair {folder}` (or the setting "
        "replica.on_damage = rebuild) saves every readable frame of this replica's own, and the "
        "rest comes from the others; or move the folder away and provision the replica anew"
    )


def _packed(position: int) -> bytes:
    head = _FORM.pack(_MAGIC, position, 0)[:-4]
    return head + zlib.crc32(head).to_bytes(4, "big")
