"""Links over TCP with mutual TLS 1.3: both ends prove by certificate that they are of this mesh.

The order of a handshake, all of it within `handshake_timeout_s`:

    dialler ── TLS 1.3, certificates both ways, issued by the mesh's authority ──► listener
    dialler ◄── one message: WELCOME, or REFUSED and why ── listener
    both: a `Link` is handed out; messages follow, each behind its length as four bytes, big-endian

The listener's message is there because in TLS 1.3 a dialler's own handshake is over before the
listener has judged its certificate. Host names are not compared: a replica moves, and its name in
the certificate is what counts. No protocol logic lives here: the replica decides whom to dial.

Probe events: `peer.refused` (address, reason, count), `link.opened` (peer, address, initiated),
`link.closed` (peer, address, reason), `link.oversized` (peer, bytes), `listener.failed` (reason).
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from crdt.errors import CallerError, ServiceError
from mesh.environment import Link, LinkClosed, PeerRefused
from mesh.refusals import Refusals
from mesh.settings import PeersSettings, split_address
from mesh.transports.tls import (
    CLOSE_GRACE_S,
    PROTOCOL,
    bind,
    finish,
    name_of,
    tls_context,
    tls_reason,
    tune,
)
from persistence.base import Probe
from persistence.certificates import ReplicaCertificate, verify_replica
from persistence.frame import BadSignature
from persistence.identity import Identity

__all__ = ("MessageTooLarge", "TcpLink", "TcpTransport", "Unreachable")

# Not a host: it only keeps the dialled address out of the handshake's clear text.
SERVER_NAME = "statemesh.invalid"
WELCOME, REFUSED = b"\x01", b"\x00"
HELLO_BYTES_MAX = 512
LENGTH_BYTES = 4
# Large messages are handed over in pieces, so that encrypting one never holds up the loop for long.
PIECE_BYTES = 262_144
READ_LIMIT_BYTES = 524_288
ACCEPT_PAUSE_S = 0.1
BACKLOG = 128


Accept: TypeAlias = Callable[[Link], Awaitable[None]]


class Unreachable(ServiceError):
    """Nobody answered at the address, or not in time; dial again later."""


class MessageTooLarge(CallerError):
    """A message over `peers.message_bytes_max`; nothing was sent."""


class TcpLink:
    """One TLS connection to one member of the mesh. See `mesh.environment.Link` for the guarantees.

    `receive` may be cancelled without losing anything. A cancelled `send` ends the link if the
    message had been written in part. At most `send_buffer_bytes` and a piece (256 kB) wait here.
    """

    def __init__(
        self,
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        *,
        peer: ReplicaCertificate,
        initiated: bool,
        limits: PeersSettings,
        probe: Probe,
        forget: Callable[[TcpLink], None],
    ) -> None:
        self._reader, self._writer = streams
        self.peer = peer.name
        self.certificate = peer.der
        self.initiated = initiated
        self.address = name_of(self._writer.get_extra_info("peername"))
        self._limits = limits
        self._probe = probe
        self._forget = forget
        self._sending = asyncio.Lock()
        self._expected: int | None = None  # length of the message whose body is being received
        self._body = bytearray()  # what of it is here
        self.received_bytes = 0
        self._ended = ""  # why, once it has
        self._writer.transport.set_write_buffer_limits(high=limits.send_buffer_bytes)

    async def send(self, message: bytes) -> None:
        """Hand over one message, waiting for a slow peer. Raises LinkClosed, MessageTooLarge."""
        size = len(message)
        if size > self._limits.message_bytes_max:
            raise MessageTooLarge(
                f"a message of {size} bytes is over peers.message_bytes_max = "
                f"{self._limits.message_bytes_max}; raise it in the whole mesh"
            )
        async with self._sending:
            self._check_open()
            header = size.to_bytes(LENGTH_BYTES, "big")
            if size <= PIECE_BYTES:
                self._writer.write(header + message)
                await self._drain()
                return
            try:
                self._writer.write(header)
                for start in range(0, size, PIECE_BYTES):
                    self._writer.write(message[start : start + PIECE_BYTES])
                    await self._drain()
            except asyncio.CancelledError:
                self._end("a send was cancelled half-way")
                raise

    async def receive(self) -> bytes:
        """The next message. Raises LinkClosed when there will be none."""
        try:
            if self._expected is None:
                self._check_open()
                size = int.from_bytes(await self._reader.readexactly(LENGTH_BYTES), "big")
                if size > self._limits.message_bytes_max:
                    self._probe.event("link.oversized", peer=self.peer, bytes=size)
                    self._end(f"the peer announced a message of {size} bytes")
                    self._check_open()
                self.received_bytes += LENGTH_BYTES
                self._expected = size
            while len(self._body) < self._expected:
                # In pieces, so that a large message on a slow link is seen to come.
                piece = await self._reader.read(self._expected - len(self._body))
                if not piece:
                    self._end("the peer closed it")
                    self._check_open()
                self._body += piece
                self.received_bytes += len(piece)
        except asyncio.IncompleteReadError:
            self._end("the peer closed it")
            raise self._closed() from None
        except OSError as error:
            self._end(f"the connection broke: {error}")
            raise self._closed() from None
        message = bytes(self._body)
        self._body.clear()
        self._expected = None
        return message

    async def close(self) -> None:
        """End the link after what was sent has been handed over, within a second. Idempotent."""
        if not self._ended:
            self._note("closed here")
            self._writer.close()
        await finish(self._writer)

    async def _drain(self) -> None:
        """Wait for room in the buffer; a peer that takes nothing for too long ends the link."""
        try:
            if self._writer.transport.get_write_buffer_size() <= self._limits.send_buffer_bytes:
                await self._writer.drain()
                return
            async with asyncio.timeout(self._limits.send_timeout_s):
                await self._writer.drain()
        except TimeoutError:
            self._end(f"the peer took nothing for {self._limits.send_timeout_s} s")
            raise self._closed() from None
        except OSError as error:
            self._end(f"the connection broke: {error}")
            raise self._closed() from None

    def _check_open(self) -> None:
        if self._ended:
            raise self._closed()

    def _closed(self) -> LinkClosed:
        return LinkClosed(f"link to {self.peer} at {self.address}: {self._ended}")

    def _end(self, reason: str) -> None:
        """Cut it off now, without ceremony."""
        if not self._ended:
            self._note(reason)
            self._writer.transport.abort()

    def _note(self, reason: str) -> None:
        self._ended = reason
        self._forget(self)
        self._probe.event("link.closed", peer=self.peer, address=self.address, reason=reason)

    def __repr__(self) -> str:
        way = "to" if self.initiated else "from"
        return f"TcpLink({way} {self.peer} at {self.address}, {self._ended or 'open'})"


class _Incoming:
    """A connection nobody has looked at yet. Whatever becomes of its task, its socket is closed."""

    def __init__(self, sock: socket.socket, address: str) -> None:
        sock.setblocking(False)
        self._sock: socket.socket | None = sock
        self.address = address

    def take(self) -> socket.socket:
        """The socket, which is the taker's from now on."""
        sock, self._sock = self._sock, None
        assert sock is not None, "taken twice"
        return sock

    def discard(self, _: object = None) -> None:
        """Close what was never taken: its task was cancelled before its first step."""
        if self._sock is not None:
            self._sock.close()


class TcpTransport:
    """Listens on `peers.listen` and dials. See `mesh.environment.Transport` for the guarantees.

    Guarantees besides: whatever a stranger sends, or leaves unsent, ends only his own connection;
    `handshakes_max` strangers are looked at at once, and twice `connections_max` links are held.
    """

    def __init__(self, identity: Identity, settings: PeersSettings, probe: Probe) -> None:
        self._identity = identity
        self._settings = settings
        self._probe = probe
        self._as_server = tls_context(ssl.PROTOCOL_TLS_SERVER, identity)
        self._as_client = tls_context(ssl.PROTOCOL_TLS_CLIENT, identity)
        self._listener: socket.socket | None = None
        self._paused: asyncio.TimerHandle | None = None
        # In order of arrival; a task leaves when its handshake is over, one way or the other.
        self._handshakes: dict[asyncio.Task[None], str] = {}
        self._serving: set[asyncio.Task[None]] = set()
        self._links: set[TcpLink] = set()
        self._refusals = Refusals()
        self._closing = False

    async def listen(self, accept: Accept) -> str:
        """Start accepting; returns the address to dial, "" if `peers.listen` is empty.

        `accept` owns each link until it returns; if it raises, its link is cut. Raises CallerError.
        """
        if not self._settings.listen:
            return ""
        if self._listener is not None:
            raise CallerError("this transport listens already")
        self._listener = await bind(self._settings.listen, BACKLOG)
        self._watch(self._listener, accept)
        return self._settings.advertise or name_of(self._listener.getsockname())

    async def dial(self, address: str) -> Link:
        """Raises Unreachable (nobody there) or PeerRefused (not of our mesh)."""
        try:
            host, port = split_address(address)
        except ValueError as error:
            raise Unreachable(str(error)) from None
        try:
            async with asyncio.timeout(self._settings.handshake_timeout_s):
                streams = await asyncio.open_connection(
                    host, port, limit=READ_LIMIT_BYTES, server_hostname=SERVER_NAME,
                    **self._tls(self._as_client),
                )  # fmt: skip
                try:
                    peer = self._examine(streams[1])
                    await _expect_welcome(streams[0], address)
                    return self._hand_out(streams, peer, initiated=True)
                except BaseException:
                    streams[1].transport.abort()
                    raise
        except TimeoutError:
            wait = self._settings.handshake_timeout_s
            raise Unreachable(f"{address} did not answer within {wait} s") from None
        except ssl.SSLError as error:
            reason = tls_reason(error)
            foreign = "" if "expired" in reason else " is not of this mesh"
            raise PeerRefused(f"{address}{foreign}: {reason}") from None
        except asyncio.IncompleteReadError:
            raise Unreachable(
                f"{address} hung up before its welcome: it is closing, or refuses our certificate"
            ) from None
        except OSError as error:
            raise Unreachable(f"{address} cannot be reached: {error}") from None

    async def close(self) -> None:
        """Stop listening, close every link, wait for every task of ours. Idempotent."""
        self._closing = True
        if self._paused is not None:
            self._paused.cancel()
        listener, self._listener = self._listener, None
        if listener is not None:
            asyncio.get_running_loop().remove_reader(listener)
            listener.close()
        await _cancelled([task for task in self._handshakes if task is not asyncio.current_task()])
        await asyncio.gather(*(link.close() for link in list(self._links)))
        serving = self._serving - {asyncio.current_task()}
        if serving:  # they end by themselves when their link does; give them the time to
            await asyncio.wait(serving, timeout=CLOSE_GRACE_S)
            await _cancelled(list(serving))

    def _watch(self, listener: socket.socket, accept: Accept) -> None:
        self._paused = None
        asyncio.get_running_loop().add_reader(listener, self._on_knock, listener, accept)

    def _on_knock(self, listener: socket.socket, accept: Accept) -> None:
        """Take in who waits. `loop.sock_accept` would lose a socket if cancelled as it comes."""
        for _ in range(BACKLOG):
            try:
                sock, address = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # out of file descriptors, for one: others may free some
                self._probe.event("listener.failed", reason=str(error))
                loop = asyncio.get_running_loop()
                loop.remove_reader(listener)
                self._paused = loop.call_later(ACCEPT_PAUSE_S, self._watch, listener, accept)
                return
            if len(self._handshakes) >= self._settings.handshakes_max:
                oldest = next(iter(self._handshakes))
                self._refused(self._handshakes.pop(oldest), "dropped: too many handshakes at once")
                oldest.cancel()
            self._begin(_Incoming(sock, name_of(address)), accept)

    def _begin(self, incoming: _Incoming, accept: Accept) -> None:
        task = asyncio.get_running_loop().create_task(
            self._receive_peer(incoming, accept), name=f"peer from {incoming.address}"
        )
        task.add_done_callback(incoming.discard)
        task.add_done_callback(_report)
        self._handshakes[task] = incoming.address

    async def _receive_peer(self, incoming: _Incoming, accept: Accept) -> None:
        """One incoming connection: handshake, then the link is `accept`'s until that returns."""
        task = asyncio.current_task()
        assert task is not None
        try:
            async with asyncio.timeout(self._settings.handshake_timeout_s):
                link = await self._prove(incoming.take())
        except TimeoutError:
            self._refused(incoming.address, "did not prove membership in time")
            return
        except ssl.SSLError as error:
            self._refused(incoming.address, tls_reason(error))
            return
        except (OSError, PeerRefused, Unreachable) as error:
            self._refused(incoming.address, str(error))
            return
        finally:
            self._handshakes.pop(task, None)
        self._serving.add(task)
        try:
            await accept(link)
        except BaseException:
            link._end("its owner failed")
            raise
        finally:
            self._serving.discard(task)

    async def _prove(self, sock: socket.socket) -> TcpLink:
        """The listener's half of the handshake. Raises OSError (also ssl.SSLError), PeerRefused."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=READ_LIMIT_BYTES, loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        try:
            transport, _ = await loop.connect_accepted_socket(
                lambda: protocol, sock, **self._tls(self._as_server)
            )
        except BaseException:
            sock.close()
            raise
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        try:
            peer = self._examine(writer)
            self._check_room()
            writer.write(_framed(WELCOME))
            await writer.drain()
            return self._hand_out((reader, writer), peer, initiated=False)
        except PeerRefused as error:
            writer.write(_framed(REFUSED + str(error).encode()[: HELLO_BYTES_MAX - 1]))
            writer.close()
            await finish(writer)
            raise
        except BaseException:
            transport.abort()
            raise

    def _examine(self, writer: asyncio.StreamWriter) -> ReplicaCertificate:
        """Who the other end is, by the certificate TLS has verified. Raises PeerRefused."""
        tls = writer.get_extra_info("ssl_object")
        if tls.selected_alpn_protocol() != PROTOCOL:
            raise PeerRefused(f"the peer does not speak {PROTOCOL}")
        der = tls.getpeercert(binary_form=True)
        if der is None:
            raise PeerRefused("the peer showed no certificate")
        try:
            return verify_replica(self._identity.mesh.authority, der)
        except BadSignature as error:
            raise PeerRefused(str(error)) from None

    def _check_room(self) -> None:
        # The replica keeps to `connections_max`, one link a peer, and closes the rest. It must see
        # a peer's new link before it can give up the dead one, so there is room for both.
        if len(self._links) >= 2 * self._settings.connections_max:
            raise PeerRefused(f"{len(self._links)} links are the most held here")

    def _hand_out(
        self,
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        peer: ReplicaCertificate,
        *,
        initiated: bool,
    ) -> TcpLink:
        if self._closing:
            raise Unreachable("this transport is closing")
        tune(streams[1].get_extra_info("socket"), self._settings)
        link = TcpLink(
            streams, peer=peer, initiated=initiated, limits=self._settings, probe=self._probe,
            forget=self._links.discard,
        )  # fmt: skip
        self._links.add(link)
        self._probe.event("link.opened", peer=peer.name, address=link.address, initiated=initiated)
        return link

    def _tls(self, context: ssl.SSLContext) -> dict[str, Any]:
        timeout = self._settings.handshake_timeout_s
        return {
            "ssl": context, "ssl_handshake_timeout": timeout, "ssl_shutdown_timeout": CLOSE_GRACE_S
        }  # fmt: skip

    def _refused(self, address: str, reason: str) -> None:
        # By host: each try comes from another port.
        count = self._refusals.add(address.rpartition(":")[0], reason)
        self._probe.event("peer.refused", address=address, reason=reason, count=count)

    def __repr__(self) -> str:
        where = name_of(self._listener.getsockname()) if self._listener else "nowhere"
        return (
            f"TcpTransport({self._identity.replica}, listens on {where}, {len(self._links)} links)"
        )


async def _expect_welcome(reader: asyncio.StreamReader, address: str) -> None:
    size = int.from_bytes(await reader.readexactly(LENGTH_BYTES), "big")
    if not 1 <= size <= HELLO_BYTES_MAX:
        raise PeerRefused(f"{address} answered with {size} bytes where a welcome belongs")
    hello = await reader.readexactly(size)
    if hello[:1] != WELCOME:
        raise PeerRefused(f"{address} refused: {hello[1:].decode(errors='replace')}")


def _framed(message: bytes) -> bytes:
    return len(message).to_bytes(LENGTH_BYTES, "big") + message


async def _cancelled(tasks: list[asyncio.Task[None]]) -> None:
    """Cancel and wait; what they raise is reported by `_report`."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)


def _report(task: asyncio.Task[None]) -> None:
    """A failure of what `accept` does is a bug above: the loop's exception handler hears of it."""
    if not task.cancelled() and (error := task.exception()) is not None:
        task.get_loop().call_exception_handler(
            {"message": f"task {task.get_name()!r} failed", "exception": error, "task": task}
        )
