"""A TCP proxy between the agents, and to the servers, so that their links can really be cut.

Every pair of agents has a listening port of its own here: the one that dials is given this port
instead of the other's. So has every pair of an agent and a server. Cutting a pair either *breaks*
it (connections are reset, new ones too) or *silences* it (bytes stop flowing, nobody is told, new
connections are reset; what was held back flows on after the heal, as TCP does when a cable is
plugged in again). The agents can't tell the proxy from a network.

Kafka's brokers tell their clients where to connect, and a client that believed them would go round
the proxy. So in the answers of a listener that is said to do this its own address is replaced by
the wire's, which is as long.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable
from enum import Enum

_CHUNK = 65_536

Pair = tuple[str, str]
"""(who dials, who listens)"""


class Cut(Enum):
    """How a pair is cut."""

    BREAK = "break"
    SILENCE = "silence"


class LinkProxy:
    """Forwards one port per pair to wherever the listening agent is at the moment.

    Guarantees: nothing passes a pair while it is cut; what passes is unchanged and in order.
    `close` ends every connection and task.
    """

    def __init__(self) -> None:
        self._wires: dict[Pair, _Wire] = {}
        self._targets: dict[str, tuple[str, int]] = {}

    async def open(self, pairs: Iterable[Pair], *, announced: Collection[str] = ()) -> None:
        """Listen on a free loopback port for each pair. Raises OSError if none is left.

        `announced`: listeners that speak Kafka's protocol, and so tell where they are.
        """
        for pair in pairs:
            wire = _Wire(pair, self._targets, announced=pair[1] in announced)
            await wire.listen()
            self._wires[pair] = wire

    def address(self, dialler: str, listener: str) -> str:
        """What `dialler` has to dial to reach `listener`."""
        return f"127.0.0.1:{self._wires[dialler, listener].port}"

    def seeds(self, dialler: str, apart: Collection[str] = ()) -> list[str]:
        """Every address `dialler` dials, but for those of the listeners `apart`."""
        return [
            self.address(*pair)
            for pair in self._wires
            if pair[0] == dialler and pair[1] not in apart
        ]

    def point(self, listener: str, address: str) -> None:
        """From now on `listener` is at `host:port`."""
        host, _, port = address.rpartition(":")
        self._targets[listener] = (host.strip("[]"), int(port))

    def forget(self, listener: str) -> None:
        """The agent is gone: connections to it are reset until `point` says where it is again."""
        self._targets.pop(listener, None)

    def cut(self, pair: Pair, how: Cut) -> None:
        """Cut one pair."""
        self._wires[pair].cut(how)

    def silence_one_way(self, pair: Pair, *, answers: bool) -> None:
        """Stop one direction of a pair: what the listener answers, or what the dialler says."""
        self._wires[pair].hush(answers=answers)

    def heal(self) -> None:
        """Let every pair flow again."""
        for wire in self._wires.values():
            wire.heal()

    def crossing(self, side: Iterable[str]) -> list[Pair]:
        """The pairs with one agent in `side` and the other outside it."""
        inside = set(side)
        return [pair for pair in self._wires if (pair[0] in inside) != (pair[1] in inside)]

    @property
    def cut_pairs(self) -> list[Pair]:
        """The pairs that are cut now."""
        return [pair for pair, wire in self._wires.items() if wire.is_cut]

    @property
    def carried(self) -> int:
        """Bytes forwarded so far, both ways."""
        return sum(wire.carried for wire in self._wires.values())

    async def close(self) -> None:
        """Stop listening and end every connection. Idempotent."""
        for wire in self._wires.values():
            await wire.close()


class _Wire:
    """One pair: its port and the connections through it."""

    def __init__(self, pair: Pair, targets: dict[str, tuple[str, int]], *, announced: bool) -> None:
        self.port = 0
        self.carried = 0
        self._listener = pair[1]
        self._announced = announced
        self._targets = targets
        self._server: asyncio.Server | None = None
        self._asking, self._answering = asyncio.Event(), asyncio.Event()
        self.heal()
        self._ends: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def is_cut(self) -> bool:
        return not (self._asking.is_set() and self._answering.is_set())

    async def listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def cut(self, how: Cut) -> None:
        self._asking.clear()
        self._answering.clear()
        if how is Cut.BREAK:
            self._reset()

    def hush(self, *, answers: bool) -> None:
        (self._answering if answers else self._asking).clear()

    def heal(self) -> None:
        self._asking.set()
        self._answering.set()

    def _reset(self) -> None:
        for end in list(self._ends):
            end.transport.abort()

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self._reset()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._ends.add(writer)
        try:
            await self._forward(reader, writer)
        finally:
            self._ends.discard(writer)
            writer.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target = self._targets.get(self._listener)
        if target is None or self.is_cut:
            return
        try:
            far_reader, far_writer = await asyncio.open_connection(*target)
        except OSError:
            return
        self._ends.add(far_writer)
        answers = (
            self._pump_answers(far_reader, writer, _in_kafka(*target))
            if self._announced
            else self._pump(far_reader, writer, self._answering)
        )
        pumps = [
            asyncio.ensure_future(self._pump(reader, far_writer, self._asking)),
            asyncio.ensure_future(answers),
        ]
        try:
            # When one direction ends the link is over: replicas don't use half-open connections.
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            self._ends.discard(far_writer)
            far_writer.transport.abort()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flowing: asyncio.Event
    ) -> None:
        try:
            while data := await reader.read(_CHUNK):
                await self._pass_on(data, writer, flowing)
        except OSError:
            return

    async def _pump_answers(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, told: bytes
    ) -> None:
        """Whole answers, each after its length, with our address in place of the one `told`.

        Both are of one length, so nothing else changes. That the bytes of an address stand in a
        record by chance is out of the question: what agents write is encrypted.
        """
        ours = _in_kafka("127.0.0.1", self.port)
        try:
            while True:
                length = await reader.readexactly(4)
                answer = await reader.readexactly(int.from_bytes(length, "big"))
                await self._pass_on(length + answer.replace(told, ours), writer, self._answering)
        except (OSError, asyncio.IncompleteReadError):
            return

    async def _pass_on(
        self, data: bytes, writer: asyncio.StreamWriter, flowing: asyncio.Event
    ) -> None:
        await flowing.wait()
        writer.write(data)
        self.carried += len(data)
        await writer.drain()


def _in_kafka(host: str, port: int) -> bytes:
    """An address as it stands in the answers of a broker: the host's name, then 32 bits of port."""
    return host.encode() + port.to_bytes(4, "big")
