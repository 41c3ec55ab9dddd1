"""The layout of folders on disk, in one place, and how to write them so that none is half there.

    data folder of a replica            authority's folder
      identity/genesis.json               genesis.json        public facts of the mesh
      identity/authority.pem              authority.pem       the authority's certificate
      identity/mesh.key                   mesh.key            secret: the mesh keys
      identity/replica.pem                authority.key       secret: issues replicas; stays here
      identity/replica.key                register.json       who was invited and who joined
      identity/roster                     roster              what the authority last signed
      joining.key                         secret: only while a replica joins; becomes replica.key
      journal.sqlite (-wal, -shm)
      journal.mark                        how far the journal was written
      journal.damaged-1.*                 what a rebuilt journal was made from, with a report
      lock                                held while a replica runs; its pid inside

Folders are 700 and files 600. Linux and macOS: locking is flock(2).
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final

from persistence.base import FolderError, StorageError

IDENTITY: Final = "identity"
GENESIS: Final = "genesis.json"
AUTHORITY_CERTIFICATE: Final = "authority.pem"
AUTHORITY_KEY: Final = "authority.key"
MESH_KEY: Final = "mesh.key"
REPLICA_CERTIFICATE: Final = "replica.pem"
REPLICA_KEY: Final = "replica.key"
ROSTER: Final = "roster"
JOINING_KEY: Final = "joining.key"
REGISTER: Final = "register.json"
JOURNAL: Final = "journal.sqlite"
MARK: Final = "journal.mark"
LOCK: Final = "lock"


def make_private(folder: Path) -> None:
    """Create a folder that only its owner may enter, on disk when this returns.

    Missing parents are made too, with ordinary permissions; what exists stays as it is. Raises
    StorageError.
    """
    try:
        missing = [each for each in (folder, *folder.parents) if not each.exists()]
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for each in missing:
            sync_folder(each.parent)
    except OSError as fault:
        raise StorageError(f"cannot create the folder {folder}: {fault}") from fault


def publish_folder(folder: Path, files: Mapping[str, bytes]) -> bool:
    """Make `folder` with these files in it appear at once, on disk, or not at all.

    Returns False, and changes nothing, where a folder of that name with something in it is there
    already: of two who race, one wins. Raises StorageError.
    """
    make_private(folder.parent)
    try:
        # Beside its final place: a rename is only atomic within one file system.
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            for name, content in files.items():
                _write(draft / name, content)
            sync_folder(draft)
            try:
                draft.rename(folder)
            except OSError:
                if not folder.is_dir():
                    raise
                return False
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        sync_folder(folder.parent)
    except OSError as fault:
        raise StorageError(f"cannot write the folder {folder}: {fault}") from fault
    return True


def replace_file(path: Path, content: bytes) -> None:
    """Make `path` have this content, on disk when this returns; until then it has the old one.

    Raises StorageError.
    """
    draft = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        draft.unlink(missing_ok=True)
        _write(draft, content)
        draft.rename(path)
        sync_folder(path.parent)
    except OSError as fault:
        draft.unlink(missing_ok=True)
        raise StorageError(f"cannot write {path}: {fault}") from fault


def sync_folder(folder: Path) -> None:
    """Bring a folder's own entries to disk: without it a new file may be gone after a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class FolderLock:
    """An flock(2) on a file, held until released or until the process ends, however it ends. A
    forked child does not hold it.

    `owner=True` is for the one process that may write; `owner=False` for readers, who keep owners
    out for as long as they read and leave the folder untouched (FolderError if there is no lock
    file: never used). `wait` blocks the thread until the lock is free; otherwise a held lock is a
    FolderError that names the holder.
    """

    def __init__(self, path: Path, *, owner: bool, wait: bool = False) -> None:
        self._path = path
        flags = os.O_RDWR | os.O_CREAT if owner else os.O_RDONLY
        try:
            self._descriptor: int | None = os.open(path, flags | os.O_CLOEXEC, 0o600)
        except OSError as fault:
            raise FolderError(f"cannot open the lock {path}: {fault}") from fault
        try:
            mode = fcntl.LOCK_EX if owner else fcntl.LOCK_SH
            fcntl.flock(self._descriptor, mode if wait else mode | fcntl.LOCK_NB)
        except OSError as fault:
            self.release()
            raise FolderError(
                f"folder {path.parent} is open in process {_holder(path)}; "
                "stop that process, or use another folder"
            ) from fault
        if owner:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)
        _held.add(self)

    def release(self) -> None:
        """Let others in. Idempotent."""
        if self._descriptor is not None:
            # By hand, as closing alone leaves it locked while a child is on its way to `_let_go`.
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        self._close()

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


_held: weakref.WeakSet[FolderLock] = weakref.WeakSet()


def _let_go() -> None:
    # Closed and not unlocked: it is the parent's, and stays while any process has the file open.
    for lock in list(_held):
        lock._close()


os.register_at_fork(after_in_child=_let_go)


def _holder(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip() or "unknown"
    except OSError:
        return "unknown"


def _write(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
