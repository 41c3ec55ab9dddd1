"""An authority's register on disk: read, changed and written by one process at a time."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from persistence import folder as layout
from persistence.base import FolderError
from persistence.certificates import ReplicaCertificate
from persistence.invitations import Member, Register

__all__ = ("RegisterFile", "member_of")


class RegisterFile:
    """The register in an authority's folder. `change` excludes other processes while it lasts."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._path = directory / layout.REGISTER

    def __repr__(self) -> str:
        return f"<RegisterFile in {self._directory}>"

    def read(self) -> Register:
        """What is on disk; an empty register where there is none yet. Raises FolderError."""
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return Register()
        except OSError as fault:
            raise FolderError(f"cannot read {self._path}: {fault}") from fault
        try:
            return Register.from_json(data)
        except ValueError as fault:
            raise FolderError(
                f"{self._path} is damaged ({fault}); restore it from a backup"
            ) from fault

    def write(self, register: Register) -> None:
        """On disk when this returns. Only within `change`. Raises StorageError."""
        layout.replace_file(self._path, register.to_json())

    @contextmanager
    def change(self) -> Iterator[Register]:
        """The register, while no other process changes it. Waits for its turn."""
        with layout.FolderLock(self._directory / layout.LOCK, owner=True, wait=True):
            yield self.read()


def member_of(certified: ReplicaCertificate, issued_ms: int, invitation: str = "") -> Member:
    """What the register says of a certificate."""
    return Member(
        certified.name,
        certified.key.public_bytes_raw().hex(),
        f"{certified.serial:x}",
        certified.role,
        certified.gives_snapshots,
        issued_ms,
        certified.expires_ms,
        base64.b64encode(certified.der).decode(),
        invitation,
    )
