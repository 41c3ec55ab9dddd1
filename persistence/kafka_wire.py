"""One connection to a Kafka broker, and what can go wrong on it in words that people can act on.

The driver's own clients hide failures: they retry for as long as they live, tell the reason to a
logger only, and a producer of theirs cannot be stopped without sending what it still holds. So the
log uses the driver's layer below: authenticated connections, requests and record batches. Nothing
here runs in the background, retries or waits beyond the deadline it is given.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
import struct
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from aiokafka.conn import AIOKafkaConnection  # type: ignore[import-untyped]
from aiokafka.errors import (  # type: ignore[import-untyped]
    BrokerResponseError,
    CorrelationIdError,
    IllegalSaslStateError,
    IncompatibleBrokerVersion,
    KafkaConnectionError,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
    for_code,
)

from persistence.base import ServiceUnavailable

MECHANISM = "SCRAM-SHA-512"
# The driver's own limits must never be the ones that end a wait: deadlines are given by the caller.
NEVER_MS = 24 * 3600 * 1000
# No answer to the first, small request is this long. Text read as a length is far above.
MAX_FIRST_ANSWER = 1 << 20

# Everything that a greeting can fail with, also on bytes that are none.
DRIVER_ERRORS = (KafkaError, OSError, ValueError, KeyError, AssertionError, struct.error)

_ours: ContextVar[bool] = ContextVar("kafka_connection_is_ours", default=False)


class Moved(ServiceUnavailable):
    """It may well work at once with fresh metadata and connections: worth one more attempt."""


class Settling(Moved):
    """The brokers are about to agree who leads what, as after creating a topic: worth some more."""


@dataclass(frozen=True, slots=True)
class Access:
    """How to get at the brokers. The password is in no message and no repr."""

    servers: tuple[str, ...]
    timeout_s: float
    tls: ssl.SSLContext | None = None
    username: str = ""
    password: str = field(default="", repr=False)

    @property
    def protocol(self) -> str:
        """Kafka's name for this combination."""
        return ("SASL_" if self.username else "") + ("SSL" if self.tls else "PLAINTEXT")


class Broker:
    """An open, authenticated connection. Requests are answered in the order sent."""

    def __init__(self, access: Access, address: str, connection: Any) -> None:
        self._access = access
        self.address = address
        self._connection = connection
        self._answered = False

    @property
    def usable(self) -> bool:
        """Whether it is connected, as far as this end knows."""
        return bool(self._connection.connected())

    @property
    def versions(self) -> dict[int, tuple[int, int]]:
        """{request kind: (least, greatest version)} the broker said it understands."""
        return dict(self._connection._versions)

    async def ask(self, request: Any, deadline: float) -> Any:
        """The answer, by the loop's time `deadline`; after any failure the connection is gone."""
        try:
            async with asyncio.timeout_at(deadline):
                answer = await self._connection.send(request)
        except TimeoutError:
            self.hang_up()
            raise no_answer(self.address, self._access) from None
        except (KafkaConnectionError, CorrelationIdError, OSError) as error:
            self.hang_up()
            raise self._broken(error) from None
        except (IncompatibleBrokerVersion, NotImplementedError) as error:
            raise ServiceUnavailable(
                f"Kafka at {self.address} is too old or too new: {_line(error)}",
                "use Apache Kafka 2.4 to 4.x",
                lasting=True,
            ) from None
        except asyncio.CancelledError:
            # Its answer is still to come, and would keep the next request waiting.
            self.hang_up()
            raise
        self._answered = True
        return answer

    def hang_up(self) -> asyncio.Future[None]:
        """Close at once. What the system has not sent yet is never sent."""
        if self._connection._writer is not None:
            self._connection._writer.transport.abort()
        closed: asyncio.Future[None] = self._connection.close()
        return closed

    def _broken(self, error: Exception) -> Moved:
        if self._answered or self._access.username:
            return Moved(
                f"the connection to Kafka at {self.address} broke{_why(error)}",
                "start the broker, or look into its log for why it hung up",
            )
        return Moved(
            f"Kafka at {self.address} hung up on the first request",
            "set kafka.username and kafka.password if this port wants a login, or see its log",
        )


async def connect(access: Access, address: str, deadline: float) -> Broker:
    """Connect, agree on versions and log in, by the loop's time `deadline`."""
    host, _, port = address.rpartition(":")
    connection = AIOKafkaConnection(
        host.removeprefix("[").removesuffix("]"),
        int(port),
        client_id="statemesh",
        request_timeout_ms=NEVER_MS,
        ssl_context=access.tls,
        security_protocol=access.protocol,
        sasl_mechanism=MECHANISM,
        sasl_plain_username=access.username,
        sasl_plain_password=access.password,
    )
    mine = _ours.set(True)
    broker = Broker(access, address, connection)
    try:
        async with asyncio.timeout_at(deadline):
            await connection.connect()
    except BaseException as error:
        # It may have been on the point of succeeding.
        broker.hang_up()
        if isinstance(error, TimeoutError):
            raise no_answer(address, access) from None
        if isinstance(error, DRIVER_ERRORS):
            raise _refused(error, address, access) from None
        raise
    finally:
        _ours.reset(mine)
    return broker


def no_answer(address: str, access: Access) -> ServiceUnavailable:
    """Silence until the deadline."""
    return ServiceUnavailable(
        f"{address} gave no answer as Kafka within {access.timeout_s:g} s",
        "check that the broker is up, not overloaded, and that kafka.servers names a Kafka",
    )


def refusal(code: int, doing: str, detail: str = "") -> ServiceUnavailable:
    """What a broker's error code means for `doing` ("appending to topic x")."""
    name = for_code(code).__name__
    said = f": {' '.join(detail.split())[:200]}" if detail else ""
    if code in _MOVED:
        return Settling(f"{doing} found {_MOVED[code]}", "wait for the brokers to settle")
    if code in _MEANINGS:
        reason, cure, lasting = _MEANINGS[code]
        return ServiceUnavailable(f"{doing} was refused: {reason}{said}", cure, lasting=lasting)
    return ServiceUnavailable(
        f"{doing} was refused with {name} ({code}){said}", "see the broker's log"
    )


# Leadership moved, or is about to: fresh metadata tells where to.
_MOVED = {
    3: "no such topic or partition on that broker",
    5: "a partition without a leader",
    6: "that another broker leads the partition now",
    41: "that another broker is the controller now",
    74: "that its view of the leaders is old",
    75: "that the broker's view of the leaders is old",
}
_MEANINGS = {
    2: ("the records are damaged", "check the broker's disk", True),
    7: ("the other copies did not confirm in time", "check the brokers and their network", False),
    17: ("the name is not allowed", "choose another kafka.topic", True),
    19: (
        "too few copies are in sync",
        "start the missing brokers, or lower min.insync.replicas of the topic",
        False,
    ),
    20: (
        "too few copies are in sync to count as durable",
        "start the missing brokers, or lower min.insync.replicas of the topic",
        False,
    ),
    29: (
        "no permission",
        "allow kafka.username to read, write, create and describe the topic",
        True,
    ),
    31: (
        "no permission in the cluster",
        "allow kafka.username to create topics, or create the topic by hand",
        True,
    ),
    38: (
        "fewer brokers than copies wanted",
        "start more brokers, or lower kafka.replication",
        False,
    ),
    44: ("a policy of the brokers forbids it", "create the topic by hand", True),
    56: ("the broker's disk failed", "check the broker's disk and log", False),
}


def _refused(error: Exception, address: str, access: Access) -> ServiceUnavailable:
    """Why no connection came about."""
    if isinstance(error, SaslAuthenticationFailed):
        return ServiceUnavailable(
            f"Kafka at {address} refused the login of {access.username!r}",
            "check kafka.username and kafka.password",
            lasting=True,
        )
    if isinstance(error, UnsupportedSaslMechanismError | IllegalSaslStateError):
        return ServiceUnavailable(
            f"Kafka at {address} takes no {MECHANISM} login on this port",
            "enable it there, name the port that has it, or leave kafka.username empty",
            lasting=True,
        )
    if isinstance(error, ssl.SSLError) or (access.tls and isinstance(error, ConnectionResetError)):
        return ServiceUnavailable(
            f"the TLS handshake with {address} failed: {_line(error)}",
            "check that this port speaks TLS and has a certificate this system trusts",
            lasting=True,
        )
    if isinstance(error, socket.gaierror):
        return ServiceUnavailable(
            f"the host name of {address} is unknown: {_line(error)}", "check kafka.servers and DNS"
        )
    if isinstance(error, KafkaConnectionError | BrokerResponseError | OSError):
        if isinstance(error, KafkaConnectionError):
            return _not_kafka(error, address, access)
        return ServiceUnavailable(
            f"no connection to Kafka at {address}: {_line(error)}",
            "start the broker, or correct kafka.servers",
        )
    return _not_kafka(error, address, access)


def _not_kafka(error: Exception, address: str, access: Access) -> ServiceUnavailable:
    """It hung up in the middle of the greeting, or answered nonsense."""
    cause = error.__cause__
    if isinstance(cause, asyncio.IncompleteReadError):
        expected = cause.expected or 0
        if expected > MAX_FIRST_ANSWER:
            said = struct.pack(">i", expected) + cause.partial
            if said[:2] == b"\x15\x03":
                return ServiceUnavailable(
                    f"{address} speaks TLS", "set kafka.tls to true", lasting=True
                )
            return ServiceUnavailable(
                f"{address} is not Kafka: it answered {said[:24].decode('latin-1')!a}",
                "name a Kafka broker in kafka.servers",
                lasting=True,
            )
        login = "" if access.username else ", whether it wants a login (kafka.username)"
        return ServiceUnavailable(
            f"{address} hung up during Kafka's greeting",
            f"check that it is a Kafka broker, whether this port speaks TLS (kafka.tls){login}",
        )
    return ServiceUnavailable(
        f"{address} did not greet as Kafka does{_why(error)}",
        "check the broker, and that kafka.servers names a Kafka",
    )


def _why(error: Exception) -> str:
    cause = error.__cause__
    if isinstance(cause, OSError):
        return f" ({_line(cause)})"
    return ""


def _line(error: Exception) -> str:
    """An exception's own words on one line."""
    # The system's word for it; asyncio puts addresses there instead.
    text = str(error)
    if isinstance(error, ConnectionError) and error.errno:
        text = os.strerror(error.errno)
    return " ".join(text.split())[:200] or type(error).__name__


def _not_ours(_: logging.LogRecord) -> bool:
    """Lets through what the driver logs for other users of it in this process.

    What it would log of our connections is in the exceptions raised; an outage is no news here.
    """
    return not _ours.get()


logging.getLogger("aiokafka.conn").addFilter(_not_ours)
