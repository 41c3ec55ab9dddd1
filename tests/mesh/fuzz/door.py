"""Knocking at the TCP door in every wrong way."""

from __future__ import annotations

import asyncio
import contextlib
import ssl

from mesh.settings import split_address
from mesh.transports.tls import PROTOCOL, tls_context
from persistence.identity import Identity

PATIENCE_S = 2.0


async def knock(address: str, member: Identity, data: bytes) -> None:
    """Send `data` in the clear; inside TLS without a certificate; with the wrong protocol; as a
    member who announces four gigabytes. By the length of `data`, so that a case stays a function
    of its number.
    """
    host, port = split_address(address)
    context: ssl.SSLContext | None = None
    match len(data) % 4:
        case 1:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            context.set_alpn_protocols([PROTOCOL])
        case 2:
            context = tls_context(ssl.PROTOCOL_TLS_CLIENT, member)
            context.set_alpn_protocols(["h2"])
        case 3:
            context = tls_context(ssl.PROTOCOL_TLS_CLIENT, member)
            data = b"\xff\xff\xff\xff" + data
    with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
        async with asyncio.timeout(PATIENCE_S):
            reader, writer = await asyncio.open_connection(host, port, ssl=context)
            try:
                writer.write(data)
                await writer.drain()
                if data:
                    await reader.read(1)
            finally:
                writer.transport.abort()
