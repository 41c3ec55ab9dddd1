"""Folders of a replica, as they are left behind, and what may happen to them."""

from __future__ import annotations

import asyncio
import random
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from persistence import folder as layout
from persistence.base import FrameRecord
from persistence.identity import create_genesis, open_authority, provision
from persistence.journal import Recovered, recover_journal
from persistence.sqlite import open_journal
from tests.persistence.world import (
    SeededEntropy,
    StillClock,
    Writer,
    adopt,
    make_opener,
)

FILES = (layout.MARK, layout.JOURNAL, f"{layout.JOURNAL}-wal")


@dataclass
class Left:
    """A folder, and what its replica was told is on disk there."""

    folder: Path
    acknowledged: list[FrameRecord] = field(default_factory=list)
    later: list[FrameRecord] = field(default_factory=list)

    def copy(self, to: Path) -> Path:
        shutil.copytree(self.folder, to)
        return to


def make_folder(tmp_path: Path) -> Writer:
    """A replica `agent-a` of a mesh in `tmp_path/authority`; its writer."""
    entropy = SeededEntropy(5)
    create_genesis(tmp_path / "authority", "fleet", 4, clock=StillClock(), entropy=entropy)
    identity = provision(
        tmp_path / "authority", tmp_path / "a", "agent-a", clock=StillClock(), entropy=entropy
    )
    return adopt(identity, entropy)


async def use(writer: Writer, left: Left, *, frames: int = 40, snapshot: bool = True) -> None:
    """Write; the folder is closed in order."""
    async with open_journal(left.folder) as journal:
        for at in range(frames):
            records = writer.write((at % 4, f"Task/{at}", "x" * (at * 37 % 3_000)))
            position = await journal.append(records)
            left.acknowledged += records
            if snapshot and at == frames // 2:
                await journal.save_snapshot(writer.snapshot(1, position))
                await journal.set_meta({"bus.cursor": b"17"})


async def cut_power(writer: Writer, left: Left, to: Path, *, frames: int = 30) -> Left:
    """Write, and copy the files while one more frame is being written, as after a power cut."""
    shutil.copytree(left.folder / layout.IDENTITY, to / layout.IDENTITY)
    cut = Left(to, list(left.acknowledged))
    async with open_journal(left.folder) as journal:
        for at in range(frames):
            records = writer.write((at % 4, f"Task/{at}", "y" * (at * 91 % 6_000)))
            await journal.append(records)
            cut.acknowledged += records
        cut.later = writer.write((0, "Task/late", "z" * 50_000))
        running = asyncio.ensure_future(journal.append(cut.later))
        await asyncio.to_thread(_copy_files, left.folder, to)
        await running
    return cut


def _copy_files(source: Path, target: Path) -> None:
    for name in FILES:
        shutil.copyfile(source / name, target / name)


async def read(folder: Path) -> tuple[Recovered, list[FrameRecord], dict[str, bytes]]:
    """Everything in a folder, as a replica that starts reads it."""
    authority = open_authority(folder.parent / "authority")
    async with open_journal(folder) as journal:
        rows = await journal.replay(0, 10_000)
        found = await recover_journal(journal, make_opener(authority))
        return found, [record for _, record in rows], await journal.meta()


def hurt(path: Path, rng: random.Random) -> str:
    """One random damage to a file; what it was."""
    data = bytearray(path.read_bytes())
    at = rng.randrange(len(data))
    if rng.random() < 0.4:
        path.write_bytes(data[:at])
        return f"{path.name} cut at {at}"
    bit = 1 << rng.randrange(8)
    data[at] ^= bit
    path.write_bytes(data)
    return f"{path.name} bit {bit} at {at}"
