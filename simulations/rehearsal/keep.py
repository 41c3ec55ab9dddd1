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
    """The folder to keep the run in cannot be used; what was there before was not touched."""


class KeepFolder:
    """Where a run works, and where it ends up. `open` it, then `complete` or `discard` it."""

    def __init__(self, target: Path, work: Path, lock: FolderLock) -> None:
        self.target = target
        self.work = work
        self._lock = lock

    @classmethod
    def open(cls, target: Path) -> KeepFolder:
        """Take the folder. Raises KeepError if something else is there, or another demo has it."""
        target = target.absolute()
        try:
            _check(target)
            lock = _lock(target)
            try:
                return cls(target, _begin(target), lock)
            except OSError:
                _unlock(target, lock)
                raise
        except OSError as error:
            reason = f"{error.strerror}: {error.filename}" if error.strerror else str(error)
            raise KeepError(f"--keep {target}: {reason}; name another folder") from None

    def complete(self) -> None:
        """Move the finished run to its place; an older run that is there goes.

        Raises KeepError, and leaves the run in `work`, if something else is there by now.
        """
        old = _old(self.target)
        try:
            _check(self.target)
            if old.exists():
                shutil.rmtree(old)
            if self.target.exists():
                self.target.rename(old)
            self.work.rename(self.target)
            if old.exists():
                shutil.rmtree(old)
        except (OSError, KeepError) as error:
            raise KeepError(f"{error}; until the next run, this one is in {self.work}") from None
        finally:
            _unlock(self.target, self._lock)

    def rescue_logs(self) -> str:
        """Move a failed run's logs to the system's temporary folder before `discard`; where."""
        if not (self.work / "logs").is_dir():
            return ""
        try:
            place = Path(tempfile.mkdtemp(prefix="mesh-demo-"))
            shutil.move(self.work / "logs", place)
        except OSError:
            return ""  # a full disk, say: what the run failed of is still to be told
        return str(place / "logs")

    def discard(self) -> None:
        """Remove what the run wrote; an older run stays as it was."""
        if self.work.exists():
            shutil.rmtree(self.work)
        _unlock(self.target, self._lock)


def is_demo(folder: Path) -> bool:
    """Whether a demo made this folder."""
    try:
        marker = json.loads((folder / MARKER).read_text())
    except (OSError, ValueError):
        return False
    return isinstance(marker, dict) and marker.get("statemesh") == "demo"


def _check(target: Path) -> None:
    """Nothing of anybody else's is where the run is to work and to end up. Raises KeepError."""
    if target.is_symlink():
        raise KeepError(f"--keep {target}: this is a link; name the folder itself")
    if target.exists() and not is_demo(target):
        raise KeepError(
            f"--keep {target}: something is there that is not a demo's; name another folder"
        )
    if not target.parent.is_dir():
        raise KeepError(f"--keep {target}: there is no folder {target.parent}; make it first")
    for neighbour in (_work(target), _old(target)):
        if neighbour.exists() and not is_demo(neighbour):
            raise KeepError(
                f"--keep {target}: {neighbour} is in the way and not a demo's; remove it"
            )


def _begin(target: Path) -> Path:
    """An empty folder to work in, marked as a demo's."""
    work = _work(target)
    if work.exists():
        shutil.rmtree(work)
    work.mkdir()
    (work / MARKER).write_text(json.dumps({"statemesh": "demo", "format": _FORMAT}) + "\n")
    return work


def _lock(target: Path) -> FolderLock:
    file = _lock_file(target)
    try:
        return FolderLock(file, owner=True)
    except CallerError as error:
        if isinstance(error.__cause__, BlockingIOError):
            raise KeepError(
                f"--keep {target}: another demo is using it (process {file.read_text().strip()}); "
                "wait for it, or name another folder"
            ) from None
        if isinstance(error.__cause__, OSError):
            raise error.__cause__ from None
        raise


def _unlock(target: Path, lock: FolderLock) -> None:
    _lock_file(target).unlink(missing_ok=True)
    lock.release()


def _lock_file(target: Path) -> Path:
    return target.parent / f".{target.name}.lock"


def _work(target: Path) -> Path:
    return target.parent / f".{target.name}.partial"


def _old(target: Path) -> Path:
    return target.parent / f".{target.name}.old"
