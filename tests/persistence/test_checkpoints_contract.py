"""Every checkpoint store passes the one suite, and the suite notices those that shouldn't."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from mesh.stack import Stack
from persistence.base import CheckpointStore, Lease, ServiceUnavailable
from persistence.conformance_checkpoints import (
    CHECKPOINT_CHECKS,
    Check,
    Open,
    check_checkpoints,
    check_fencing,
    check_replacing,
    check_round_trip,
    run_check,
)
from persistence.memory_checkpoints import MemoryCheckpoints, MemoryCheckpointServer
from persistence.postgres import PostgresCheckpoints
from persistence.system import SystemClock

each_check = pytest.mark.parametrize(
    "check", CHECKPOINT_CHECKS, ids=lambda check: check.__name__.removeprefix("check_")
)


async def _memory() -> Open:
    return MemoryCheckpointServer(SystemClock()).store


@each_check
async def test_checkpoints_in_memory(check: Check) -> None:
    await run_check(check, _memory)


@each_check
async def test_checkpoints_in_postgres(check: Check, stack: Stack) -> None:
    address = stack.services["postgres"].address

    async def make() -> Open:
        def open_store() -> CheckpointStore:
            return PostgresCheckpoints(
                address,
                mesh=b"contract".ljust(16),
                schema=f"contract_{check.__name__}"[:41],
                timeout_s=10.0,
                connections_max=3,
            )

        return open_store

    await run_check(check, make)


class Corrupting(MemoryCheckpoints):
    """Alters what it stores."""

    async def load(self, id: int) -> bytes | None:
        data = await super().load(id)
        return data and data[:-1]


class Unfenced(MemoryCheckpoints):
    """Lets anybody write who knows how the present lease looks."""

    async def write(
        self,
        lease: Lease,
        *,
        frontier: Mapping[int, int],
        log_offset: int,
        digest: bytes,
        data: bytes,
    ) -> int:
        held = self._server._leases[lease.shard]
        return await super().write(
            Lease(lease.shard, held.holder, held.fence),
            frontier=frontier,
            log_offset=log_offset,
            digest=digest,
            data=data,
        )


class Hoarding(MemoryCheckpoints):
    """Never removes an older one."""

    async def verified(self, lease: Lease, id: int) -> int:
        older = dict(self._server._rows)
        gone = await super().verified(lease, id)
        self._server._rows = older | self._server._rows
        return gone


@pytest.mark.parametrize(
    ("kind", "check", "complaint"),
    [
        (Corrupting, check_round_trip, "bytes were altered"),
        (Unfenced, check_fencing, "wrote with an old fence"),
        (Hoarding, check_replacing, "an older checkpoint stayed"),
    ],
)
async def test_the_suite_notices_a_store_that_breaks_a_guarantee(
    kind: Callable[[MemoryCheckpointServer], CheckpointStore], check: Check, complaint: str
) -> None:
    async def make() -> Open:
        server = MemoryCheckpointServer(SystemClock())
        return lambda: kind(server)

    with pytest.raises(AssertionError, match=complaint):
        await run_check(check, make)
    with pytest.raises(AssertionError):
        await check_checkpoints(make)


async def test_controls_of_the_server_in_memory() -> None:
    server = MemoryCheckpointServer(SystemClock(), capacity=10)
    store = server.store()
    lease = await store.acquire(0, "a", 60)
    assert lease is not None
    server.fail_next("write", done=True)
    with pytest.raises(ServiceUnavailable, match="answer to write was lost"):
        await store.write(lease, frontier={}, log_offset=0, digest=b"", data=b"12345")
    (lost,) = server.checkpoints(0)
    server.corrupt(lost.id)
    assert await store.load(lost.id) == b"12245"
    with pytest.raises(ServiceUnavailable, match="full"):
        await store.write(lease, frontier={}, log_offset=0, digest=b"", data=b"123456")
    server.fail_next("verified")
    with pytest.raises(ServiceUnavailable, match="failed at verified"):
        await store.verified(lease, lost.id)
    assert not server.checkpoints(0)[0].verified
    server.stop("maintenance")
    with pytest.raises(ServiceUnavailable, match="maintenance"):
        await store.newest()
    server.start()
    assert await store.newest() == {}
    assert server.holder(0) == "a"
    server.steal(0, "thief")
    assert server.holder(0) == "thief"
    server.expire(0)
    assert server.holder(0) == ""
