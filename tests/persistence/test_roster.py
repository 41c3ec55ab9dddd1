"""The roster: only what the authority signed, only ever newer; rights that certificates give."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crdt.errors import CallerError, InvalidValue
from crdt.structure import pack
from persistence.base import FolderError, FrameError
from persistence.certificates import AUTHORITY, MEMBER, OBSERVER, Trust, verify_replica
from persistence.frame import BadSignature, ForeignMesh, Malformed, Oversized, UnknownVersion
from persistence.genesis import KeyRing
from persistence.identity import (
    Identity,
    PassphraseNeeded,
    create_genesis,
    open_authority,
    open_identity,
    provision,
)
from persistence.journal import read_transactions
from persistence.office import Office
from persistence.roster import (
    Revocation,
    first_roster,
    key_fingerprint,
    read_roster,
    sign_roster,
)
from persistence.sealing import Sealer
from tests.persistence.world import NOW, SeededEntropy, StillClock, adopt, make_mesh, make_opener

AUTHORITY_OF_ALL = make_mesh()
MESH = AUTHORITY_OF_ALL.mesh
GONE = Revocation(77, "agent-x", NOW, "stolen", {(5, 2): 9})
KEY_2 = b"k" * 32
ROSTER = (
    first_roster(MESH)
    .revoking(GONE, NOW)
    .sealing_with(2, key_fingerprint(MESH.id, 2, KEY_2), NOW + 1)
)
BLOB = sign_roster(MESH.id, AUTHORITY_OF_ALL.key, ROSTER)


def test_what_is_signed_is_what_is_read() -> None:
    found = read_roster(MESH, BLOB)
    assert found == ROSTER
    assert (found.version, found.seals, sorted(found.keys)) == (2, 2, [1, 2])
    assert found.revoked[77] == GONE
    assert found.holds(MESH.id, 2, KEY_2)
    assert not found.holds(MESH.id, 2, b"x" * 32)
    assert not found.holds(MESH.id, 3, KEY_2)
    assert KEY_2 not in BLOB, "a roster holds no secret"


def test_nobody_else_can_say_anything() -> None:
    stranger = make_mesh(9)
    with pytest.raises(BadSignature):
        read_roster(MESH, sign_roster(MESH.id, stranger.key, ROSTER))
    with pytest.raises(ForeignMesh):
        read_roster(MESH, sign_roster(stranger.mesh.id, AUTHORITY_OF_ALL.key, ROSTER))
    with pytest.raises(Oversized):
        read_roster(MESH, b"x" * (3 << 20))


@settings(max_examples=300, deadline=None)
@given(at=st.integers(0, len(BLOB) - 1), flip=st.integers(1, 255), cut=st.booleans())
def test_mutated_rosters_are_refused_with_frame_errors_only(at: int, flip: int, cut: bool) -> None:
    mutated = bytearray(BLOB)
    mutated[at] ^= flip
    with pytest.raises(FrameError):
        read_roster(MESH, bytes(mutated[:at] if cut else mutated))


def signed(*fields: object) -> bytes:
    payload = pack(list(fields))
    return pack([payload, AUTHORITY_OF_ALL.key.sign(b"statemesh roster 1\0" + payload)])


FINGERPRINT = ROSTER.keys[1]


@pytest.mark.parametrize(
    "fields",
    [
        (1, MESH.id, 0, NOW, [], [[1, FINGERPRINT]], 1),
        (1, MESH.id, 1, NOW, [], [], 1),
        (1, MESH.id, 1, NOW, [], [[1, FINGERPRINT]], 2),
        (1, MESH.id, 1, NOW, [], [[1, b"short"]], 1),
        (1, MESH.id, 1, NOW, [], [[1, FINGERPRINT], [1, FINGERPRINT]], 1),
        (1, MESH.id, 1, NOW, [[77, "x", NOW, "", []]], [[1, FINGERPRINT]], 1),
        (1, MESH.id, 1, NOW, [[b"x" * 20, "x", NOW, "", [[0, 0, 1]]]], [[1, FINGERPRINT]], 1),
        (1, MESH.id, 1, NOW, 5, [[1, FINGERPRINT]], 1),
        (1, MESH.id, 1, NOW),
    ],
)
def test_signed_nonsense_is_refused(fields: tuple[object, ...]) -> None:
    with pytest.raises(Malformed):
        read_roster(MESH, signed(*fields))


def test_a_newer_format_names_the_cure() -> None:
    with pytest.raises(UnknownVersion, match="newer statemesh"):
        read_roster(MESH, signed(2, MESH.id, 1, "whatever comes"))


def test_a_ring_seals_with_the_key_asked_for_once_it_is_here() -> None:
    ring = KeyRing({1: b"a" * 32})
    ring.seal_with(2)
    assert ring.seals == 1
    ring.add(2, b"b" * 32)
    ring.add(3, b"c" * 32)
    ring.add(2, b"forged" * 6)
    assert (ring.seals, ring[2], sorted(ring)) == (2, b"b" * 32, [1, 2, 3])
    assert "bbbb" not in repr(ring)
    other = dataclasses.replace(MESH)
    other.ring.add(2, KEY_2)
    assert 2 not in MESH.keys, "each replica's ring is its own"


# ------------------------------------------------------------------ what certificates allow


def issued(role: str = MEMBER, **rights: bool) -> Identity:
    return AUTHORITY_OF_ALL.issue("agent", StillClock(), SeededEntropy(4), role=role, **rights)


@pytest.mark.parametrize(
    ("identity", "role", "writes", "snapshots"),
    [
        (issued(), MEMBER, True, True),
        (issued(snapshots=False), MEMBER, True, False),
        (issued(OBSERVER), OBSERVER, False, False),
        (issued(AUTHORITY), AUTHORITY, False, False),
    ],
    ids=["member", "no snapshots", "observer", "authority"],
)
def test_rights_are_in_the_certificate(
    identity: Identity, role: str, writes: bool, snapshots: bool
) -> None:
    certified = identity.certified
    assert (certified.role, certified.writes) == (role, writes)
    assert certified.gives_snapshots == snapshots
    info = Trust(MESH).learn(identity.new_session(StillClock(), SeededEntropy(1)).certificate)
    assert (info.role, info.snapshots) == (role, snapshots)


def test_roles_that_nobody_knows_are_refused() -> None:
    with pytest.raises(InvalidValue, match="member, observer"):
        issued("king")


def test_a_certificate_lasts_as_long_as_it_says() -> None:
    identity = AUTHORITY_OF_ALL.issue("a", StillClock(), SeededEntropy(4), lasts_ms=60_000)
    assert identity.certified.expires_ms == NOW + 60_000
    assert verify_replica(MESH.authority, identity.certificate).name == "a", "judged by links only"


def test_an_observers_frames_are_void_for_every_reader() -> None:
    entropy = SeededEntropy(8)
    member = adopt(AUTHORITY_OF_ALL.issue("m", StillClock(), entropy), entropy)
    observer = adopt(
        AUTHORITY_OF_ALL.issue("o", StillClock(), entropy, role=OBSERVER), SeededEntropy(9)
    )
    for writer, void in ((member, False), (observer, True)):
        (record,) = writer.write((0, "Note/1", "text"))
        opened = make_opener(AUTHORITY_OF_ALL).unseal(record.data)
        assert (read_transactions(opened.header, opened.body) is None) == void
        assert writer.shards[0].frontier == {writer.sealer.session: 1}, "the seq is used up"
    assert observer.shards[0].entry_count == 0


def test_a_snapshot_says_what_its_maker_may_do() -> None:
    for identity, allowed in ((issued(), True), (issued(snapshots=False), False)):
        key = identity.new_session(StillClock(), SeededEntropy(5))
        raw = Sealer(identity, key).seal_snapshot(0, b"body", [], {}, 1)
        assert make_opener(AUTHORITY_OF_ALL).open_snapshot(raw).maker.snapshots == allowed


# ------------------------------------------------------------------ folders


@pytest.fixture
def office(tmp_path: Path) -> Office:
    create_genesis(tmp_path / "authority", "fleet", 4)
    return Office(tmp_path / "authority", clock=StillClock())


def test_revoking_takes_every_certificate_of_a_name(office: Office, tmp_path: Path) -> None:
    folder = tmp_path / "authority"
    first = provision(folder, tmp_path / "one", "agent").certified.serial
    second = provision(folder, tmp_path / "two", "agent").certified.serial
    other = provision(folder, tmp_path / "three", "other").certified.serial
    roster = office.revoke("agent", "stolen", open_authority(folder))
    assert set(roster.revoked) == {first, second}
    assert other not in office.roster()[0].revoked
    assert office.roster()[0] == roster
    with pytest.raises(CallerError, match="revoked already"):
        office.revoke("agent", "again", open_authority(folder))
    with pytest.raises(CallerError, match="mesh members"):
        office.revoke("nobody", "", open_authority(folder))
    assert [(one.name, one.reason) for one in office.members()] == [
        ("agent", "stolen"), ("other", "")
    ]  # fmt: skip


def test_a_new_key_seals_and_the_old_ones_open(office: Office, tmp_path: Path) -> None:
    folder = tmp_path / "authority"
    before = provision(folder, tmp_path / "a", "a")
    old = Sealer(before, before.new_session(StillClock(), SeededEntropy(1)))
    sealed = old.seal_snapshot(0, b"old", [], {}, 1)
    roster = office.rotate(open_authority(folder))
    assert (roster.version, roster.seals) == (1, 2)
    assert sorted(office.keys()) == [1, 2]
    after = open_identity(tmp_path / "a")
    after.keep(office.roster()[1], office.keys())
    found = open_identity(tmp_path / "a")
    assert found.mesh.key_id == 2
    assert found.mesh.digest_key == before.mesh.digest_key, "digests stay comparable"
    opener = make_opener(dataclasses.replace(AUTHORITY_OF_ALL, mesh=found.mesh))
    assert opener.open_snapshot(sealed).body == b"old"


def test_a_key_made_before_a_crash_is_not_lost_nor_made_twice(
    office: Office, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "authority"

    def crash(*_: object) -> None:
        raise OSError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(Office, "_publish", crash)
        with pytest.raises(OSError, match="power cut"):
            office.rotate(open_authority(folder))
    made = dict(open_authority(folder).mesh.keys)
    assert sorted(made) == [1, 2]
    assert sorted(office.keys()) == [1], "no replica gets what no roster names"
    office.rotate(open_authority(folder))
    assert office.keys() == made


def test_a_roster_copied_into_a_folder_is_picked_up(office: Office, tmp_path: Path) -> None:
    folder = tmp_path / "authority"
    provision(folder, tmp_path / "a", "a")
    provision(folder, tmp_path / "b", "b")
    office.revoke("b", "", open_authority(folder))
    place = tmp_path / "a" / "identity" / "roster"
    place.write_bytes((folder / "roster").read_bytes())
    assert open_identity(tmp_path / "a").roster == office.roster()[1]
    place.write_bytes(BLOB)
    with pytest.raises(FolderError, match="delete it, the next peer brings it again"):
        open_identity(tmp_path / "a")


def test_the_authoritys_key_opens_with_its_passphrase_only(tmp_path: Path) -> None:
    made = create_genesis(tmp_path / "m", "fleet", 4, passphrase=b"correct horse")
    with pytest.raises(PassphraseNeeded, match="--passphrase-file"):
        open_authority(tmp_path / "m")
    with pytest.raises(PassphraseNeeded, match="does not open"):
        open_authority(tmp_path / "m", b"wrong")
    found = open_authority(tmp_path / "m", b"correct horse")
    assert found.key.private_bytes_raw() == made.key.private_bytes_raw()
