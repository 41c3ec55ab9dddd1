"""The folder a run leaves behind: there whole, or not there at all.

Everything is written into a hidden neighbour and moved to its place when the run is over. An
interrupted run leaves nothing; a killed one leaves the neighbour, which the next run recognises and
clears away.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from crdt.errors import CallerError
from persistence.folder import FolderLock

MARKER = "mesh-demo.json"
_FORMAT = 1


class KeepError(CallerError):
    """The folder to keep the run in cannot be used; nothing was changed."""


class KeepFolder:
    """Where a run works, and where it ends up. `open` it, then `complete` or `discard` it."""

    def __init__(self, target: Path, work: Path, lock: FolderLock) -> None:
        self.target = target
        self.work = work
        self._lock = lock

    @classmethod
    def open(cls, target: Path) -> KeepFolder:
        """Take the folder. Raises KeepError if something else is there, or another demo has it."""
        target = target.absolute()  # links are not followed: what is named is what is replaced
        if target.exists() and not is_demo(target):
            raise KeepError(
                f"--keep {target}: something is there that is not a demo's; name another folder"
            )
        if not target.parent.is_dir():
            raise KeepError(f"--keep {target}: there is no folder {target.parent}; make it first")
        work = target.parent / f".{target.name}.partial"
        if work.exists() and not is_demo(work):
            raise KeepError(f"--keep {target}: {work} is in the way and not a demo's; remove it")
        try:
            lock = FolderLock(target.parent / f".{target.name}.lock", owner=True)
        except CallerError as error:
            raise KeepError(f"--keep {target}: another demo is using it ({error})") from None
        try:
            if work.exists():
                shutil.rmtree(work)
            work.mkdir()
            (work / MARKER).write_text(json.dumps({"statemesh": "demo", "format": _FORMAT}) + "\n")
        except OSError as error:
            lock.release()
            raise KeepError(f"--keep {target}: {error.strerror}: {error.filename}") from None
        return cls(target, work, lock)

    def complete(self) -> None:
        """Move the finished run to its place; an older run that is there goes."""
        old = self.target.parent / f".{self.target.name}.old"
        if old.exists():
            shutil.rmtree(old)
        if self.target.exists():
            self.target.rename(old)
        self.work.rename(self.target)
        if old.exists():
            shutil.rmtree(old)
        self._release()

    def rescue_logs(self) -> str:
        """Move a failed run's logs to the system's temporary folder before `discard`; where."""
        if not (self.work / "logs").is_dir():
            return ""
        place = Path(tempfile.mkdtemp(prefix="mesh-demo-"))
        shutil.move(self.work / "logs", place)
        return str(place / "logs")

    def discard(self) -> None:
        """Remove what the run wrote; an older run stays as it was."""
        if self.work.exists():
            shutil.rmtree(self.work)
        self._release()

    def _release(self) -> None:
        (self.target.parent / f".{self.target.name}.lock").unlink(missing_ok=True)
        self._lock.release()


def is_demo(folder: Path) -> bool:
    """Whether a demo made this folder."""
    try:
        marker = json.loads((folder / MARKER).read_text())
    except (OSError, ValueError):
        return False
    return isinstance(marker, dict) and marker.get("statemesh") == "demo"
