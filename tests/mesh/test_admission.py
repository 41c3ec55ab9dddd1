"""Joining over the network: only the token's authority hears anything, only the invited get in."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from crdt.errors import InvalidId, ServiceError
from mesh.admission import PROTOCOL, Joined, admitting, join
from mesh.environment import PeerRefused
from mesh.settings import split_address
from persistence.base import FolderError
from persistence.identity import Authority, create_genesis, open_identity, provision
from persistence.invitations import JoinRefused, Token
from persistence.office import Office
from tests.mesh.world import eventually


class Desk:
    """An authority that answers, and what it told."""

    def __init__(self, office: Office, authority: Authority, address: str) -> None:
        self.office = office
        self.authority = authority
        self.address = address
        self.told: list[tuple[str, str, str]] = []

    def token(self, **values: object) -> Token:
        return self.office.invite(addresses=[self.address], **values)  # type: ignore[arg-type]

    def heard(self, what: str) -> list[str]:
        return [detail for kind, _, detail in self.told if kind == what]


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    authority = create_genesis(tmp_path / "authority", "fleet", 4)
    made = Desk(Office(tmp_path / "authority"), authority, "")

    def tell(what: str, who: str, detail: str) -> None:
        made.told.append((what, who, detail))

    async with admitting(made.office, authority, "127.0.0.1:0", tell) as made.address:
        yield made


async def test_who_joins_has_all_a_replica_needs(desk: Desk, tmp_path: Path) -> None:
    joined = await join(desk.token(), tmp_path / "a", "agent-a")
    found = open_identity(tmp_path / "a")
    assert joined.fresh
    assert found.mesh == desk.authority.mesh
    assert (found.replica, found.certificate) == ("agent-a", joined.identity.certificate)
    place = tmp_path / "a" / "identity"
    names = {path.name for path in place.iterdir()}
    assert names == {"genesis.json", "authority.pem", "mesh.key", "replica.pem", "replica.key"}
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["identity"], "no key lies about"
    assert [what for what, _, _ in desk.told] == ["admitted"]


async def test_a_joiner_gets_the_roster_and_every_key_in_it(desk: Desk, tmp_path: Path) -> None:
    provision(tmp_path / "authority", tmp_path / "x", "agent-x")
    desk.office.revoke("agent-x", "", desk.authority)
    desk.office.rotate(desk.authority)
    joined = await join(desk.token(), tmp_path / "a", "agent-a")
    assert joined.identity.roster == desk.office.roster()[1]
    assert sorted(joined.identity.mesh.keys) == [1, 2]
    assert joined.identity.mesh.key_id == 2


async def test_joining_again_after_a_lost_answer_is_the_same_replica(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = desk.token(uses=1)

    def crash(*_: object) -> None:
        raise OSError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr("mesh.admission.write_identity", crash)
        with pytest.raises(OSError, match="power cut"):
            await join(token, tmp_path / "a", "agent-a")
    assert desk.office.invitations()[0].uses_left == 0
    assert (await join(token, tmp_path / "a", "agent-a")).fresh
    again: Joined = await join(token, tmp_path / "a", "agent-a")
    assert not again.fresh
    assert len(desk.office.members()) == 1


async def test_refusals_name_the_cure_and_leave_nothing(desk: Desk, tmp_path: Path) -> None:
    await join(desk.token(), tmp_path / "a", "agent-a")
    token = desk.token()
    cases = [
        (token, "agent-a", "name taken"),
        (dataclasses.replace(token, secret=b"x" * 32), "b", "unknown"),
        (dataclasses.replace(token, expires_ms=1), "b", "expired"),
    ]
    for bad, name, code in cases:
        with pytest.raises(JoinRefused) as caught:
            await join(bad, tmp_path / "b", name)
        assert caught.value.code == code
    with pytest.raises(InvalidId):
        await join(token, tmp_path / "b", "no name")
    assert not (tmp_path / "b" / "identity").exists()
    assert [one.name for one in desk.office.members()] == ["agent-a"]
    assert len(desk.heard("refused")) == 2, "who is refused before asking is not heard of"
    assert (await join(token, tmp_path / "b", "b")).fresh, "and nothing was used up"


async def test_nothing_is_told_to_anybody_else(desk: Desk, tmp_path: Path) -> None:
    """Another mesh's authority at the address; and one that shows the right certificate only."""
    other = create_genesis(tmp_path / "other", "lab", 4)
    heard: list[str] = []

    def tell(what: str, who: str, detail: str) -> None:
        heard.append(what)

    async with admitting(Office(tmp_path / "other"), other, "127.0.0.1:0", tell) as address:
        token = dataclasses.replace(desk.token(), addresses=(address,))
        with pytest.raises(PeerRefused, match="another mesh's authority"):
            await join(token, tmp_path / "a", "agent-a")
        # It copies the true certificate, but has no certificate of its own that this one issued.
        office = Office(tmp_path / "other")
        object.__setattr__(office.genesis, "authority_der", desk.authority.mesh.authority_der)
        async with admitting(office, other, "127.0.0.1:0", tell) as liar:
            token = dataclasses.replace(token, addresses=(liar,))
            with pytest.raises(PeerRefused, match="is not the authority"):
                await join(token, tmp_path / "a", "agent-a")
    assert set(heard) == {"refused"}
    assert not (tmp_path / "a" / "identity").exists()


async def test_a_member_cannot_pose_as_the_authority(desk: Desk, tmp_path: Path) -> None:
    member = provision(tmp_path / "authority", tmp_path / "m", "member")
    greeting = b"".join(
        [b"\x92\x01\xc5", len(desk.authority.mesh.authority_der).to_bytes(2, "big")]
    )
    greeting += desk.authority.mesh.authority_der
    asked: list[bytes] = []

    async def pose(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(len(greeting).to_bytes(4, "big") + greeting)
        with contextlib.suppress(ConnectionError):
            asked.append(await reader.read())
        writer.close()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(member.certificate_pem_path, member.key_path)
    server = await asyncio.start_server(pose, "127.0.0.1", 0, ssl=context)
    async with server:
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        token = dataclasses.replace(desk.token(), addresses=(address,))
        with pytest.raises(PeerRefused, match="is not the authority"):
            await join(token, tmp_path / "a", "agent-a")
        await eventually(lambda: bool(asked), "the impostor's connection ended")
    assert asked == [b""]


async def test_every_address_is_tried_and_named(desk: Desk, tmp_path: Path) -> None:
    token = dataclasses.replace(desk.token(), addresses=("127.0.0.1:1", desk.address))
    assert (await join(token, tmp_path / "a", "agent-a")).fresh
    with pytest.raises(ServiceError, match=r"127\.0\.0\.1:1: .*mesh authority"):
        await join(dataclasses.replace(token, addresses=("127.0.0.1:1",)), tmp_path / "b", "b")
    with pytest.raises(ServiceError, match="names no address"):
        await join(dataclasses.replace(token, addresses=()), tmp_path / "b", "b")


async def test_a_folder_of_somebody_else_is_left_alone(desk: Desk, tmp_path: Path) -> None:
    await join(desk.token(), tmp_path / "a", "agent-a")
    with pytest.raises(FolderError, match="'agent-a'"):
        await join(desk.token(), tmp_path / "a", "agent-b")
    (tmp_path / "j").mkdir()
    (tmp_path / "j" / "journal.sqlite").write_bytes(b"")
    with pytest.raises(FolderError, match="holds a journal"):
        await join(desk.token(), tmp_path / "j", "agent-j")


async def test_garbage_ends_only_its_own_connection(desk: Desk, tmp_path: Path) -> None:
    host, port = split_address(desk.address)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([PROTOCOL])
    junk = (
        b"\xff" * 64,
        b"\x00\x00\x00\x01\xc1",
        b"\x00\x00\x00\x03\x92\x01\x02",
        b"\x00\x00\x10\x00" + b"\x91" * 4096,
        b"",
    )
    for data in junk:
        reader, writer = await asyncio.open_connection(host, port, ssl=context)
        writer.write(data)
        writer.write_eof() if writer.can_write_eof() else writer.close()
        with contextlib.suppress(OSError):
            await reader.read()
        writer.close()
    await eventually(lambda: len(desk.heard("refused")) == len(junk), "each is refused")
    assert (await join(desk.token(), tmp_path / "a", "agent-a")).fresh
