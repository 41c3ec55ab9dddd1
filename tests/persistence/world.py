"""A small mesh to test with: its clock stands still, its randomness comes from a seed."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO

from crdt.codec import encode_stamped
from crdt.lattice import Shard
from crdt.operation import Operation, Transaction, encode_body
from crdt.paths import TypeCode, field_path
from crdt.snapshot import encode_snapshot
from persistence.base import FrameRecord, SnapshotRecord
from persistence.identity import Authority, Identity, Trust, found_mesh
from persistence.journal import apply_frame, read_transactions
from persistence.sealing import Draft, Opener, Sealer

NOW = 1_790_000_000_000
TITLE = field_path("title", TypeCode.REGISTER)


class StillClock:
    """A clock that shows the same time for ever."""

    def monotonic(self) -> float:
        return 0.0

    def wall_ms(self) -> int:
        return NOW


class SeededEntropy:
    """Randomness that can be had again."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def token(self, size: int) -> bytes:
        return self._random.randbytes(size)

    def stream(self, name: str) -> random.Random:
        return random.Random(name)


def make_mesh(seed: int = 1, name: str = "fleet", shards: int = 4) -> Authority:
    return found_mesh(name, shards, StillClock(), SeededEntropy(seed))


def make_opener(authority: Authority) -> Opener:
    return Opener(authority.mesh, Trust(authority.mesh))


def transaction(document: str, value: object, stamp: int = 1, operations: int = 1) -> Transaction:
    payload = encode_stamped(stamp, value)
    return Transaction(
        "edit", "tester", stamp, "", (Operation(document, TITLE, payload, ()),) * operations
    )


@dataclass
class Writer:
    """One session of one replica, without a replica: writes frames into shards of its own."""

    identity: Identity
    sealer: Sealer
    shards: dict[int, Shard]
    seqs: dict[int, int] = field(default_factory=dict)
    opener: Opener = field(init=False)
    chain: dict[int, dict[int, bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.opener = Opener(self.identity.mesh, Trust(self.identity.mesh))

    def draft(self, shard: int, transactions: Sequence[Transaction]) -> Draft:
        first = self.seqs.get(shard, 0) + 1
        last = first - 1 + sum(len(each.operations) for each in transactions)
        self.seqs[shard] = last
        deps = sorted(self.shards[shard].heads.items())
        return Draft(shard, first, last, deps, NOW << 16, None, encode_body(transactions))

    def write(self, *writes: tuple[int, str, object]) -> list[FrameRecord]:
        """One flush: a value into a document of each of the shards named; applied to the own
        shards too.
        """
        drafts = [self.draft(shard, [transaction(doc, value)]) for shard, doc, value in writes]
        records = [self._record(raw, own=True) for raw in self.sealer.seal(drafts)]
        for record in records:
            self.receive(record)
        return records

    def receive(self, record: FrameRecord) -> FrameRecord:
        """Apply a frame of anybody; what the journal keeps of it."""
        opened = self.opener.unseal(record.data)
        header = opened.header
        apply_frame(self.shards[header.shard], header, read_transactions(header, opened.body))
        self.chain.setdefault(header.shard, {})[header.session] = opened.hash
        return self._record(record.data, own=header.session == self.sealer.session)

    def snapshot(self, shard: int, position: int) -> SnapshotRecord:
        state = self.shards[shard]
        certificates = self.opener.trust.certificates(sorted(state.frontier))
        body = encode_snapshot(state.snapshot())
        chain = self.chain.get(shard, {})
        raw = self.sealer.seal_snapshot(shard, body, certificates, chain, NOW << 16)
        return SnapshotRecord(shard, position, raw)

    def _record(self, raw: bytes, own: bool) -> FrameRecord:
        header = self.opener.header(raw)
        return FrameRecord(header.shard, header.session, header.first, header.last, own, raw)


def make_writer(authority: Authority, name: str, seed: int = 2) -> Writer:
    entropy = SeededEntropy(seed)
    return adopt(authority.issue(name, StillClock(), entropy), entropy)


def adopt(identity: Identity, entropy: SeededEntropy) -> Writer:
    sealer = Sealer(identity, identity.new_session(StillClock(), entropy))
    shards = {number: Shard(identity.mesh.digest_key) for number in range(identity.mesh.shards)}
    return Writer(identity, sealer, shards)


@contextmanager
def running(
    command: Sequence[str], environ: Mapping[str, str] | None = None
) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    """A child process and what it prints; it does not outlive the block, whatever fails there."""
    child = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    try:
        with child.stdout:
            yield child, child.stdout
    finally:
        child.kill()
        child.wait()
