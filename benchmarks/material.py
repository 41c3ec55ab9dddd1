"""What benchmarks work on: a document type, a mesh for once, a shard without a replica."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import Run
from benchmarks.pace import UPDATE_BYTES
from crdt import Document, Map, Register
from crdt.access import Overlay, commit
from crdt.clock import HybridClock
from crdt.document import document_id
from crdt.lattice import Shard
from mesh import Replica
from mesh.settings import PeersSettings, Settings
from mesh.shards import ShardHost
from mesh.stack import Stack
from persistence.identity import Identity, create_genesis, found_mesh, provision
from persistence.limits import MAX_FRAME_BYTES
from persistence.sealing import Sealer
from persistence.system import SystemClock, SystemEntropy

FRAME_BYTES = 262_144
ACTOR = "benchmark"
TURN = 100
"""Edits between two turns of the loop, as of a writer that is not alone in its process."""
PER_DOCUMENT = 10
WRITTEN_BYTES = 80
"""Of one write in a frame that is made up; they compress to about a half."""


class Reading(Document):
    """One small thing that changes often, or many in one document."""

    text: Register[str]
    values: Map[str, Register[int]]


@dataclass(frozen=True, slots=True)
class Fleet:
    """A mesh of its own, in a folder: its authority, and the folders of its replicas."""

    folder: Path

    @classmethod
    def found(cls, folder: Path, shards: int = 16) -> Fleet:
        """Found the mesh; `folder` must be new."""
        create_genesis(folder / "authority", "benchmark", shards)
        return cls(folder)

    def replica(self, name: str) -> Path:
        """The folder of a replica, which is let in the first time."""
        place = self.folder / name
        provision(self.folder / "authority", place, name)
        return place


def alone(**overrides: Any) -> Settings:
    """Settings of a replica that has no peers; what is overridden is as for `load_settings`.

    Neither environment nor files are looked at: a figure must not depend on them.
    """
    return Settings(peers=PeersSettings(listen="")).override(**overrides)


async def write_documents(replica: Replica, prefix: str, count: int, *, among: int = 0) -> None:
    """So many transactions of one small field each, in so many documents, or `among` fewer."""
    for number in range(count):
        if number % TURN == 0:
            await replica.ready()
            await asyncio.sleep(0)
        with replica.edit(Reading, f"{prefix}-{number % (among or count)}") as reading:
            reading.text = f"{number} of {count}".ljust(UPDATE_BYTES, ".")


async def write_entries(replica: Replica, count: int) -> None:
    """So many live entries, `PER_DOCUMENT` in each transaction and document."""
    for number in range(count // PER_DOCUMENT):
        if number % TURN == 0:
            await replica.ready()
            await asyncio.sleep(0)
        with replica.edit(Reading, f"full-{number}") as reading:
            for key in range(PER_DOCUMENT):
                reading.values[f"value-{key}"] = number * key


def written_by(frontier: Mapping[int, Mapping[int, int]], session: int) -> int:
    """How many operations of this session are in it, over all shards."""
    return sum(sessions.get(session, 0) for sessions in frontier.values())


@asynccontextmanager
async def running(run: Run, *names: str) -> AsyncIterator[Mapping[str, str]]:
    """{name: address} of these servers, while the block lasts."""
    async with Stack.running(run.folder / "stack", only=names, progress=run.say) as stack:
        yield {name: server.address for name, server in stack.services.items()}


class LoneShard:
    """One shard of a mesh in memory, written, cut and sealed as a replica does, without one."""

    def __init__(self) -> None:
        clock, entropy = SystemClock(), SystemEntropy()
        self._entropy = entropy
        self.authority = found_mesh("benchmark", 1, clock, entropy)
        self.identity: Identity = self.authority.issue("writer", clock, entropy)
        key = self.identity.new_session(clock, entropy)
        self.sealer = Sealer(self.identity, key)
        self.clock = HybridClock(clock.wall_ms)
        self.host = ShardHost(
            0, key.session, Shard(self.identity.mesh.digest_key),
            frame_bytes=FRAME_BYTES, inbox_frames=64, inbox_bytes=MAX_FRAME_BYTES,
        )  # fmt: skip

    @contextmanager
    def edit(self, name: str) -> Iterator[Reading]:
        """One transaction on one document, as `Replica.edit`."""
        overlay = Overlay(self.host.lattice, self.host.session, self.clock)
        yield Reading.bind(overlay, document_id(Reading, name))
        transaction = commit(self.host.lattice, overlay, "reading.edited", ACTOR, "")
        if transaction is not None:
            self.host.committed(transaction)

    def cut(self) -> list[bytes]:
        """What was written since the last cut, as sealed frames."""
        frames: list[bytes] = []
        for cut in self.host.outbox.cut():
            draft = self.host.draft(cut)
            (data,) = self.sealer.seal([draft])
            record = self.host.sealed(draft, data)
            self.host.journaled[record.session] = record.last
            frames.append(data)
        return frames

    def snapshot(self) -> bytes:
        """The whole shard, sealed; what was written is cut first."""
        self.cut()
        return self.host.snapshot([self.sealer.certificate], self.clock.now()).seal(self.sealer)

    def frame(self, transactions: int) -> bytes:
        """One frame that holds so many small transactions, and no certificate."""
        if not self.host.outbox.framed:
            with self.edit("first") as reading:
                reading.text = "a session's first frame carries its certificate"
            self.cut()
        for number in range(transactions):
            with self.edit(f"document-{number}") as reading:
                reading.text = self._entropy.token(WRITTEN_BYTES // 2).hex()
        (data,) = self.cut()
        return data
