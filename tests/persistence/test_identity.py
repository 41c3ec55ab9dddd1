"""Making a mesh, letting replicas in, and what is refused."""

from __future__ import annotations

import json
import os
import ssl
import stat
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from crdt.errors import CallerError, InvalidId
from crdt.ids import week_at, week_of
from crdt.structure import pack, unpack
from persistence import folder
from persistence.base import FolderError, FrameError, StorageError
from persistence.certificates import session_bits
from persistence.frame import BadSignature, ForeignMesh, UnknownVersion
from persistence.identity import (
    Identity,
    Trust,
    create_genesis,
    default_authority,
    open_authority,
    open_identity,
    provision,
)
from tests.persistence.world import SeededEntropy, StillClock, make_mesh, make_writer, running


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    create_genesis(tmp_path / "authority", "fleet", 4)
    return tmp_path / "authority"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_replica_gets_everything_it_needs_and_nothing_more(
    authority: Path, tmp_path: Path
) -> None:
    made = provision(authority, tmp_path / "a", "agent-a")
    found = open_identity(tmp_path / "a")
    assert found.mesh == made.mesh == open_authority(authority).mesh
    assert (found.replica, found.mesh.name, found.mesh.shards) == ("agent-a", "fleet", 4)
    place = tmp_path / "a" / "identity"
    names = {path.name for path in place.iterdir()}
    assert names == {"genesis.json", "authority.pem", "mesh.key", "replica.pem", "replica.key"}
    assert mode(place) == mode(authority) == 0o700
    assert {mode(path) for path in (*place.iterdir(), *authority.iterdir())} == {0o600}
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["identity"], "no draft stays"
    assert found.mesh.keys[1].hex() not in repr(found) + str(found.mesh) + repr(found.mesh)


def test_every_new_folder_is_on_disk_and_not_only_in_its_cache(
    authority: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: set[Path] = set()
    sync = folder.sync_folder

    def noted(path: Path) -> None:
        synced.add(path)
        sync(path)

    monkeypatch.setattr(folder, "sync_folder", noted)
    provision(authority, tmp_path / "agents" / "a", "agent-a")
    assert synced >= {tmp_path, tmp_path / "agents", tmp_path / "agents" / "a"}
    assert mode(tmp_path / "agents" / "a") == 0o700


def test_provisioning_again_changes_nothing(authority: Path, tmp_path: Path) -> None:
    first = provision(authority, tmp_path / "a", "agent-a")
    before = {p: p.read_bytes() for p in (tmp_path / "a" / "identity").iterdir()}
    assert provision(authority, tmp_path / "a", "agent-a").certificate == first.certificate
    assert {p: p.read_bytes() for p in (tmp_path / "a" / "identity").iterdir()} == before


def test_a_folder_of_another_mesh_names_both(authority: Path, tmp_path: Path) -> None:
    create_genesis(tmp_path / "other", "lab", 4)
    provision(authority, tmp_path / "a", "agent-a")
    with pytest.raises(FolderError, match=r"mesh 'fleet' \(\w+\), not to mesh 'lab' \(\w+\)"):
        provision(tmp_path / "other", tmp_path / "a", "agent-a")
    with pytest.raises(FolderError, match="'agent-a', not to 'agent-b'"):
        provision(authority, tmp_path / "a", "agent-b")
    with pytest.raises(FolderError, match="not empty"):
        create_genesis(authority, "again", 4)


def test_a_folder_of_a_newer_format_names_the_cure(authority: Path, tmp_path: Path) -> None:
    provision(authority, tmp_path / "a", "agent-a")
    path = tmp_path / "a" / "identity" / "genesis.json"
    facts = json.loads(path.read_text())
    path.write_text(json.dumps({**facts, "format": 2}))
    with pytest.raises(FolderError, match=r"format 2.*install a newer statemesh"):
        open_identity(tmp_path / "a")


@pytest.mark.parametrize(
    "name", ["genesis.json", "authority.pem", "mesh.key", "replica.pem", "replica.key"]
)
@pytest.mark.parametrize("content", [b"", b"\xff\xfe garbage", b"[]", b"1 00\n", None])
def test_damaged_identities_are_folder_errors(
    authority: Path, tmp_path: Path, name: str, content: bytes | None
) -> None:
    provision(authority, tmp_path / "a", "agent-a")
    path = tmp_path / "a" / "identity" / name
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    with pytest.raises(FolderError, match=name.replace(".", r"\.")):
        open_identity(tmp_path / "a")


@pytest.mark.parametrize("name", ["authority.pem", "replica.pem", "replica.key", "genesis.json"])
def test_mixed_up_identities_are_folder_errors(authority: Path, tmp_path: Path, name: str) -> None:
    create_genesis(tmp_path / "other", "lab", 4)
    provision(authority, tmp_path / "a", "agent-a")
    provision(tmp_path / "other", tmp_path / "b", "agent-a")
    other = (tmp_path / "b" / "identity" / name).read_bytes()
    (tmp_path / "a" / "identity" / name).write_bytes(other)
    with pytest.raises(FolderError):
        open_identity(tmp_path / "a")


def test_no_identity_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="holds no identity"):
        open_identity(tmp_path)


def test_a_failed_provision_leaves_nothing_half_written(authority: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError):
        provision(authority, tmp_path / "file", "agent-a")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "identity").symlink_to(tmp_path / "nowhere")
    with pytest.raises(StorageError):
        provision(authority, tmp_path / "a", "agent-a")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["identity"]


@pytest.mark.parametrize("name", ["", "-a", "a b", "a/b", "ä", "x" * 64, "a\n", "..", "."])
def test_bad_names(authority: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidId, match="replica name"):
        provision(authority, tmp_path / "a", name)
    with pytest.raises(InvalidId, match="mesh name"):
        create_genesis(tmp_path / "m", name)
    assert not (tmp_path / "a").exists()


def test_bad_numbers_of_shards(tmp_path: Path) -> None:
    for shards in (0, -1, 4097):
        with pytest.raises(CallerError, match="shards"):
            create_genesis(tmp_path / "m", "fleet", shards)


def test_the_same_seed_makes_the_same_mesh() -> None:
    assert make_mesh(5).mesh == make_mesh(5).mesh != make_mesh(6).mesh
    first, second = make_writer(make_mesh(5), "a", 7), make_writer(make_mesh(5), "a", 7)
    assert first.sealer.certificate == second.sealer.certificate


def test_the_users_own_mesh_is_made_once(tmp_path: Path) -> None:
    place = default_authority({"STATEMESH_HOME": str(tmp_path / "home")})
    before = open_authority(place).mesh
    assert place == default_authority({"STATEMESH_HOME": str(tmp_path / "home")})
    assert open_authority(place).mesh == before
    assert mode(tmp_path / "home") == 0o700
    if sys.platform != "darwin":
        assert default_authority({"XDG_DATA_HOME": str(tmp_path)}) == (
            tmp_path / "statemesh" / "authority"
        )


def test_processes_that_race_for_the_users_mesh_get_the_same(tmp_path: Path) -> None:
    code = (
        "from persistence.identity import default_authority, provision; from pathlib import Path;"
        "import sys; i = provision(default_authority(), Path(sys.argv[1]), 'agent');"
        "print(i.mesh.id.hex(), i.certificate.hex())"
    )
    environ = {**os.environ, "STATEMESH_HOME": str(tmp_path / "home")}
    folders = ["a", "a", "b"]
    with ExitStack() as racers:
        started = [
            racers.enter_context(
                running([sys.executable, "-c", code, str(tmp_path / name)], environ)
            )
            for name in folders
        ]
        outputs = [output.read().split() for _, output in started]
        assert [child.wait() for child, _ in started] == [0, 0, 0]
    assert len({mesh for mesh, _ in outputs}) == 1
    assert outputs[0] == outputs[1], "two that provision one folder agree on what is in it"


def test_certificates_prove_replicas_in_tls_both_ways(authority: Path, tmp_path: Path) -> None:
    a, b = (provision(authority, tmp_path / name, f"agent-{name}") for name in "ab")
    contexts = []
    for identity, purpose in ((a, ssl.PROTOCOL_TLS_SERVER), (b, ssl.PROTOCOL_TLS_CLIENT)):
        context = ssl.SSLContext(purpose)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        context.load_cert_chain(identity.certificate_pem_path, identity.key_path)
        context.load_verify_locations(identity.authority_pem_path)
        contexts.append(context)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = contexts[0].wrap_bio(to_server, to_client, server_side=True)
    client = contexts[1].wrap_bio(to_client, to_server, server_hostname="agent-a")
    done: set[int] = set()
    for _ in range(10):
        for side in (client, server):
            try:
                side.do_handshake()
                done.add(id(side))
            except ssl.SSLWantReadError:
                pass
    assert len(done) == 2
    assert client.version() == "TLSv1.3"
    names = [dict(x[0] for x in side.getpeercert()["subject"]) for side in (client, server)]  # type: ignore[index, misc]
    assert [name["commonName"] for name in names] == ["agent-a", "agent-b"]


def test_trust_learns_sessions_of_its_own_mesh_only() -> None:
    mesh = make_mesh()
    writer = make_writer(mesh, "agent-a")
    trust = Trust(mesh.mesh)
    assert trust.get(writer.sealer.session) is None
    info = trust.learn(writer.sealer.certificate)
    assert (info.session, info.replica) == (writer.sealer.session, "agent-a")
    assert trust.learn(writer.sealer.certificate) is info is trust.get(info.session)
    assert trust.certificates([1, info.session]) == [writer.sealer.certificate]
    with pytest.raises(ForeignMesh):
        Trust(make_mesh(9).mesh).learn(writer.sealer.certificate)


def test_a_replica_cannot_certify_in_anothers_name_nor_twice() -> None:
    mesh = make_mesh()
    entropy = SeededEntropy(3)
    a, b = (mesh.issue(name, StillClock(), entropy) for name in ("agent-a", "agent-b"))
    trust = Trust(mesh.mesh)
    clock = StillClock()
    impostor = type(a)(a.mesh, "agent-b", a.certificate, a.key)
    with pytest.raises(BadSignature, match="'agent-a' certified a session in the name of"):
        trust.learn(impostor.new_session(clock, entropy).certificate)
    thief = type(a)(a.mesh, "agent-b", b.certificate, a.key)
    with pytest.raises(BadSignature, match="not certified by 'agent-b'"):
        trust.learn(thief.new_session(clock, entropy).certificate)


def certified(
    identity: Identity, session: int, public: bytes, *signers: Ed25519PrivateKey
) -> bytes:
    """A session certificate made by hand, signed by these keys."""
    payload = pack([1, identity.mesh.id, session, identity.replica, public, identity.certificate])
    return pack([payload, *(key.sign(b"statemesh session 1\0" + payload) for key in signers)])


def test_a_session_id_belongs_to_one_key_of_one_replica() -> None:
    """Else a member could have another's session certified, and cut its author off."""
    mesh = make_mesh()
    entropy, clock = SeededEntropy(3), StillClock()
    a, b = (mesh.issue(name, clock, entropy) for name in ("agent-a", "agent-b"))
    victim = a.new_session(clock, entropy)
    public = victim.key.public_key().public_bytes_raw()
    own = Ed25519PrivateKey.from_private_bytes(entropy.token(32))
    trust = Trust(mesh.mesh)
    with pytest.raises(BadSignature, match="not the one this key and replica may have"):
        trust.learn(certified(b, victim.session, own.public_key().public_bytes_raw(), b.key, own))
    with pytest.raises(BadSignature, match="not the one this key and replica may have"):
        trust.learn(certified(b, victim.session, public, b.key, own))
    week = victim.session >> 42 << 42
    with pytest.raises(BadSignature, match="not certified by 'agent-b'"):
        # The id is right for this key and replica, but the key itself did not sign.
        trust.learn(certified(b, week | session_bits(public, b.certificate), public, b.key, own))
    assert trust.learn(victim.certificate).replica == "agent-a"


def test_two_sessions_of_one_replica_differ() -> None:
    entropy, clock = SeededEntropy(3), StillClock()
    a = make_mesh().issue("agent-a", clock, entropy)
    first, second = (a.new_session(clock, entropy) for _ in range(2))
    assert first.session != second.session
    assert week_of(first.session) == week_of(second.session) == week_at(clock.wall_ms())
    assert week_of(a.new_session(clock, entropy, floor=2000).session) == 2000


def test_the_authority_itself_is_no_replica() -> None:
    mesh = make_mesh()
    impostor = type(mesh.issue("x", StillClock(), SeededEntropy(1)))(
        mesh.mesh, "fleet", mesh.mesh.authority_der, mesh.key
    )
    with pytest.raises(BadSignature, match="not a replica's"):
        Trust(mesh.mesh).learn(impostor.new_session(StillClock(), SeededEntropy(2)).certificate)


def test_a_certificate_of_a_newer_version() -> None:
    with pytest.raises(UnknownVersion, match="newer statemesh"):
        Trust(make_mesh().mesh).learn(pack([pack([2]), b"signature", b"signature"]))


CERTIFICATE = make_writer(make_mesh(), "agent-a").sealer.certificate


@settings(max_examples=300, deadline=None)
@given(at=st.integers(0, len(CERTIFICATE) - 1), flip=st.integers(1, 255), cut=st.booleans())
def test_mutated_certificates_are_refused_with_frame_errors_only(
    at: int, flip: int, cut: bool
) -> None:
    mutated = bytearray(CERTIFICATE)
    mutated[at] ^= flip
    with pytest.raises(FrameError):
        Trust(make_mesh().mesh).learn(bytes(mutated[:at] if cut else mutated))


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_hostile_x509_is_refused_with_frame_errors_only(data: st.DataObject) -> None:
    """The replica's certificate inside is somebody else's bytes too, before anything vouches for
    it.
    """
    payload, *signatures = unpack(CERTIFICATE)
    row = list(unpack(payload))
    der = bytearray(row[5])
    for _ in range(data.draw(st.integers(1, 4))):
        der[data.draw(st.integers(0, len(der) - 1))] = data.draw(st.integers(0, 255))
    if bytes(der) == row[5]:
        return
    row[5] = bytes(der)
    row[2] = row[2] >> 42 << 42 | session_bits(row[4], row[5])  # or it is not looked at further
    with pytest.raises(FrameError):
        Trust(make_mesh().mesh).learn(pack([pack(row), *signatures]))
