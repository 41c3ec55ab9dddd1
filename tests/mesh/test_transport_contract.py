"""Every transport keeps the contract of `mesh.environment`: the same checks against each."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mesh.conformance import TRANSPORT_CHECKS, Check, Ends, MakeEnds
from mesh.instrumentation import CountingProbe
from mesh.settings import PeersSettings
from mesh.transports.memory import MemoryNetwork
from mesh.transports.tcp import TcpTransport
from persistence.identity import create_genesis, provision


@pytest.fixture
def over_tcp(tmp_path: Path) -> MakeEnds:
    create_genesis(tmp_path / "authority", "contract")
    names = ("caller", "listener")
    identities = [provision(tmp_path / "authority", tmp_path / name, name) for name in names]

    @asynccontextmanager
    async def make() -> AsyncIterator[Ends]:
        a, b = (TcpTransport(each, PeersSettings(), CountingProbe()) for each in identities)
        try:
            yield Ends(a, names[0], b, names[1])
        finally:
            await a.close()
            await b.close()

    return make


@asynccontextmanager
async def in_memory() -> AsyncIterator[Ends]:
    network = MemoryNetwork()
    a, b = network.transport("caller"), network.transport("listener")
    try:
        yield Ends(a, "caller", b, "listener")
    finally:
        await a.close()
        await b.close()


@pytest.mark.parametrize("check", TRANSPORT_CHECKS, ids=lambda check: check.__name__)
async def test_memory(check: Check) -> None:
    await check(in_memory)


@pytest.mark.parametrize("check", TRANSPORT_CHECKS, ids=lambda check: check.__name__)
async def test_tcp(check: Check, over_tcp: MakeEnds) -> None:
    await check(over_tcp)
