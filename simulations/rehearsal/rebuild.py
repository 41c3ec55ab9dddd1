"""Proof that event log and checkpoints hold everything: a replica that has nothing else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mesh.replica import Replica
from mesh.settings import (
    KafkaSettings,
    PeersSettings,
    PostgresSettings,
    ReplicaSettings,
    Settings,
)
from persistence.identity import provision
from simulations.rehearsal.fleet import Frontier, covers, in_words, total

NAME: Final = "rebuilt"
REBUILD_SECONDS: Final = 60.0
_POLL_SECONDS = 0.02
_NEVER_SECONDS = 86_400.0


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What was rebuilt, and where from. Its folder is there, closed; `complete`: it has all."""

    folder: Path
    source: str
    seconds: float
    operations: int
    complete: bool


async def rebuild(
    authority: Path, folder: Path, addresses: Mapping[str, str], target: Frontier
) -> Rebuilt:
    """Run a new replica without any peer in `folder` until log and checkpoints gave it `target`.

    It gives up after `REBUILD_SECONDS`. It writes nothing: neither checkpoints nor into the log.
    """
    await asyncio.to_thread(provision, authority, folder, NAME)
    settings = Settings(
        replica=ReplicaSettings(name=NAME),
        peers=PeersSettings(listen=""),
        kafka=KafkaSettings(servers=(addresses["kafka"],), upload_after_s=_NEVER_SECONDS),
        postgres=PostgresSettings(dsn=addresses["postgres"], checkpoint_interval_s=_NEVER_SECONDS),
    )
    began = time.monotonic()
    async with Replica.open(folder, settings=settings) as replica:
        while not (complete := covers(replica.frontier(), target)):
            if time.monotonic() - began > REBUILD_SECONDS:
                break
            await asyncio.sleep(_POLL_SECONDS)
        seconds = time.monotonic() - began
        return Rebuilt(
            folder, in_words(replica.sources()), seconds, total(replica.frontier()), complete
        )
