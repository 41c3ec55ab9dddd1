"""The topic that holds a mesh's log: which brokers lead its partitions, and whether it fits.

A topic that is missing is created. One that is there is never altered: what does not fit is said.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from aiokafka.protocol.admin import (  # type: ignore[import-untyped]
    CreateTopicsRequest,
    DescribeConfigsRequest,
)
from aiokafka.protocol.metadata import MetadataRequest  # type: ignore[import-untyped]

from persistence.base import ServiceUnavailable
from persistence.kafka_wire import Access, Broker, Moved, Settling, connect, no_answer, refusal
from persistence.memory_log import closed_log

Result = TypeVar("Result")

NONE, UNKNOWN_TOPIC, NO_LEADER, TOPIC_EXISTS = 0, 3, 5, 36
TOPIC_RESOURCE = 2
# How soon to look again while a new topic gets its leaders.
SETTLING_S = 0.05


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """The topic as this mesh wants it. `record_bytes`: its greatest record, with overhead."""

    name: str
    partitions: int
    replication: int
    record_bytes: int

    def configs(self) -> dict[str, str]:
        """What a topic that is created gets; all else is as the brokers are set up.

        The log is the durable truth of the mesh, so nothing is ever removed unless an operator
        decides so. min.insync.replicas is left to the brokers.
        """
        return {
            "cleanup.policy": "delete",
            "retention.ms": "-1",
            "retention.bytes": "-1",
            "compression.type": "producer",
            "max.message.bytes": str(self.record_bytes),
        }


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the partitions are: {shard: broker id}, {broker id: address}.

    `record_bytes`: the greatest record the topic takes; None where the broker would not tell.
    """

    topic: str
    leaders: dict[int, int]
    addresses: dict[int, str]
    record_bytes: int | None

    def by_leader(self, shards: Iterable[int]) -> dict[int, list[int]]:
        """{broker id: those of the shards that it leads}."""
        nodes: dict[int, list[int]] = {}
        for shard in shards:
            node = self.leaders.get(shard, -1)
            if node < 0:
                raise Settling(
                    f"no broker leads partition {shard} of Kafka's topic {self.topic!r}",
                    "start the brokers that hold its copies",
                )
            nodes.setdefault(node, []).append(shard)
        return nodes


class Cluster:
    """Connections to the brokers of one topic, made when needed, and the topic's layout.

    Connections have a purpose each: a broker answers one connection's requests in order, so a read
    that waits for news must not hold up an append, and neither may one that is being made.
    """

    def __init__(self, access: Access, spec: TopicSpec) -> None:
        self.spec = spec
        self._access = access
        self._door: Broker | None = None
        self._first_server = 0
        self._brokers: dict[tuple[int, str], Broker] = {}
        self._layout: Layout | None = None
        self._looking = asyncio.Lock()
        # For each connection: a broker out of reach must not keep anybody from the others.
        self._connecting: dict[tuple[int, str] | None, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._opening: set[asyncio.Task[Broker]] = set()
        self._closed = False

    def deadline(self, extra_s: float = 0.0) -> float:
        """The loop's time by which something that starts now must be done."""
        return asyncio.get_running_loop().time() + self._access.timeout_s + extra_s

    async def layout(self, deadline: float) -> Layout:
        """The topic's layout, asked for once and after every `forget`."""
        if self._layout is None:
            async with self._holding(self._looking, deadline):
                if self._layout is None:
                    self._layout = await self._look(self._soon(deadline))
        return self._layout

    def forget(self) -> None:
        """Something was not as the layout says: ask again when it is needed next."""
        self._layout = None

    async def door(self, deadline: float) -> Broker:
        """A connection to any of the servers, for what every broker answers."""
        async with self._holding(self._connecting[None], deadline):
            if self._door is None or not self._door.usable:
                self._door = await self._knock(deadline)
            return self._door

    async def broker(self, id: int, purpose: str, deadline: float) -> Broker:
        """The connection to this broker that is kept for `purpose`."""
        address = (await self.layout(deadline)).addresses.get(id)
        if address is None:
            raise Settling(f"Kafka's broker {id} is gone", "start it again")
        async with self._holding(self._connecting[id, purpose], deadline):
            broker = self._brokers.get((id, purpose))
            if broker is None or not broker.usable:
                broker = await self._reach(id, address, deadline)
                self._brokers[id, purpose] = broker
            return broker

    def hang_up(self, purpose: str) -> None:
        """Drop the connections of this purpose, with everything still unsent on them."""
        for key in [key for key in self._brokers if key[1] == purpose]:
            self._brokers.pop(key).hang_up()

    async def trying(self, attempt: Callable[[], Awaitable[Result]], deadline: float) -> Result:
        """Do it; again with fresh metadata where that is likely to help.

        Once more after a lost connection; until the deadline while the brokers are settling.
        """
        reconnected = False
        while True:
            try:
                return await attempt()
            except ServiceUnavailable as failure:
                self.forget()
                if isinstance(failure, Settling):
                    if asyncio.get_running_loop().time() + SETTLING_S >= deadline:
                        raise
                elif reconnected or not isinstance(failure, Moved):
                    raise
                else:
                    reconnected = True
                    continue
            await asyncio.sleep(SETTLING_S)

    async def settle(self, deadline: float, what: str) -> None:
        """Wait a little for brokers that are about to be ready; at most until the deadline."""
        if asyncio.get_running_loop().time() + SETTLING_S >= deadline:
            raise no_answer(what, self._access)
        await asyncio.sleep(SETTLING_S)

    async def close(self) -> None:
        """Drop all connections, and return when they are closed. None is made from now on."""
        self._closed = True
        for opening in self._opening:
            opening.cancel()
        brokers = [*self._brokers.values(), *([self._door] if self._door else [])]
        self._brokers.clear()
        self._door = None
        await asyncio.gather(*(broker.hang_up() for broker in brokers))

    def _soon(self, deadline: float) -> float:
        """The deadline of what waits for no news, and so needs no more time than usual."""
        return min(deadline, self.deadline())

    async def _open(self, address: str, deadline: float) -> Broker:
        self._check_open()
        deadline = self._soon(deadline)
        opening = asyncio.create_task(connect(self._access, address, deadline))
        self._opening.add(opening)
        try:
            broker = await opening
            self._check_open()
        except asyncio.CancelledError:
            _drop(opening)
            # By `close`, or because whoever waits here was himself cancelled.
            if (me := asyncio.current_task()) is None or not me.cancelling():
                self._check_open()
            raise
        except ServiceUnavailable:
            _drop(opening)
            raise
        finally:
            self._opening.discard(opening)
        return broker

    def _check_open(self) -> None:
        if self._closed:
            raise closed_log()

    async def _reach(self, id: int, address: str, deadline: float) -> Broker:
        try:
            return await self._open(address, deadline)
        except ServiceUnavailable as unreachable:
            if address in self._access.servers or unreachable.lasting:
                raise
            raise ServiceUnavailable(
                f"Kafka's broker {id} tells its clients to use {address}: {unreachable.reason}",
                "set the broker's advertised.listeners to an address that this host reaches",
            ) from None

    async def _knock(self, deadline: float) -> Broker:
        """Try the servers in turn, each for its share of the time, from where it worked last."""
        servers = self._access.servers
        loop = asyncio.get_running_loop()
        deadline = self._soon(deadline)
        failures: list[ServiceUnavailable] = []
        for tried in range(len(servers)):
            at = (self._first_server + tried) % len(servers)
            share = (deadline - loop.time()) / (len(servers) - tried)
            try:
                broker = await self._open(servers[at], loop.time() + share)
            except ServiceUnavailable as failure:
                failures.append(failure)
            else:
                self._first_server = at
                return broker
        # The one that an operator must act on says more than those that are merely down.
        failures.sort(key=lambda failure: not failure.lasting)
        others = f" (and {len(failures) - 1} more failed)" if len(failures) > 1 else ""
        worst = failures[0]
        lasting = all(failure.lasting for failure in failures)
        raise ServiceUnavailable(worst.reason + others, worst.cure, lasting=lasting)

    async def _look(self, deadline: float) -> Layout:
        """Ask for the topic, create it if it is missing, and see whether it fits."""
        created = False
        while True:
            door = await self.door(deadline)
            # Auto-creation would make a topic with the broker's own number of partitions.
            request = MetadataRequest([self.spec.name], allow_auto_topic_creation=False)
            answer = (await door.ask(request, deadline)).to_object()
            (topic,) = answer["topics"]
            addresses = {each["node_id"]: _address(each) for each in answer["brokers"]}
            code = topic["error_code"]
            if code == UNKNOWN_TOPIC and not created:
                await self._create(answer["controller_id"], addresses, deadline)
                created = True
            elif code == NONE:
                self._check_partitions(len(topic["partitions"]))
                leaders = {each["partition"]: each["leader"] for each in topic["partitions"]}
                # A new topic has no leaders for a moment; in an old one that is worth telling.
                if not created or -1 not in leaders.values():
                    limit = await self._check_configs(door, deadline)
                    return Layout(self.spec.name, leaders, addresses, limit)
            elif code not in (UNKNOWN_TOPIC, NO_LEADER):
                raise refusal(code, f"asking for topic {self.spec.name!r}")
            await self.settle(deadline, f"the leader of topic {self.spec.name!r}")

    async def _create(self, controller: int, addresses: dict[int, str], deadline: float) -> None:
        """Create the topic; that another replica was quicker is as good."""
        spec = self.spec
        wanted: Any = (
            spec.name,
            spec.partitions,
            spec.replication,
            [],
            list(spec.configs().items()),
        )
        timeout_ms = int(self._access.timeout_s * 1000)
        address = addresses.get(controller)
        if address is None:
            raise Settling(
                "the brokers have no controller now", "start the brokers that are missing"
            )
        broker = await self._reach(controller, address, deadline)
        try:
            request = CreateTopicsRequest([wanted], timeout_ms, False)
            answer = (await broker.ask(request, deadline)).to_object()
        finally:
            broker.hang_up()
        (result,) = answer["topic_errors"]
        if result["error_code"] not in (NONE, TOPIC_EXISTS):
            raise refusal(
                result["error_code"],
                f"creating topic {spec.name!r}",
                result.get("error_message") or "",
            )

    def _check_partitions(self, count: int) -> None:
        if count != self.spec.partitions:
            raise ServiceUnavailable(
                f"Kafka's topic {self.spec.name!r} has {count} partitions, and this mesh has"
                f" {self.spec.partitions} shards",
                "set kafka.topic to another name; it is created as needed",
                lasting=True,
            )

    async def _check_configs(self, door: Broker, deadline: float) -> int | None:
        """The greatest record the topic takes. Refuses a topic that would forget frames."""
        names = ["cleanup.policy", "max.message.bytes"]
        request = DescribeConfigsRequest([(TOPIC_RESOURCE, self.spec.name, names)])
        answer = (await door.ask(request, deadline)).to_object()
        (resource,) = answer["resources"]
        if resource["error_code"] != NONE:
            # Not everybody may ask. The broker still refuses what is too large, when it comes.
            return None
        configs = {
            each["config_names"]: each["config_value"] for each in resource["config_entries"]
        }
        if "compact" in (configs.get("cleanup.policy") or ""):
            raise ServiceUnavailable(
                f"Kafka's topic {self.spec.name!r} is compacted, which removes frames",
                f"run kafka-configs.sh --alter --entity-type topics --entity-name {self.spec.name}"
                " --add-config cleanup.policy=delete",
                lasting=True,
            )
        limit = configs.get("max.message.bytes")
        return int(limit) if limit else None

    @asynccontextmanager
    async def _holding(self, lock: asyncio.Lock, deadline: float) -> AsyncIterator[None]:
        """Hold a lock that somebody else may hold for as long as the brokers are silent."""
        try:
            async with asyncio.timeout_at(deadline):
                await lock.acquire()
        except TimeoutError:
            raise no_answer(", ".join(self._access.servers), self._access) from None
        try:
            yield
        finally:
            lock.release()


def _drop(opening: asyncio.Task[Broker]) -> None:
    """A connection that came about when nobody wanted it any more."""
    if opening.done() and not opening.cancelled() and opening.exception() is None:
        opening.result().hang_up()


def too_large(spec: TopicSpec, size: int, limit: int | None) -> ServiceUnavailable:
    """A record above what the topic takes, with the command that lets it in."""
    allowed = f"allows {limit}" if limit else "allows less"
    return ServiceUnavailable(
        f"a frame takes {size} bytes as a record, and Kafka's topic {spec.name!r} {allowed}",
        f"run kafka-configs.sh --alter --entity-type topics --entity-name {spec.name}"
        f" --add-config max.message.bytes={spec.record_bytes}",
        lasting=True,
    )


def _address(broker: dict[str, Any]) -> str:
    host = broker["host"]
    return f"[{host}]:{broker['port']}" if ":" in host else f"{host}:{broker['port']}"
