"""Invitations: who gets in, how often, until when; and that no crash gives a use away twice."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from crdt.errors import CallerError, InvalidId
from persistence.base import FolderError
from persistence.certificates import verify_replica
from persistence.identity import Authority, create_genesis
from persistence.invitations import JoinRefused, Register, Token, TokenDamaged
from persistence.office import Admission, Office
from persistence.register import RegisterFile
from persistence.roster import read_roster
from tests.persistence.world import NOW, SeededEntropy

TOKEN = Token(b"m" * 16, b"a" * 32, ("10.0.0.5:7401", "[::1]:7401"), b"i" * 8, b"s" * 32, NOW)
HOUR = 3_600_000
DAY = 24 * HOUR


class MovableClock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = NOW

    def monotonic(self) -> float:
        return self.now / 1000

    def wall_ms(self) -> int:
        return self.now


@pytest.fixture
def clock() -> MovableClock:
    return MovableClock()


@pytest.fixture
def authority(tmp_path: Path, clock: MovableClock) -> Authority:
    return create_genesis(tmp_path / "authority", "fleet", 4, clock=clock)


@pytest.fixture
def office(tmp_path: Path, authority: Authority, clock: MovableClock) -> Office:
    assert authority.mesh.name == "fleet"
    return Office(tmp_path / "authority", clock=clock, entropy=SeededEntropy(3))


def key(seed: int = 1) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)


def admit(office: Office, token: Token, authority: Authority, name: str, seed: int) -> Admission:
    return office.admit(token.invitation, token.secret, name, key(seed).public_key(), authority)


def test_a_token_is_one_word_that_says_everything_but_its_secret_aloud() -> None:
    text = TOKEN.text()
    assert Token.parse(f"  {text}\n") == TOKEN
    assert text.startswith("mesh1.")
    assert len(text) < 250
    assert text.replace("-", "").replace("_", "").replace(".", "").isalnum()
    assert "ssss" not in repr(TOKEN)


@settings(max_examples=300, deadline=None)
@given(at=st.integers(0, 200), letter=st.sampled_from("Aa0-_.= é"), cut=st.booleans())
def test_a_damaged_token_is_refused_with_its_cure(at: int, letter: str, cut: bool) -> None:
    text = TOKEN.text()
    at %= len(text)
    damaged = text[:at] if cut else text[:at] + letter + text[at + 1 :]
    if damaged == text:
        return
    with pytest.raises(TokenDamaged, match=r"mesh invite|newer statemesh"):
        Token.parse(damaged)


def test_a_newer_token_names_the_cure() -> None:
    with pytest.raises(TokenDamaged, match="newer statemesh"):
        Token.parse("mesh2." + TOKEN.text()[6:])
    with pytest.raises(TokenDamaged, match="4096"):
        Token.parse("mesh1." + "A" * 5_000)


def test_who_is_invited_gets_in_as_what_the_invitation_says(
    office: Office, authority: Authority
) -> None:
    for role, snapshots, gives in (
        ("member", True, True), ("member", False, False), ("observer", True, False),
    ):  # fmt: skip
        token = office.invite(role=role, snapshots=snapshots, lasts_ms=30 * DAY)
        name = f"{role}-{snapshots}"
        admission = admit(office, token, authority, name, 1)
        certified = verify_replica(authority.mesh.authority, admission.certificate)
        assert (certified.name, certified.role) == (name, role)
        assert certified.gives_snapshots == gives
        assert certified.expires_ms == NOW + 30 * DAY
        assert admission.keys == dict(authority.mesh.keys)
    assert [one.name for one in office.members()] == [
        "member-False", "member-True", "observer-True",
    ]  # fmt: skip


def refused(office: Office, token: Token, authority: Authority, name: str, seed: int) -> str:
    before = (office.members(), office.invitations())
    with pytest.raises(JoinRefused) as caught:
        admit(office, token, authority, name, seed)
    assert (office.members(), office.invitations()) == before, "nothing changed"
    return caught.value.code


def test_who_may_not_is_told_why(office: Office, authority: Authority, clock: MovableClock) -> None:
    token = office.invite(uses=2, ttl_ms=HOUR)
    admit(office, token, authority, "a", 1)
    assert refused(office, token, authority, "a", 2) == "name taken"
    assert refused(office, token, authority, "mesh-authority", 2) == "reserved"
    guessed = dataclasses.replace(token, secret=b"x" * 32)
    assert refused(office, guessed, authority, "b", 2) == "unknown"
    unheard = dataclasses.replace(token, invitation=b"x" * 8)
    assert refused(office, unheard, authority, "b", 2) == "unknown"
    with pytest.raises(InvalidId):
        admit(office, token, authority, "no name", 2)
    admit(office, token, authority, "b", 2)
    assert refused(office, token, authority, "c", 3) == "used up"
    later = office.invite(ttl_ms=HOUR)
    clock.now += HOUR
    assert refused(office, later, authority, "c", 3) == "expired"
    gone = office.invite()
    office.withdraw(gone.invitation.hex())
    assert refused(office, gone, authority, "c", 3) == "revoked"


def test_joining_again_is_the_same_and_uses_nothing_up(
    office: Office, authority: Authority, clock: MovableClock
) -> None:
    token = office.invite(uses=1, ttl_ms=HOUR, lasts_ms=100 * DAY)
    first = admit(office, token, authority, "a", 1)
    again = admit(office, token, authority, "a", 1)
    assert again.certificate == first.certificate
    assert office.invitations()[0].uses_left == 0
    clock.now += 2 * HOUR
    assert admit(office, token, authority, "a", 1).certificate == first.certificate


def test_a_certificate_near_its_end_is_renewed_by_a_new_invitation(
    office: Office, authority: Authority, clock: MovableClock
) -> None:
    token = office.invite(lasts_ms=100 * DAY)
    first = admit(office, token, authority, "a", 1)
    clock.now += 80 * DAY
    assert refused(office, token, authority, "a", 1) == "expired"
    renewed = admit(office, office.invite(lasts_ms=100 * DAY), authority, "a", 1)
    old, new = (
        verify_replica(authority.mesh.authority, one.certificate) for one in (first, renewed)
    )
    assert new.expires_ms == clock.now + 100 * DAY
    roster = office.revoke("a", "", authority)
    assert set(roster.revoked) == {old.serial, new.serial}, "the old one counts no more either"


def test_who_was_revoked_comes_back_only_with_a_new_key(
    office: Office, authority: Authority
) -> None:
    token = office.invite(uses=5)
    admit(office, token, authority, "a", 1)
    office.revoke("a", "stolen", authority)
    assert refused(office, token, authority, "a", 1) == "revoked"
    admission = admit(office, token, authority, "a", 2)
    roster = read_roster(authority.mesh, admission.roster)
    serial = verify_replica(authority.mesh.authority, admission.certificate).serial
    assert serial not in roster.revoked


def test_a_use_is_on_disk_before_the_certificate_leaves(
    office: Office, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = office.invite(uses=1)
    seen: list[int] = []
    write = RegisterFile.write

    def noted(self: RegisterFile, register: Register) -> None:
        write(self, register)
        seen.append(self.read().invitations[token.invitation.hex()].uses_left)
        raise OSError("power cut")  # before the certificate could be handed out

    with monkeypatch.context() as patch:
        patch.setattr(RegisterFile, "write", noted)
        with pytest.raises(OSError, match="power cut"):
            admit(office, token, authority, "a", 1)
    assert seen == [0]
    assert refused(office, token, authority, "b", 2) == "used up"
    admit(office, token, authority, "a", 1)  # who asked when it crashed gets the certificate


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"role": "authority"}, "member or observer"),
        ({"uses": 0}, "1 to"),
        ({"ttl_ms": -1}, "in the future"),
        ({"lasts_ms": 0}, "positive"),
        ({"addresses": ["h:1"] * 9}, "at most 8"),
    ],
)
def test_bad_invitations_are_not_made(
    office: Office, values: dict[str, object], message: str
) -> None:
    with pytest.raises(CallerError, match=message):
        office.invite(**values)  # type: ignore[arg-type]
    assert office.invitations() == []
    with pytest.raises(CallerError, match="no invitation"):
        office.withdraw("beef")


def test_ended_invitations_are_forgotten_after_a_while(office: Office, clock: MovableClock) -> None:
    office.invite(ttl_ms=HOUR)
    clock.now += 31 * DAY
    kept = office.invite()
    assert [one.id for one in office.invitations()] == [kept.invitation.hex()]


def test_a_damaged_register_is_a_folder_error(office: Office, tmp_path: Path) -> None:
    office.invite()
    path = tmp_path / "authority" / "register.json"
    for content in ("", "[]", '{"format": 2}', '{"format": 1, "members": [{}]}'):
        path.write_text(content)
        with pytest.raises(FolderError, match=r"register\.json is damaged"):
            office.members()


def test_no_secret_is_kept(office: Office, tmp_path: Path) -> None:
    token = office.invite()
    kept = (tmp_path / "authority" / "register.json").read_text()
    assert token.secret.hex() not in kept
    assert token.invitation.hex() in kept
    with pytest.raises(FolderError, match="mesh init"):
        Office(tmp_path / "elsewhere")
