"""Sealed snapshots: whole shards that prove who made them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from crdt.snapshot import decode_snapshot
from crdt.structure import pack, unpack
from persistence import sealing
from persistence.base import FrameError
from persistence.certificates import SessionKey
from persistence.frame import ForeignMesh, Malformed, frame_hash
from persistence.sealing import Sealer
from tests.persistence.world import make_mesh, make_opener, make_writer

MESH = make_mesh()
KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))


def test_a_snapshot_brings_state_chain_and_certificates() -> None:
    a, b = make_writer(MESH, "agent-a", 2), make_writer(MESH, "agent-b", 3)
    (first,) = a.write((1, "Task/1", "one"))
    b.receive(first)
    (second,) = b.write((1, "Task/1", "two"))
    record = b.snapshot(1, 2)
    opener = make_opener(MESH)
    opened = opener.open_snapshot(record.data)
    assert (opened.shard, opened.replica, opened.session) == (1, "agent-b", b.sealer.session)
    assert opened.chain == {
        a.sealer.session: frame_hash(first.data),
        b.sealer.session: frame_hash(second.data),
    }
    assert decode_snapshot(opened.body).digest == b.shards[1].digest()
    info = opener.trust.get(a.sealer.session)
    assert info is not None
    assert info.replica == "agent-a"


def test_equal_snapshots_seal_alike_and_different_ones_share_no_nonce() -> None:
    writer = make_writer(MESH, "agent-a")
    seal = writer.sealer.seal_snapshot
    assert seal(1, b"x", [], {}, 5) == seal(1, b"x", [], {}, 5)
    opener = make_opener(MESH)
    assert opener.open_snapshot(seal(1, b"y" * 10_000, [], {}, 5)).body == b"y" * 10_000
    assert len(seal(1, b"y" * 10_000, [], {}, 5)) < 2_000


def test_a_snapshot_nonce_is_used_for_one_header_and_content_only() -> None:
    """Under AES-GCM one nonce for two headers gives the authentication key away."""
    seal = make_writer(MESH, "agent-a").sealer.seal_snapshot
    assert snapshot_nonce(seal(1, b"x", [], {}, 5)) != snapshot_nonce(seal(1, b"x", [], {}, 6))
    assert snapshot_nonce(seal(1, b"x", [], {}, 5)) != snapshot_nonce(seal(2, b"x", [], {}, 5))
    assert snapshot_nonce(seal(1, b"x", [], {}, 5)) != snapshot_nonce(seal(1, b"y", [], {}, 5))


def test_a_snapshot_nonce_tells_strangers_nothing() -> None:
    """It is keyed: whoever guesses what a snapshot contains cannot see that he is right."""
    writer = make_writer(MESH, "agent-a")
    genesis = writer.identity.mesh
    other_keys = replace(genesis, keys={1: bytes(32)})
    stranger = Sealer(
        replace(writer.identity, mesh=other_keys), SessionKey(writer.sealer.session, b"", KEY)
    )
    same = writer.sealer.seal_snapshot(1, b"x", [], {}, 5)
    assert snapshot_nonce(same) != snapshot_nonce(stranger.seal_snapshot(1, b"x", [], {}, 5))


def snapshot_nonce(raw: bytes) -> bytes:
    nonce = unpack(unpack(raw)[0])[-1]
    assert type(nonce) is bytes
    return nonce


def test_snapshots_of_another_mesh_or_shard() -> None:
    writer = make_writer(MESH, "agent-a")
    raw = writer.sealer.seal_snapshot(1, b"x", [], {}, 5)
    with pytest.raises(ForeignMesh):
        make_opener(make_mesh(9)).open_snapshot(raw)
    outside = writer.sealer.seal_snapshot(99, b"x", [], {}, 5)
    with pytest.raises(Malformed, match="shard 99"):
        make_opener(MESH).open_snapshot(outside)
    bad_chain = writer.sealer.seal_snapshot(1, b"x", [], {7: b"short"}, 5)
    with pytest.raises(Malformed, match="chain"):
        make_opener(MESH).open_snapshot(bad_chain)


@pytest.mark.parametrize(
    "content",
    [
        [b"", [{}, b"x" * 32], []],
        [b"", [1, b"x" * 32, 2], []],
        [b"", ["1", b"x" * 32], []],
        [b"", [], [1]],
        [b"", [], [b"no certificate"]],
        [b"", [], {}],
        [b"", []],
        {},
        [[], [], []],
    ],
)
def test_signed_nonsense_is_a_frame_error(content: object) -> None:
    """Of a member that went bad: everything verifies, and what is inside is nothing."""
    writer = make_writer(MESH, "agent-a")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sealing, "_deflate", lambda data: b"\0" + pack(content))
        raw = writer.sealer.seal_snapshot(1, b"x", [], {}, 5)
    with pytest.raises(FrameError):
        make_opener(MESH).open_snapshot(raw)


def test_a_frame_is_no_snapshot_and_a_snapshot_no_frame() -> None:
    writer = make_writer(MESH, "agent-a")
    (frame,) = writer.write((0, "Task/1", 1))
    opener = make_opener(MESH)
    with pytest.raises(Malformed):
        opener.open_snapshot(frame.data)
    with pytest.raises(Malformed):
        opener.open(writer.snapshot(0, 1).data)


def _sample() -> bytes:
    writer = make_writer(MESH, "agent-a")
    writer.write((1, "Task/1", "one"))
    return writer.snapshot(1, 1).data


SAMPLE = _sample()
KNOWING = make_opener(MESH)
KNOWING.open_snapshot(SAMPLE)


@settings(max_examples=300, deadline=None)
@given(at=st.integers(0, len(SAMPLE) - 1), flip=st.integers(1, 255), cut=st.booleans())
def test_mutated_snapshots_are_refused_with_frame_errors_only(
    at: int, flip: int, cut: bool
) -> None:
    mutated = bytearray(SAMPLE)
    mutated[at] ^= flip
    with pytest.raises(FrameError):
        KNOWING.open_snapshot(bytes(mutated[:at] if cut else mutated))
