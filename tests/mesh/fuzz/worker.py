"""The child: an honest writer, the victim, and the attack, under a bound of memory.

Says in a file how far it is, and prints its result as one JSON object.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import importlib
import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from crdt.codec import encode_stamped
from crdt.errors import MeshError
from crdt.operation import Operation, Transaction, encode_body
from crdt.paths import TypeCode, field_path
from mesh import Replica, Settings
from mesh.environment import Link
from mesh.instrumentation import CountingProbe
from mesh.transports.memory_bus import MemoryBusServer
from mesh.transports.tcp import TcpTransport
from mesh.wire import (
    WIRE_NEWEST,
    WIRE_OLDEST,
    Certificates,
    Hello,
    WantCertificates,
    WantRest,
    WantSnapshot,
    decode,
    encode,
)
from persistence.certificates import Trust
from persistence.frame import frame_hash
from persistence.identity import Identity, found_mesh, open_identity, write_identity
from persistence.sealing import Draft, Opener, Sealer
from tests.mesh.fuzz.cases import KINDS, TCP_KINDS, Case, Material, case_of, part
from tests.mesh.fuzz.door import knock
from tests.mesh.world import (
    HostClock,
    Note,
    SeededEntropy,
    World,
    converged,
    eventually,
    running,
    same,
    write,
)

MEMORY_BYTES: Final = 1536 << 20
"""What the child may take on top of what it has at the start."""
BATCH: Final = 32
WARM: Final = 0.25
"""Share of the cases after which memory is measured the first time: bounded stores are full."""
DAY_MS: Final = 86_400_000
BROKEN: Final = ("link.error", "replica.failed")
SETTLE_S: Final = 60.0
PAGE: Final = 65_536
ANSWER_S: Final = 5.0


class LongAgo(HostClock):
    """A clock of last year."""

    def wall_ms(self) -> int:
        return super().wall_ms() - 300 * DAY_MS


class TcpNetwork:
    """Makes transports over TCP, for a `World`."""

    def __init__(self, world: World, folder: Path) -> None:
        self._world = world
        self._folder = folder

    def transport(self, name: str) -> TcpTransport:
        """TLS reads keys from files only, so the identity gets a folder first."""
        write_identity(self._folder / name, self._world.identity(name))
        self._world.identities[name] = open_identity(self._folder / name)
        return TcpTransport(self._world.identity(name), Settings().peers, CountingProbe())


class Arena:
    """The world of one child."""

    def __init__(self, seed: int, over_tcp: Path | None) -> None:
        self.world = World(seed=seed)
        if over_tcp is not None:
            vars(self.world)["network"] = TcpNetwork(self.world, over_tcp)
        self.server = MemoryBusServer(stream_entries_max=2_000)
        self.material: Material
        self.honest: Replica
        self.victim: Replica
        self.mallory: Any = None
        self.ghost: dict[int, dict[int, int]] = {}
        """How far an honest session wrote that has ended."""
        self.delays: list[float] = []
        self.findings: list[dict[str, Any]] = []
        self._told: dict[str, int] = {}
        self.given = 0
        """How often the victim asked for a snapshot and got parts of a mutant."""
        self.cut = 0
        """Cases that ended their link."""

    async def prepare(self) -> None:
        """Honest history, and hostile material made from it; the replicas run already."""
        world = self.world
        ghost = world.replica("ghost", self.honest.address)
        async with running(ghost):
            session = ghost.session
            for number in range(8):
                await write(ghost, number, number * "y", document=str(number % 3))
            await converged(ghost, self.honest, self.victim)
            certificate = ghost._check().core.trust.certificates([session])[0]
        # Closing it wrote its last frames.
        await eventually(lambda: session in self.honest._check().core.closed, "the ghost closed")
        await converged(self.honest, self.victim)
        self.ghost = {
            shard: {session: seqs[session]}
            for shard, seqs in self.honest.frontier().items() if session in seqs
        }  # fmt: skip
        frames = await frames_of(self.honest, session, self.ghost)
        self.mallory = world.network.transport("mallory")
        mallory = world.identity("mallory")
        foreign = found_mesh("other", len(self.honest._check().core.hosts), HostClock(),
                             SeededEntropy(99))  # fmt: skip
        outsider = foreign.issue("ghost", HostClock(), SeededEntropy(98))
        expired = world.authority.issue("late", LongAgo(), SeededEntropy(97), lasts_ms=100 * DAY_MS)
        life = self.honest._check()
        snapshots = [await life.exchange._committer.snapshot(host) for host in life.core.hosts]
        alien = outsider.new_session(HostClock(), SeededEntropy(96))
        self.material = Material(
            len(life.core.hosts), hello_of(mallory, 95), frames, forged(world, session, frames),
            [raw for _, raw in _sealed(Sealer(outsider, alien), 1)],
            [certificate, alien.certificate], snapshots,
            [hello_of(outsider, 94), hello_of(expired, 93)],
        )  # fmt: skip

    # ------------------------------------------------------------------ honest traffic

    async def keep_writing(self) -> None:
        """One edit after the other, each timed until the victim shows it."""
        number = 0
        while True:
            number += 1
            with self.honest.edit(Note, "live") as note:
                note.text = str(number)
            begun = time.perf_counter()
            await self.victim._check().core.waiters.until(functools.partial(self._shows, number))
            self.delays.append(time.perf_counter() - begun)
            await asyncio.sleep(0.02)

    def _shows(self, number: int) -> bool:
        found = self.victim.get(Note, "live")
        return found is not None and found.text == str(number)

    # ------------------------------------------------------------------ the attack

    async def batch(self, cases: list[Case]) -> None:
        """Feed the victim with some cases, each the way its kind goes."""
        for case in cases:
            if case.kind == "bus":
                shard = len(case.data[0]) % self.material.shards
                await self._publish(shard, case.data[0])
            elif case.kind == "snapshot":
                if await self.victim._check().joining.incoming(case.data[0], "x") is not None:
                    self._found("accepted", [case], "a snapshot nobody made was taken")
            elif case.kind == "greeting":
                await self._link(case.data[0], [])
            elif case.kind == "door":
                await knock(self.victim.address, self.world.identity("mallory"), case.data[0])
        said = [case for case in cases if case.kind in _ON_LINK]
        if said and not await self._say(said):
            # One of them ended the link, and the others may not have been heard: one by one.
            for case in said:
                self.cut += not await self._say([case])
                self.judge([case])
        self.judge(cases)

    async def _say(self, cases: list[Case]) -> bool:
        """Over one link; whether the victim heard all of it to the end."""
        messages = [data for case in cases for data in case.data]
        return await self._link(encode(self.material.hello), messages)

    async def _publish(self, shard: int, data: bytes) -> None:
        bus = self.server.bus()
        await bus.publish([(shard, data)])
        await bus.close()

    async def _link(self, greeting: bytes, messages: list[bytes]) -> bool:
        try:
            link: Link = await self.mallory.dial(self.victim.address)
        except MeshError:
            return False
        reader = asyncio.ensure_future(self._read(link))
        try:
            await link.send(greeting)
            for message in messages:
                await link.send(message)
            # What answers this has heard everything before it.
            await link.send(encode(WantCertificates((self.material.hello.session,))))
            async with asyncio.timeout(ANSWER_S):
                return await reader
        except (MeshError, TimeoutError):
            return False
        finally:
            reader.cancel()
            await asyncio.wait([reader])
            await link.close()

    async def _read(self, link: Link) -> bool:
        """Take what the victim says until it shows the attacker's own certificate, or hangs up;
        when it asks for a snapshot, or for the rest of one, it gets parts of a mutant.
        """
        with contextlib.suppress(MeshError):
            while True:
                said = decode(await link.receive())
                if isinstance(said, WantSnapshot | WantRest):
                    self.given += 1
                    at = (self.given, 0)
                    if isinstance(said, WantRest):
                        at = (said.transfer, said.index)
                    mutant = part(Random(self.given), self.material, said.shard, *at)
                    await link.send(encode(mutant))
                mine = self.material.hello.certificate
                if isinstance(said, Certificates) and mine in said.certificates:
                    return True
        return False

    # ------------------------------------------------------------------ judging

    def judge(self, cases: list[Case]) -> None:
        """Whether anything got in, or broke, by now."""
        core = self.victim._check().core
        own = self.honest.session
        mine = {
            shard: {own: seqs.get(own, 0), **self.ghost.get(shard, {})}
            for shard, seqs in self.honest.frontier().items()
        }
        for shard, sessions in self.victim.frontier().items():
            for session, seq in sessions.items():
                if seq > mine.get(shard, {}).get(session, 0):
                    self._found("accepted", cases, f"shard {shard}: {session} has {seq}")
        if core.roll.held != self.honest._check().core.roll.held:
            self._found("accepted", cases, "a mesh key")
        probe = self.world.probes["victim"]
        for kind in BROKEN:
            if probe.counts[kind] > self._told.get(kind, 0):
                self._told[kind] = probe.counts[kind]
                self._found("crashes", cases, f"{kind}: {probe.latest[kind]}")

    def _found(self, kind: str, cases: list[Case], what: str) -> None:
        if len(self.findings) < 50:
            kinds = sorted({case.kind for case in cases})
            prefix = cases[0].data[0][:24].hex() if len(cases) == 1 else ""
            self.findings.append(
                {"found": kind, "kinds": kinds, "what": what[:300], "prefix": prefix}
            )

    async def _written(self) -> list[bytes]:
        return await frames_of(self.honest, self.honest.session, self.honest.frontier())

    async def compare(self) -> None:
        """The victim must equal a twin that was given the honest frames and nothing else."""
        if any(found["found"] == "accepted" for found in self.findings):
            return
        await self.honest.flush()
        try:
            await converged(self.honest, self.victim)
        except AssertionError as error:
            self._found("accepted", [], f"the victim differs from the honest writer: {error}")
            return
        raws = [*self.material.frames, *await self._written()]
        twin = self.world.replica("twin")
        async with running(twin):
            ingest = twin._check().exchange._ingest
            for raw in raws:
                ingest.frame(raw, "honest")
                await twin._check().exchange.room()
            with contextlib.suppress(AssertionError):
                await eventually(lambda: same(twin, self.victim), "the twin has all")
            if not same(twin, self.victim) or twin.digest() != self.victim.digest():
                self._found("accepted", [], "the victim is not equal to its twin")


_ON_LINK: Final = frozenset(KINDS + TCP_KINDS) - {"bus", "snapshot", "greeting", "door"}


async def frames_of(
    replica: Replica, session: int, frontier: dict[int, dict[int, int]]
) -> list[bytes]:
    """A session's frames up to this frontier, from a replica's journal."""
    journal, found = replica.environment.journal, []
    for shard, sessions in frontier.items():
        records = await journal.frames(shard, session, 0, sessions.get(session, 0), PAGE)
        found += [record.data for record in records]
    return found


def hello_of(identity: Identity, seed: int) -> Hello:
    """A greeting of a fresh session."""
    key = identity.new_session(HostClock(), SeededEntropy(seed))
    return Hello(
        WIRE_OLDEST, WIRE_NEWEST, identity.mesh.id, identity.replica, key.session,
        key.certificate, (),
    )  # fmt: skip


def _sealed(sealer: Sealer, first: int) -> list[tuple[int, bytes]]:
    stamp = HostClock().wall_ms() << 16
    change = Operation(
        "Note/live", field_path("text", TypeCode.REGISTER), encode_stamped(stamp, "forged"), ()
    )
    body = encode_body([Transaction("edit", "x", stamp, "", (change,))])
    seqs = range(first, first + 4)
    return [(seq, sealer.seal([Draft(0, seq, seq, [], stamp, None, body)])[0]) for seq in seqs]


def forged(world: World, session: int, frames: list[bytes]) -> list[bytes]:
    """What an insider can do at most: go on, in good form, where an honest session ended, and
    sign with a key of his own.
    """
    opener = Opener(world.authority.mesh, Trust(world.authority.mesh))
    found: list[bytes] = []
    key = world.identity("ghost").new_session(HostClock(), SeededEntropy(92))
    wrong = dataclasses.replace(
        key, session=session, key=Ed25519PrivateKey.from_private_bytes(b"f" * 32)
    )
    tips = {opener.header(raw).shard: raw for raw in frames}
    for shard, raw in tips.items():
        last = opener.header(raw).last
        sealer = Sealer(world.identity("ghost"), wrong)
        sealer._sealed[shard] = last, frame_hash(raw)
        stamp = HostClock().wall_ms() << 16
        body = encode_body([])
        found += sealer.seal([Draft(shard, last + 1, last + 1, [], stamp, None, body)])
    return found


def tell(place: Path, number: int) -> None:
    """Let the parent know which case comes now."""
    place.write_text(str(number + 1), encoding="ascii")


def resident_mb() -> float:
    """What this process has in memory now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / (1 << 20)


async def attack(
    seed: int, first: int, stop: int, place: Path, over_tcp: Path | None
) -> dict[str, Any]:
    """Run the cases `first` … `stop - 1`; `over_tcp`: over TLS, with identities in that folder."""
    arena = Arena(seed, over_tcp)
    world = arena.world
    begun, warm = time.monotonic(), 0.0
    arena.honest = world.replica("honest")
    async with running(arena.honest):
        arena.victim = world.replica("victim", arena.honest.address, bus=arena.server.bus())
        async with running(arena.victim):
            await arena.prepare()
            writer = asyncio.ensure_future(arena.keep_writing())
            kinds = KINDS if over_tcp is None else TCP_KINDS
            try:
                for number in range(first, stop, BATCH):
                    tell(place, number)
                    numbers = range(number, min(stop, number + BATCH))
                    await arena.batch([case_of(seed, n, arena.material, kinds) for n in numbers])
                    if not warm and number - first >= WARM * (stop - first):
                        warm = resident_mb()
                    if writer.done():
                        break
                await asyncio.sleep(0)
                if writer.done():
                    writer.result()
            finally:
                writer.cancel()
            grown = resident_mb() - warm if warm else 0.0
            async with asyncio.timeout(SETTLE_S):
                await arena.compare()
            arena.judge([])
    await world.close()
    return {
        "cases": stop - first, "seconds": round(time.monotonic() - begun, 1),
        "memory_growth_mb": round(grown, 1), "honest_updates": len(arena.delays),
        "delays_ms": [round(1e3 * each, 2) for each in arena.delays],
        "findings": arena.findings, "ended_their_link": arena.cut,
        "events": dict(world.probes["victim"].counts),
    }  # fmt: skip


def bound_memory() -> None:
    """No more than `MEMORY_BYTES` on top of what this process has mapped."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    most = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def main(arguments: list[str]) -> None:
    """`memory|tcp seed first stop place [module:function]`; the function plants a weakness."""
    wire, seed, first, stop, place, *plant = arguments
    for each in plant:
        module, _, name = each.partition(":")
        getattr(importlib.import_module(module), name)()
    bound_memory()
    with tempfile.TemporaryDirectory(prefix="mesh-fuzz-") as folder:
        over_tcp = Path(folder) if wire == "tcp" else None
        ran = attack(int(seed), int(first), int(stop), Path(place), over_tcp)
        sys.stdout.write(json.dumps(asyncio.run(ran)))


if __name__ == "__main__":
    main(sys.argv[1:])
