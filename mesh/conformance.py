"""What every `Transport` and `Link` must do, as checks any test runner can run.

    @asynccontextmanager
    async def make() -> AsyncIterator[Ends]: ...          # two fresh ends, closed afterwards

    for check in TRANSPORT_CHECKS:
        await check(make)

A check returns, or raises AssertionError with what was wrong. Nothing here imports a test runner,
so that whoever writes a transport of his own can run the same checks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TypeAlias

from crdt.errors import ServiceError
from mesh.environment import Link, LinkClosed, Transport

__all__ = ("TRANSPORT_CHECKS", "Check", "Ends", "MakeEnds", "check_transport")

PATIENCE_S = 20.0
"""How long an awaited condition may take before the check fails."""
STALL_S = 0.3
"""How long a sender to a deaf peer is watched; a correct transport never fails for being slow."""


@dataclass(frozen=True, slots=True)
class Ends:
    """Two transports of one mesh, not listening yet, and the replica names they prove."""

    caller: Transport
    caller_name: str
    listener: Transport
    listener_name: str


MakeEnds: TypeAlias = Callable[[], AbstractAsyncContextManager[Ends]]
Check: TypeAlias = Callable[[MakeEnds], Awaitable[None]]


class _Listening:
    """A listener that hands out the links it accepts ."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._links: asyncio.Queue[Link] = asyncio.Queue()
        self.address = ""

    async def start(self) -> _Listening:
        self.address = await self._transport.listen(self._accept)
        return self

    async def accepted(self) -> Link:
        async with asyncio.timeout(PATIENCE_S):
            return await self._links.get()

    async def _accept(self, link: Link) -> None:
        self._links.put_nowait(link)


async def _pair(ends: Ends) -> tuple[Link, Link]:
    """The dialler's and the listener's end of one link."""
    listening = await _Listening(ends.listener).start()
    dialled = await ends.caller.dial(listening.address)
    return dialled, await listening.accepted()


async def _receive(link: Link) -> bytes:
    async with asyncio.timeout(PATIENCE_S):
        return await link.receive()


async def _assert_ends(link: Link) -> None:
    """Nothing more comes, and sending fails, at the latest when the end has been noticed."""
    try:
        more = await _receive(link)
    except LinkClosed:
        pass
    else:
        raise AssertionError(f"{link!r} delivered {len(more)} bytes after its end")
    try:
        await link.send(b"after the end")
    except LinkClosed:
        return
    raise AssertionError(f"{link!r} took a message after its end was seen")


async def check_both_ends_know_each_other(make: MakeEnds) -> None:
    """Names are proven, and exactly one side dialled."""
    async with make() as ends:
        dialled, accepted = await _pair(ends)
        assert dialled.peer == ends.listener_name, dialled.peer
        assert accepted.peer == ends.caller_name, accepted.peer
        assert (dialled.initiated, accepted.initiated) == (True, False)
        assert dialled.address
        assert accepted.address


async def check_messages_arrive_whole_and_in_order(make: MakeEnds) -> None:
    """Empty, small and large ones, both ways at once, bit for bit."""
    sizes = [0, 1, 2, 100, 65_535, 65_536, 300_000, 1_000_000, 3]
    messages = [bytes([index]) * size for index, size in enumerate(sizes, 1)]

    async def talk(link: Link) -> None:
        for message in messages:
            await link.send(message)

    async def listen(link: Link) -> None:
        for message in messages:
            got = await _receive(link)
            assert got == message, f"{len(got)} bytes where {len(message)} were sent"

    async with make() as ends:
        dialled, accepted = await _pair(ends)
        await asyncio.gather(talk(dialled), listen(accepted), talk(accepted), listen(dialled))


async def check_received_bytes_are_counted(make: MakeEnds) -> None:
    """At least those of the messages received, each way by itself, and none while nothing comes."""
    async with make() as ends:
        dialled, accepted = await _pair(ends)
        start = accepted.received_bytes
        for size in (10, 300_000, 0):
            before, own = accepted.received_bytes, dialled.received_bytes
            _, message = await asyncio.gather(dialled.send(b"x" * size), _receive(accepted))
            grown = accepted.received_bytes - before
            assert grown >= len(message), f"{grown} bytes counted of a message of {len(message)}"
            assert dialled.received_bytes == own, "what is sent counted as received"
        total = accepted.received_bytes
        await asyncio.sleep(0)
        assert start <= total == accepted.received_bytes, "counted what never came"


async def check_concurrent_senders_do_not_mix(make: MakeEnds) -> None:
    """Messages of many tasks stay whole, and each task's own order is kept."""
    senders, each = 8, 25

    async def talk(link: Link, who: int) -> None:
        for number in range(each):
            await link.send(bytes([who, number]) + bytes([who]) * (who * 40_000))

    async with make() as ends:
        dialled, accepted = await _pair(ends)
        talking = asyncio.gather(*(talk(dialled, who) for who in range(senders)))
        seen: dict[int, int] = dict.fromkeys(range(senders), 0)
        for _ in range(senders * each):
            message = await _receive(accepted)
            who, number = message[0], message[1]
            assert number == seen[who], f"sender {who}: {number} came where {seen[who]} was due"
            assert message[2:] == bytes([who]) * (who * 40_000)
            seen[who] += 1
        await talking


async def check_what_was_sent_before_close_arrives(make: MakeEnds) -> None:
    """An orderly close loses nothing that had been sent; then both ends see the end."""
    async with make() as ends:
        dialled, accepted = await _pair(ends)
        for number in range(50):
            await dialled.send(bytes([number]) * 1_000)
        closing = asyncio.ensure_future(dialled.close())
        for number in range(50):
            assert await _receive(accepted) == bytes([number]) * 1_000
        await _assert_ends(accepted)
        await closing
        await _assert_ends(dialled)


async def check_close_wakes_a_waiting_receiver(make: MakeEnds) -> None:
    """A `receive` that waits when its own side closes the link raises LinkClosed."""
    async with make() as ends:
        dialled, _ = await _pair(ends)
        waiting = asyncio.ensure_future(_receive(dialled))
        await asyncio.sleep(0)
        await dialled.close()
        try:
            await waiting
        except LinkClosed:
            return
        raise AssertionError("receive returned a message nobody sent")


async def check_link_close_is_idempotent(make: MakeEnds) -> None:
    """Closing twice, at once, from both ends, and after the peer has gone raises nothing."""
    async with make() as ends:
        dialled, accepted = await _pair(ends)
        await asyncio.gather(dialled.close(), dialled.close(), accepted.close())
        await dialled.close()
        await accepted.close()


async def check_cancelled_receive_loses_nothing(make: MakeEnds) -> None:
    """Whoever gives up waiting and comes back later gets every message."""
    async with make() as ends:
        dialled, accepted = await _pair(ends)
        for number in range(30):
            waiting = asyncio.ensure_future(accepted.receive())
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait({waiting})
            await dialled.send(bytes([number]) * (number * 10_000))
            if waiting.cancelled():
                got = await _receive(accepted)
            else:  # it came just before the cancellation
                got = waiting.result()
            assert got == bytes([number]) * (number * 10_000)


async def check_a_deaf_peer_holds_its_sender_back(make: MakeEnds) -> None:
    """Memory is bounded: `send` waits while the peer does not read, and goes on when it does."""
    message, count = b"x" * 65_536, 1_024

    async def talk(link: Link) -> None:
        for _ in range(count):
            await link.send(message)

    async with make() as ends:
        dialled, accepted = await _pair(ends)
        talking = asyncio.ensure_future(talk(dialled))
        done, _ = await asyncio.wait({talking}, timeout=STALL_S)
        assert not done, f"{count * len(message)} bytes went out to a peer that read none of them"
        for _ in range(count):
            assert len(await _receive(accepted)) == len(message)
        await talking


async def check_links_are_independent(make: MakeEnds) -> None:
    """Two links between the same two: one's end does not touch the other."""
    async with make() as ends:
        listening = await _Listening(ends.listener).start()
        first = await ends.caller.dial(listening.address)
        first_accepted = await listening.accepted()
        second = await ends.caller.dial(listening.address)
        second_accepted = await listening.accepted()
        await first.close()
        await _assert_ends(first_accepted)
        await second.send(b"still here")
        assert await _receive(second_accepted) == b"still here"


async def check_nobody_there(make: MakeEnds) -> None:
    """Dialling an address that was closed raises ServiceError."""
    async with make() as ends:
        address = (await _Listening(ends.listener).start()).address
        await ends.listener.close()
        try:
            async with asyncio.timeout(PATIENCE_S):
                await ends.caller.dial(address)
        except ServiceError:
            return
        raise AssertionError("a closed address answered")


async def check_transport_close_ends_everything(make: MakeEnds) -> None:
    """Closing a transport ends its links, is idempotent, and leaves no task behind."""
    before = asyncio.all_tasks()
    async with make() as ends:
        dialled, accepted = await _pair(ends)
        await asyncio.gather(ends.listener.close(), ends.listener.close())
        await _assert_ends(dialled)
        await _assert_ends(accepted)
        await ends.listener.close()
        await ends.caller.close()
    left = [task.get_name() for task in asyncio.all_tasks() - before]
    assert not left, f"tasks left behind: {left}"


TRANSPORT_CHECKS: tuple[Check, ...] = (
    check_both_ends_know_each_other,
    check_messages_arrive_whole_and_in_order,
    check_received_bytes_are_counted,
    check_concurrent_senders_do_not_mix,
    check_what_was_sent_before_close_arrives,
    check_close_wakes_a_waiting_receiver,
    check_link_close_is_idempotent,
    check_cancelled_receive_loses_nothing,
    check_a_deaf_peer_holds_its_sender_back,
    check_links_are_independent,
    check_nobody_there,
    check_transport_close_ends_everything,
)


async def check_transport(make: MakeEnds) -> None:
    """All checks, one after the other, each with fresh ends."""
    for check in TRANSPORT_CHECKS:
        await check(make)
