"""Sockets and TLS for the TCP transport: contexts, binding, tuning, and errors put into words."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from typing import Any

from crdt.errors import CallerError
from mesh.settings import PeersSettings, split_address
from persistence.identity import Identity

__all__ = (
    "CLOSE_GRACE_S",
    "PROTOCOL",
    "bind",
    "finish",
    "name_of",
    "tls_context",
    "tls_reason",
    "tune",
)

# Negotiated by ALPN: two replicas that have no version in common part here, politely.
PROTOCOL = "statemesh/1"
KEEPALIVE_PROBES = 3
CLOSE_GRACE_S = 1.0


def tls_context(purpose: int, identity: Identity) -> ssl.SSLContext:
    """TLS 1.3 only; the one authority trusted is the mesh's own."""
    tls = ssl.SSLContext(purpose)
    tls.minimum_version = ssl.TLSVersion.TLSv1_3
    tls.check_hostname = False
    tls.verify_mode = ssl.CERT_REQUIRED
    tls.load_verify_locations(cafile=identity.authority_pem_path)
    tls.load_cert_chain(identity.certificate_pem_path, identity.key_path)
    tls.set_alpn_protocols([PROTOCOL])
    if purpose == ssl.PROTOCOL_TLS_SERVER:
        tls.num_tickets = 0  # nothing resumes a session, so tickets would only cost
    return tls


async def bind(address: str, backlog: int) -> socket.socket:
    """A listening socket. Raises CallerError naming the address and the cure."""
    host, port = split_address(address)
    cure = "set peers.listen (STATEMESH_PEERS__LISTEN) to another address; port 0 takes a free one"
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise CallerError(f"cannot listen on {address}: {error}; {cure}") from None
    family, kind, protocol, _, place = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(place)
        listener.listen(backlog)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise CallerError(f"port {port} on {host} is in use; {cure}") from None
        raise CallerError(f"cannot listen on {address}: {error}; {cure}") from None
    return listener


async def finish(writer: asyncio.StreamWriter) -> None:
    """Wait until a closed connection is gone; cut it off when the other end does not help."""
    # A task of its own: a timeout around `wait_closed` would cancel the future all waits share.
    closed = asyncio.ensure_future(writer.wait_closed())
    try:
        if not (await asyncio.wait([closed], timeout=CLOSE_GRACE_S))[0]:
            writer.transport.abort()
        await asyncio.wait([closed])
    finally:
        if not closed.done():
            closed.cancel()
            writer.transport.abort()
        elif not closed.cancelled():
            closed.exception()  # that it ended badly is no news


def tune(sock: Any, settings: PeersSettings) -> None:
    """Small messages leave at once, and a vanished host is noticed."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):  # not on every system
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, settings.keepalive_s)
        interval = max(1, settings.keepalive_s // KEEPALIVE_PROBES)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, interval)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)


def name_of(address: Any) -> str:
    """`host:port` of a socket address, `[host]:port` for IPv6."""
    if not isinstance(address, tuple):
        return "?"
    host, port = address[0], address[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def tls_reason(error: ssl.SSLError) -> str:
    """What TLS objected to, for people."""
    verify = getattr(error, "verify_message", "")
    if "expired" in verify:
        return "its certificate has expired; let it join again with a new invitation"
    if verify:
        return f"its certificate is not of this mesh ({verify})"
    return f"no TLS 1.3 handshake ({error.reason or error})"
