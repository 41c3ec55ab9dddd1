"""Joining a mesh over the network: what `mesh authority` answers, and how a new replica asks.

The order of things, all of it inside TLS 1.3, and within `ANSWER_S`:

    joiner ── connects ──► authority            the server's certificate proves a key
    joiner ◄── [1, the authority's certificate] the token names its SHA-256, and it must have issued
                                                the server's: only now does the joiner speak
    joiner ── [1, invitation, secret, name, public key, signature by it] ──►
    joiner ◄── [1, "", certificate, genesis …, keys, roster], or [1, code, why not]

The joiner's own key never leaves it; the signature proves that it has it, and covers the server's
certificate, so that it is good for this conversation only. Each message is MessagePack behind its
length (four bytes, big-endian). Nothing here is a handshake of our own: secrecy, integrity and the
proof of the server's key are TLS's.

Below the composition root for once: it is a program's own server, and no part of a replica.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from crdt.errors import CodecError, InvalidId, MeshError, ServiceError
from crdt.structure import pack, unpack
from mesh.environment import PeerRefused
from mesh.refusals import Refusals
from mesh.settings import split_address
from mesh.transports.tls import bind, name_of, tls_reason
from persistence import folder as layout
from persistence.base import Clock, Entropy, FolderError, FrameError
from persistence.certificates import AUTHORITY, check_name, verify_replica
from persistence.genesis import Genesis
from persistence.identity import (
    Authority,
    Identity,
    open_identity,
    pending_key,
    replace_certificate,
    write_identity,
)
from persistence.invitations import RESERVED_NAME, JoinRefused, Token, authority_fingerprint
from persistence.limits import MAX_SHARDS
from persistence.office import Admission, Office
from persistence.roster import first_roster, read_roster
from persistence.system import SystemClock, SystemEntropy

__all__ = ("Joined", "admitting", "authority_identity", "join")

PROTOCOL: Final = "statemesh-join/1"
ANSWER_S: Final = 10.0
CONNECTIONS_MAX: Final = 64
REQUEST_BYTES_MAX: Final = 4_096
ANSWER_BYTES_MAX: Final = 4 << 20
SERVER_LASTS_MS: Final = 10 * 365 * 86_400_000
_VERSION: Final = 1
_LENGTH_BYTES: Final = 4
_CONTEXT: Final = b"statemesh join 1\0"
_SERVER_NAME: Final = "statemesh.invalid"
Told = Callable[[str, str, str], None]


@dataclass(frozen=True, slots=True)
class Joined:
    """What came of joining. `fresh`: False where the folder held this very identity before."""

    identity: Identity
    fresh: bool


def authority_identity(authority: Authority, clock: Clock, entropy: Entropy) -> Identity:
    """What the authority proves itself with on a network: a key made for this run of the program.

    Its certificate has the role of authority: nothing it would write counts. The authority's own
    key is not used in TLS.
    """
    return authority.issue(RESERVED_NAME, clock, entropy, role=AUTHORITY, lasts_ms=SERVER_LASTS_MS)


# ---------------------------------------------------------------------- the authority's side


@asynccontextmanager
async def admitting(
    office: Office, authority: Authority, listen: str, tell: Told
) -> AsyncIterator[str]:
    """Answer who wants to join while the block lasts; gives the address that was taken.

    `tell(what, who, detail)` hears of every `admitted` and, the first time and then ever more
    seldom, of who was `refused` and how often. Raises CallerError where the address is in use.
    """
    identity = authority_identity(authority, SystemClock(), SystemEntropy())
    context = await asyncio.to_thread(_server_context, identity)
    desk = _Desk(office, authority, identity, tell)
    listener = await bind(listen, CONNECTIONS_MAX)
    server = await asyncio.start_server(
        desk.serve, sock=listener, ssl=context, ssl_handshake_timeout=ANSWER_S,
        ssl_shutdown_timeout=1.0, limit=REQUEST_BYTES_MAX,
    )  # fmt: skip
    try:
        yield name_of(listener.getsockname())
    finally:
        server.close()
        await desk.close()
        await server.wait_closed()


class _Desk:
    """Answers one connection after the other, a bounded number of them at a time."""

    def __init__(
        self, office: Office, authority: Authority, identity: Identity, tell: Told
    ) -> None:
        self._office = office
        self._authority = authority
        self._server = identity.certificate
        self._tell = tell
        self._refusals = Refusals()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One conversation. Whatever the other end does, it ends within `ANSWER_S`."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        who = name_of(writer.get_extra_info("peername"))
        try:
            async with asyncio.timeout(ANSWER_S):
                if len(self._tasks) > CONNECTIONS_MAX:
                    raise JoinRefused("busy", "too many want to join at once; try again")
                _write(writer, [_VERSION, self._office.genesis.authority_der])
                request = await _read(reader, REQUEST_BYTES_MAX)
                name, admission = await self._admit(request)
                _write(writer, [_VERSION, "", *_answer(admission)])
                await writer.drain()
            self._tell("admitted", name, who)
        except (MeshError, OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            await self._refuse(writer, who, error)
        finally:
            self._tasks.discard(task)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def close(self) -> None:
        """End what still goes on."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _admit(self, request: Any) -> tuple[str, Admission]:
        kinds = [int, bytes, bytes, str, bytes, bytes]
        if type(request) is not tuple or [type(each) for each in request] != kinds:
            raise JoinRefused("proof", "a request of a form that is not known here")
        _, invitation, secret, name, public, proof = request
        try:
            key = Ed25519PublicKey.from_public_bytes(public)
            key.verify(proof, _signed(self._server, invitation, name))
        except (ValueError, InvalidSignature):
            raise JoinRefused("proof", "the request is not signed by the key in it") from None
        # In a thread, as it waits for the disk; what it allows is there when it is back.
        return name, await asyncio.to_thread(
            self._office.admit, invitation, secret, name, key, self._authority
        )

    async def _refuse(self, writer: asyncio.StreamWriter, who: str, error: Exception) -> None:
        why = str(error) or "did not say what it wants in time"
        host = who.rpartition(":")[0]
        code = error.code if isinstance(error, JoinRefused) else "invalid"
        count = self._refusals.add(host, code)
        self._tell("refused", host, f"{why} ({count} times)")
        if isinstance(error, JoinRefused | InvalidId):
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(1.0):
                    _write(writer, [_VERSION, code, why])
                    await writer.drain()


def _answer(admission: Admission) -> list[Any]:
    genesis = admission.genesis
    facts = [genesis.id, genesis.name, genesis.shards, genesis.created_ms]
    keys = [[key_id, key] for key_id, key in sorted(admission.keys.items())]
    return [admission.certificate, facts, keys, admission.roster]


def _server_context(identity: Identity) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    context.set_alpn_protocols([PROTOCOL])
    # ssl reads keys from files only; these are gone before anybody connects.
    with tempfile.TemporaryDirectory(prefix="statemesh-") as place:
        write_identity(Path(place), identity)
        own = open_identity(Path(place))
        context.load_cert_chain(own.certificate_pem_path, own.key_path)
    return context


# ---------------------------------------------------------------------- the joiner's side


async def join(token: Token, folder: Path, name: str) -> Joined:
    """Join the token's mesh as `name`, and write the identity into `folder`.

    The key is made first and kept in `folder`, so that joining again after whatever went wrong is
    the same replica joining again. In a folder that has joined already this fetches the certificate
    anew, which renews one that is about to expire. Raises JoinRefused (the authority says no),
    PeerRefused (who answered is not the authority), ServiceError (nobody answered: every address is
    named), FolderError (another mesh's or another replica's folder), InvalidId (the name).
    """
    check_name(name)
    before = await asyncio.to_thread(_present, token, folder, name)
    key = before.key if before else await asyncio.to_thread(pending_key, folder)
    admission = await _ask_all(token, name, key)
    joined = await asyncio.to_thread(_settle, folder, name, key, admission, before)
    return Joined(joined, before is None)


def _present(token: Token, folder: Path, name: str) -> Identity | None:
    """Who lives in the folder already. Raises FolderError if it is anybody else."""
    if not (folder / layout.IDENTITY).exists():
        if (folder / layout.JOURNAL).exists():
            raise FolderError(f"{folder} holds a journal but no identity; use another folder")
        return None
    found = open_identity(folder)
    if found.mesh.id != token.mesh or found.replica != name:
        raise FolderError(
            f"{folder} belongs to replica {found.replica!r} of {found.mesh}; use another folder"
        )
    return found


def _settle(
    folder: Path, name: str, key: Ed25519PrivateKey, admission: Admission, before: Identity | None
) -> Identity:
    """Bring what the authority gave to disk."""
    if before is None:
        made = Identity(
            admission.genesis, name, admission.certificate, key, roster=admission.roster
        )
        write_identity(folder, made)
        (folder / layout.JOINING_KEY).unlink(missing_ok=True)
    else:
        replace_certificate(folder, admission.certificate)
        known = first_roster(before.mesh).version
        known = read_roster(before.mesh, before.roster).version if before.roster else known
        news = admission.roster
        if news and read_roster(before.mesh, news).version > known:
            before.keep(news, {**before.mesh.keys, **admission.genesis.keys})
    return open_identity(folder)


async def _ask_all(token: Token, name: str, key: Ed25519PrivateKey) -> Admission:
    if token.expires_ms <= SystemClock().wall_ms():
        raise JoinRefused("expired", "the invitation has expired; ask for a new token")
    if not token.addresses:
        raise ServiceError(
            "the token names no address; have it made with `mesh invite DIR --address HOST:PORT`"
        )
    failures: list[str] = []
    for address in token.addresses:
        try:
            async with asyncio.timeout(ANSWER_S):
                return await _ask(address, token, name, key)
        except asyncio.IncompleteReadError:
            failures.append(f"{address} hung up")
        except (OSError, TimeoutError) as error:
            reason = tls_reason(error) if isinstance(error, ssl.SSLError) else str(error)
            failures.append(f"{address}: {reason or 'no answer in time'}")
    raise ServiceError(
        f"no authority answers ({'; '.join(failures)}); is `mesh authority` running there?"
    )


async def _ask(address: str, token: Token, name: str, key: Ed25519PrivateKey) -> Admission:
    try:
        host, port = split_address(address)
    except ValueError as error:
        raise ServiceError(f"the token names an address that is none: {error}") from None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    # The token knows the authority by its certificate's hash, which ssl can't be told: `_believe`
    # checks it before a word is said.
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([PROTOCOL])
    reader, writer = await asyncio.open_connection(
        host, port, ssl=context, server_hostname=_SERVER_NAME, limit=ANSWER_BYTES_MAX
    )
    try:
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        genesis_der = _believe(address, token, shown, await _read(reader, REQUEST_BYTES_MAX))
        proof = key.sign(_signed(shown, token.invitation, name))
        public = key.public_key().public_bytes_raw()
        _write(writer, [_VERSION, token.invitation, token.secret, name, public, proof])
        await writer.drain()
        answer = await _read(reader, ANSWER_BYTES_MAX)
        return _admission(address, token, genesis_der, name, public, answer)
    finally:
        writer.transport.abort()


def _believe(address: str, token: Token, shown: bytes | None, greeting: Any) -> bytes:
    """The authority's certificate, if who answers at this address is the token's authority."""
    if type(greeting) is tuple and [type(each) for each in greeting] == [int, str, str]:
        raise ServiceError(f"{address} lets nobody in just now: {greeting[2][:200]}")
    if type(greeting) is not tuple or [type(each) for each in greeting] != [int, bytes]:
        raise PeerRefused(f"{address} does not answer as an authority does")
    authority: bytes = greeting[1]
    if authority_fingerprint(authority) != token.authority:
        raise PeerRefused(
            f"{address} is another mesh's authority than the token's; nothing was told to it. Ask "
            "for a new token, or check the address"
        )
    try:
        proven = verify_replica(x509.load_der_x509_certificate(authority), shown or b"")
    except (ValueError, FrameError):
        proven = None
    if proven is None or proven.role != AUTHORITY:
        raise PeerRefused(
            f"{address} shows the authority's certificate but is not the authority; nothing was "
            "told to it"
        )
    return authority


def _admission(
    address: str, token: Token, authority: bytes, name: str, public: bytes, answer: Any
) -> Admission:
    """What the authority gave, checked: it must be a whole identity of the token's mesh."""
    if type(answer) is tuple and [type(each) for each in answer] == [int, str, str]:
        raise JoinRefused(answer[1], answer[2])
    kinds = [int, str, bytes, tuple, tuple, bytes]
    if type(answer) is not tuple or [type(each) for each in answer] != kinds:
        raise PeerRefused(f"{address} does not answer as an authority does")
    _, _, certificate, facts, keys, roster = answer
    try:
        mesh, mesh_name, shards, created = facts
        check_name(mesh_name, "mesh name")
        genesis = Genesis(mesh, mesh_name, shards, created, authority, dict(keys))
        sound = mesh == token.mesh and 1 <= shards <= MAX_SHARDS and type(created) is int
        certified = verify_replica(genesis.authority, certificate)
        sound = sound and (certified.name, certified.key.public_bytes_raw()) == (name, public)
        found = read_roster(genesis, roster) if roster else first_roster(genesis)
        sound = sound and all(found.holds(mesh, key_id, key) for key_id, key in keys)
    except (ValueError, TypeError, LookupError, InvalidId, FrameError) as error:
        raise PeerRefused(f"{address} answers with what is no identity: {error}") from error
    if not sound:
        raise PeerRefused(f"{address} answers with an identity that does not fit together")
    return Admission(certificate, genesis, roster, dict(keys))


# ---------------------------------------------------------------------- both


def _signed(server: bytes, invitation: bytes, name: str) -> bytes:
    return _CONTEXT + pack([authority_fingerprint(server), invitation, name])


def _write(writer: asyncio.StreamWriter, message: list[Any]) -> None:
    data = pack(message)
    writer.write(len(data).to_bytes(_LENGTH_BYTES, "big") + data)


async def _read(reader: asyncio.StreamReader, limit: int) -> Any:
    """One message. Raises PeerRefused for what is none, IncompleteReadError at the end."""
    size = int.from_bytes(await reader.readexactly(_LENGTH_BYTES), "big")
    if size > limit:
        raise PeerRefused(f"a message of {size} bytes, at most {limit}")
    try:
        return unpack(await reader.readexactly(size))
    except CodecError as error:
        raise PeerRefused(f"a message that is none: {error}") from None
