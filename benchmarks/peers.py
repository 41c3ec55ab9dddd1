"""Two replicas in two processes with nothing between them but a TLS link: no bus, no log.

- *update*: from before `edit()` in one process until `watch` hands it to a reader in the other;
  beside the same bytes through a bare TCP socket, one way.
- *heal*: the link is cut, both sides write, the network comes back. Timed is from the new link on,
  until each side has applied or acknowledged all that the other wrote; and, apart from that, how
  long it took to link again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from benchmarks import far_end
from benchmarks.far_end import LOOPBACK, FarEnd
from benchmarks.harness import Aim, BenchmarkError, Figure, Run, latencies, latency_figures
from benchmarks.material import Fleet, Reading, alone, write_documents, written_by
from benchmarks.pace import paced, stamped
from mesh import Durability, Replica
from simulations.rehearsal.proxy import Cut, LinkProxy

PER_SECOND: Final = 1_000
P50: Final = Aim("ours", "<", 1.0)
P99: Final = Aim("ours", "<", 4.0)
HEALED: Final = Aim("ours", "<", 1.0)
LINK_S: Final = 30.0
HEAL_S: Final = 60.0
POLL_S: Final = 0.002
PAIR: Final = ("here", "there")


async def measure(run: Run) -> None:
    """Both parts."""
    await _updates(run)
    await _heal(run)


async def _updates(run: Run) -> None:
    fleet = Fleet.found(run.folder / "updates")
    name = "update between peers"
    count = run.size(3_000, 300)
    async with (
        far_end.started("socket", fleet.folder) as socket,
        linked(fleet) as (replica, reader),
    ):
        _, writer = await asyncio.open_connection(LOOPBACK, socket.said["port"])

        async def edit(number: int) -> None:
            # Once a round each: so `watch` has nothing to merge, and no update goes uncounted.
            update = stamped()
            with replica.edit(Reading, str(number)) as reading:
                reading.text = update

        async def send(number: int) -> None:
            del number
            writer.write(stamped().encode())

        async def ours() -> dict[str, float]:
            await paced(count, PER_SECOND, edit)
            return latencies(name, await reader.collect(count))

        async def bare() -> dict[str, float]:
            await paced(count, PER_SECOND, send)
            return latencies(name, await socket.collect(count))

        try:
            await run.compare(latency_figures(name, P50, P99), ours=ours, bare=bare)
        finally:
            writer.transport.abort()


@asynccontextmanager
async def linked(
    fleet: Fleet, proxy: LinkProxy | None = None
) -> AsyncIterator[tuple[Replica, FarEnd]]:
    """A replica here and one there, linked; by way of the proxy, if there is one."""
    async with far_end.started("peer", fleet.folder, folder=str(fleet.replica("there"))) as other:
        seed = other.said["address"]
        if proxy is not None:
            proxy.point(PAIR[1], seed)
            seed = proxy.address(*PAIR)
        # Or, once it had heard of the other's own address, it would dial past the proxy.
        settings = alone(peers__seeds=(seed,), peers__introductions=False)
        async with Replica.open(fleet.replica("here"), settings=settings) as replica:
            await until("the link is up", LINK_S, lambda: _is_linked(replica))
            yield replica, other


async def _heal(run: Run) -> None:
    fleet = Fleet.found(run.folder / "heal")
    count = run.size(10_000, 200)
    healed = Figure(f"heal with {count:,} operations on each side", "s", HEALED)
    relinked = Figure("the network is back until the link is", "s")
    proxy = LinkProxy()
    try:
        await proxy.open([PAIR])
        async with linked(fleet, proxy) as (replica, other):

            async def ours() -> dict[str, float]:
                proxy.cut(PAIR, Cut.BREAK)
                await until("the link is cut", LINK_S, lambda: not _is_linked(replica))
                await write_documents(replica, "here", count)
                await replica.flush()
                theirs = (await other.ask("write", count=count))["written"]
                session = other.said["session"]
                if written_by(replica.frontier(), session) > theirs - count:
                    raise BenchmarkError("something came through a link that was cut")
                back = time.perf_counter()
                proxy.heal()
                await until("the link is back", LINK_S, lambda: _is_linked(replica))
                begun = time.perf_counter()
                await replica.flush(Durability.PEERS(1), timeout=HEAL_S)
                await until(
                    "their operations are here", HEAL_S,
                    lambda: written_by(replica.frontier(), session) >= theirs,
                )  # fmt: skip
                return {healed.name: time.perf_counter() - begun, relinked.name: begun - back}

            await run.compare([healed, relinked], ours=ours)
    finally:
        await proxy.close()


def _is_linked(replica: Replica) -> bool:
    return any(peer.connected for peer in replica.peers())


async def until(what: str, seconds: float, met: Callable[[], bool]) -> None:
    """Wait for a condition that nothing tells of. Raises BenchmarkError."""
    try:
        async with asyncio.timeout(seconds):
            while not met():  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        raise BenchmarkError(f"waited {seconds:g} s, and not: {what}") from None
