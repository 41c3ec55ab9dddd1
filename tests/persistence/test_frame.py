"""Frames: what is sealed opens everywhere, and nothing else does."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crdt.errors import CallerError, InvalidValue
from crdt.structure import pack, unpack
from persistence import sealing
from persistence.base import FrameError
from persistence.cache import BoundedCache
from persistence.frame import (
    BadSignature,
    ForeignMesh,
    Header,
    Malformed,
    Oversized,
    UnknownKey,
    UnknownSession,
    UnknownVersion,
    frame_hash,
)
from persistence.identity import Genesis, SessionKey, Trust
from persistence.limits import MAX_BODY_BYTES, MAX_FRAME_BYTES
from persistence.sealing import Draft, Opener, Sealer
from tests.persistence.world import (
    NOW,
    SeededEntropy,
    StillClock,
    make_mesh,
    make_opener,
    make_writer,
)

MESH = make_mesh()
BODY = b"what was written " * 20


def draft(shard: int = 0, first: int = 1, last: int = 1, body: bytes = BODY) -> Draft:
    return Draft(shard, first, last, (), NOW << 16, None, body)


def fields(raw: bytes) -> list[bytes]:
    return list(unpack(raw))


def test_a_flush_opens_frame_by_frame_in_any_order() -> None:
    writer = make_writer(MESH, "agent-a")
    deps = ((9, 4), (3, 8), (writer.sealer.session, 5))
    drafts = [
        draft(0, 1, 2),
        Draft(2, 1, 7, deps, 77, None, b"tiny", {"trace": b"\x01", "future": b"?"}, policy=3),
    ]
    first, second = writer.sealer.seal(drafts)
    opener = make_opener(MESH)
    header, body = opener.open(second)
    assert body == b"tiny"
    assert (header.shard, header.first, header.last, header.stamp, header.policy) == (
        2,
        1,
        7,
        77,
        3,
    )
    assert header.deps == ((3, 8), (9, 4)), "sorted, the own session left out"
    assert header.extensions == {"trace": b"\x01", "future": b"?"}
    assert header.previous == b""
    assert opener.open(first)[1] == BODY
    assert opener.unseal(first).replica == "agent-a"
    assert opener.unseal(first).hash == frame_hash(first)
    assert len(first) < len(BODY) + 800, "compressed"


def test_frames_of_a_session_are_chained() -> None:
    writer = make_writer(MESH, "agent-a")
    (first,) = writer.sealer.seal([draft(1, 1, 3)])
    second, third = writer.sealer.seal([draft(1, 4, 4), draft(1, 5, 9)])
    opener = make_opener(MESH)
    assert opener.header(second).previous == frame_hash(first)
    assert opener.header(third).previous == frame_hash(second)
    assert [opener.open(raw)[0].last for raw in (first, second, third)] == [3, 4, 9]


def test_only_a_first_frame_carries_the_certificate() -> None:
    writer = make_writer(MESH, "agent-a")
    (first,) = writer.sealer.seal([draft(0, 1, 1)])
    (second,) = writer.sealer.seal([draft(0, 2, 2)])
    assert fields(first)[3] == writer.sealer.certificate
    assert fields(second)[3] == b""
    opener = make_opener(MESH)
    with pytest.raises(UnknownSession, match="no certificate here yet"):
        opener.open(second)
    opener.trust.learn(writer.sealer.certificate)
    assert opener.open(second)[1] == BODY


def test_more_drafts_than_shards_get_several_signatures() -> None:
    writer = make_writer(MESH, "agent-a")
    frames = writer.sealer.seal([draft(0, seq, seq) for seq in range(1, 11)])
    assert len({fields(raw)[2] for raw in frames}) == 3
    opener = make_opener(MESH)
    assert [opener.open(raw)[0].first for raw in frames] == list(range(1, 11))


def in_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on, nothing is known of signatures that were checked or made before."""
    monkeypatch.setattr(sealing, "_GOOD", BoundedCache(16))


def test_one_signature_check_serves_a_whole_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    writer = make_writer(MESH, "agent-a")
    frames = writer.sealer.seal([draft(shard) for shard in range(4)])
    in_another_process(monkeypatch)
    make_opener(MESH).open(frames[0])
    # From here on, no signature that is checked is good.
    monkeypatch.setattr(sealing, "_FLUSH_CONTEXT", b"another")
    opener = make_opener(MESH)
    for raw in frames:
        opener.open(raw)
    in_another_process(monkeypatch)
    with pytest.raises(BadSignature):
        opener.open(frames[0])


def test_own_frames_that_come_back_are_not_checked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    writer = make_writer(MESH, "agent-a")
    opener = make_opener(MESH)
    (forged,) = writer.sealer.seal([draft(2)])
    in_another_process(monkeypatch)
    key = writer.identity.new_session(StillClock(), SeededEntropy(3))
    first, second = Sealer(writer.identity, key).seal([draft(0), draft(1)])
    # From here on, no signature that is checked is good.
    monkeypatch.setattr(sealing, "_FLUSH_CONTEXT", b"another")
    assert [opener.open(raw)[0].shard for raw in (first, second)] == [0, 1]
    with pytest.raises(BadSignature):
        opener.open(forged)
    # It is this signature that is known, not its author.
    parts = fields(first)
    parts[2] = parts[2][:-1] + bytes([parts[2][-1] ^ 1])
    with pytest.raises(BadSignature):
        opener.open(pack(parts))


def test_no_nonce_is_used_twice() -> None:
    writer = make_writer(MESH, "agent-a")
    writer.sealer.seal([draft(0, 1, 5)])
    for first in (1, 5):
        with pytest.raises(CallerError, match="nonce"):
            writer.sealer.seal([draft(0, first, 9)])
    with pytest.raises(CallerError, match="nonce"):
        writer.sealer.seal([draft(0, 6, 6), draft(0, 6, 6)])
    writer.sealer.seal([draft(0, 6, 6)])


@pytest.mark.parametrize(
    "bad",
    [
        draft(shard=4),
        draft(first=0),
        draft(first=3, last=2),
        draft(last=1 << 40),
        draft(body=b"x" * (MAX_BODY_BYTES + 1)),
        draft()._replace(deps=[(5, 0)]),
        draft()._replace(deps=[(5, 1), (5, 2)]),
        draft()._replace(stamp=1 << 64),
        draft()._replace(previous=b"x" * 32),
        draft(first=2, last=2)._replace(previous=b""),
        draft()._replace(extensions={"key": b"x" * 5000}),
        draft()._replace(extensions={str(at): b"" for at in range(17)}),
    ],
)
def test_what_others_would_refuse_is_not_sealed(bad: Draft) -> None:
    writer = make_writer(MESH, "agent-a")
    with pytest.raises(InvalidValue):
        writer.sealer.seal([draft(3), bad])
    assert writer.sealer.seal([draft(3)]), "a refused flush leaves no trace"


def test_the_largest_frame_that_may_be_sealed_opens() -> None:
    writer = make_writer(MESH, "agent-a")
    body = SeededEntropy(1).token(MAX_BODY_BYTES)
    deps = tuple((2**50 + at, 2**52) for at in range(4096))
    extensions = {f"{at:064}": bytes(256) for at in range(16)}
    (raw,) = writer.sealer.seal([Draft(0, 1, 1, deps, 1, None, body, extensions)])
    header, opened = make_opener(MESH).open(raw)
    assert (header.deps, header.extensions, opened == body) == (deps, extensions, True)


def test_a_frame_of_another_mesh() -> None:
    (raw,) = make_writer(MESH, "agent-a").sealer.seal([draft()])
    other = make_mesh(seed=9)
    with pytest.raises(ForeignMesh, match=other.mesh.id.hex()):
        make_opener(other).open(raw)


def test_a_replica_of_another_authority_with_our_mesh_id() -> None:
    """An attacker knows the mesh id and even the mesh key, but not the authority's key."""
    theirs = make_mesh(seed=9)
    stolen = Genesis(MESH.mesh.id, "fleet", 4, NOW, theirs.mesh.authority_der, MESH.mesh.keys)
    forged = type(MESH)(stolen, theirs.key)
    (raw,) = make_writer(forged, "agent-a").sealer.seal([draft()])
    with pytest.raises(BadSignature, match="authority did not issue"):
        make_opener(MESH).open(raw)


def test_a_frame_of_a_newer_version() -> None:
    (raw,) = make_writer(MESH, "agent-a").sealer.seal([draft()])
    parts = fields(raw)
    parts[0] = pack([2, "whatever comes then"])
    with pytest.raises(UnknownVersion, match="newer statemesh"):
        make_opener(MESH).header(pack(parts))


def test_a_key_this_replica_does_not_have_yet() -> None:
    genesis = MESH.mesh
    rotated = Genesis(
        genesis.id, genesis.name, genesis.shards, genesis.created_ms, genesis.authority_der,
        {**genesis.keys, 2: b"k" * 32},
    )  # fmt: skip
    writer = make_writer(type(MESH)(rotated, MESH.key), "agent-a")
    (raw,) = writer.sealer.seal([draft()])
    with pytest.raises(UnknownKey, match="mesh key 2"):
        make_opener(MESH).open(raw)
    assert Opener(rotated, Trust(rotated)).open(raw)[1] == BODY


def test_oversized_frames_are_not_even_parsed() -> None:
    with pytest.raises(Oversized):
        make_opener(MESH).header(b"\x00" * (MAX_FRAME_BYTES + 1))


def test_a_decompression_bomb_stops_at_the_bound() -> None:
    writer = make_writer(MESH, "agent-a")
    bomb = b"\x01" + zlib.compress(bytes(MAX_BODY_BYTES + 1), 9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sealing, "_deflate", lambda data: data)
        (raw,) = writer.sealer.seal([draft(body=bomb)])
        with pytest.raises(Oversized, match="more than"):
            make_opener(MESH).open(raw)


@pytest.mark.parametrize(
    "content", [b"", b"\x02abc", b"\x01abc", b"\x01" + zlib.compress(b"a")[:-1]]
)
def test_signed_nonsense_is_malformed(content: bytes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sealing, "_deflate", lambda data: data)
        (raw,) = make_writer(MESH, "agent-a").sealer.seal([draft(body=content)])
        with pytest.raises(Malformed):
            make_opener(MESH).open(raw)


def test_a_session_cannot_write_in_anothers_name() -> None:
    a, b = make_writer(MESH, "agent-a", 2), make_writer(MESH, "agent-b", 3)
    (mine,), (theirs,) = a.sealer.seal([draft()]), b.sealer.seal([draft()])
    opener = make_opener(MESH)
    for raw in (mine, theirs):
        opener.open(raw)
    header, _, _, certificate, sealed = fields(mine)
    _, _, _, other_certificate, _ = fields(theirs)
    swapped = pack([header, *fields(mine)[1:3], other_certificate, sealed])
    with pytest.raises(BadSignature):
        opener.open(swapped)
    resigned = pack([header, fields(mine)[1], fields(theirs)[2], certificate, sealed])
    with pytest.raises(BadSignature):
        opener.open(resigned)


def test_a_member_cannot_sign_frames_of_anothers_session() -> None:
    """B is certified too; it writes A's session into the header and signs with its own key."""
    a, b = make_writer(MESH, "agent-a", 2), make_writer(MESH, "agent-b", 3)
    key = SessionKey(a.sealer.session, b.sealer.certificate, b.sealer._key.key)
    (forged,) = Sealer(b.identity, key).seal([draft()])
    opener = make_opener(MESH)
    opener.open(a.sealer.seal([draft()])[0])
    with pytest.raises(BadSignature, match="certificate"):
        opener.open(forged)


def test_a_relay_cannot_strip_or_add_a_certificate() -> None:
    writer = make_writer(MESH, "agent-a")
    (first,), (second,) = writer.sealer.seal([draft()]), writer.sealer.seal([draft(0, 2, 2)])
    opener = make_opener(MESH)
    opener.open(first)
    for raw, certificate in ((first, b""), (second, writer.sealer.certificate)):
        parts = fields(raw)
        parts[3] = certificate
        with pytest.raises(Malformed, match="only there"):
            opener.open(pack(parts))


def test_a_relay_cannot_encode_a_frame_another_way() -> None:
    (raw,) = make_writer(MESH, "agent-a").sealer.seal([draft()])
    size = len(fields(raw)[0])
    assert raw[1:3] == bytes([0xC4, size]), "a short byte string"
    longer = raw[:1] + b"\xc5" + size.to_bytes(2, "big") + raw[3:]
    assert fields(longer) == fields(raw)
    with pytest.raises(Malformed, match="one encoding"):
        make_opener(MESH).open(longer)


def test_a_known_flush_does_not_vouch_for_other_frames() -> None:
    writer = make_writer(MESH, "agent-a")
    first, second = writer.sealer.seal([draft(0), draft(1)])
    opener = make_opener(MESH)
    opener.open(first)
    header, siblings, signature, certificate, sealed = fields(second)
    altered = bytes([sealed[0] ^ 1]) + sealed[1:]
    with pytest.raises(BadSignature, match="does not contain"):
        opener.open(pack([header, siblings, signature, certificate, altered]))


def _samples() -> list[bytes]:
    writer = make_writer(MESH, "agent-a")
    frames = writer.sealer.seal([draft(0, 1, 2), draft(1, 1, 1, b"short"), draft(0, 3, 3)])
    rich = Draft(3, 1, 1, [(7, 7), (9, 9)], 5, None, BODY, {"trace": b"x"})
    return frames + writer.sealer.seal([rich])


SAMPLES = _samples()
KNOWING = make_opener(MESH)
for _raw in SAMPLES:
    KNOWING.open(_raw)


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_mutated_frames_are_refused_with_frame_errors_only(data: st.DataObject) -> None:
    """Also by an opener that knows session and flush already, and so has shortcuts to take."""
    raw = data.draw(st.sampled_from(SAMPLES))
    mutated = bytearray(raw)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(mutated) - 1))
        match data.draw(st.sampled_from(["flip", "cut", "insert", "drop", "repeat"])):
            case "flip":
                mutated[at] ^= data.draw(st.integers(1, 255))
            case "cut":
                del mutated[max(at, 1) :]
            case "insert":
                mutated[at:at] = data.draw(st.binary(min_size=1, max_size=4))
            case "drop":
                del mutated[at : at + data.draw(st.integers(1, 8))]
                mutated = mutated or bytearray(b"\x00")
            case "repeat":
                mutated[at:at] = mutated[at : at + 8]
    if bytes(mutated) in SAMPLES:
        return
    for opener in (KNOWING, make_opener(MESH)):
        with pytest.raises(FrameError):
            opener.open(bytes(mutated))


def test_every_single_bit_of_a_frame_matters() -> None:
    raw = SAMPLES[1]
    for at in range(len(raw)):
        mutated = bytearray(raw)
        mutated[at] ^= 1 << (at % 8)
        with pytest.raises(FrameError):
            KNOWING.open(bytes(mutated))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_refused_with_frame_errors_only(data: bytes) -> None:
    trust = KNOWING.trust
    for read in (frame_hash, KNOWING.header, KNOWING.open, KNOWING.open_snapshot, trust.learn):
        with pytest.raises(FrameError):
            read(data)


NUMBERS = st.integers(-1, 2**64 - 1)
ODD = st.one_of(NUMBERS, st.binary(max_size=33), st.text(max_size=3), st.booleans(), st.none())


@settings(max_examples=300, deadline=None)
@given(at=st.integers(0, 11), value=st.one_of(ODD, st.lists(ODD, max_size=4)))
def test_headers_with_odd_fields_are_refused_with_frame_errors_only(at: int, value: object) -> None:
    """Well-formed msgpack of the wrong kind, which random bytes seldom are; signed by its real
    session.
    """
    parts = fields(SAMPLES[3])
    header = list(unpack(parts[0]))
    header[at] = value
    parts[0] = pack(header)
    if pack(header) == fields(SAMPLES[3])[0]:
        return
    with pytest.raises(FrameError):
        KNOWING.open(pack(parts))


def test_a_header_has_one_encoding() -> None:
    parts = fields(SAMPLES[3])
    header = list(unpack(parts[0]))
    header[6] = [9, 9, 7, 7]
    with pytest.raises(Malformed, match="one encoding"):
        KNOWING.header(pack([pack(header), *parts[1:]]))
    assert isinstance(KNOWING.header(SAMPLES[3]), Header)
