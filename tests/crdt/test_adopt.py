"""A shard that adopts another is what a join would have made it, at once."""

from __future__ import annotations

import pytest

from crdt.lattice import Shard
from tests.crdt.test_generations import ID, NEW, OLD, A

KEY = b"k" * 32


def source() -> Shard:
    shard = Shard(KEY)
    shard.apply(A, 1, OLD)
    shard.apply(A, 2, NEW)
    shard.frame_applied(A, 1, 2, ())
    return shard


def test_adopting_is_joining() -> None:
    adopted, joined = Shard(KEY), Shard(KEY)
    frontier = adopted.frontier
    assert adopted.is_empty
    assert adopted.adopt(source()) == {ID}
    joined.join(source().snapshot())
    assert adopted.snapshot() == joined.snapshot()
    assert (adopted.digest(), adopted.heads) == (joined.digest(), joined.heads)
    assert adopted.frontier is frontier
    assert adopted.seen(A, 2)
    assert not adopted.is_empty


def test_only_an_empty_shard_adopts() -> None:
    for held in (source(), Shard(KEY)):
        held.raise_floor(1)
        with pytest.raises(AssertionError, match="only a join"):
            held.adopt(source())


@pytest.mark.parametrize("size", [0, 5, 31, 32, 43, 60, 255, 256, 70_000])
def test_stamped_values_are_judged_alike_with_and_without_decoding(size: int) -> None:
    """Short ASCII texts are proven without decoding; what is no canonical form is none then."""
    from crdt.codec import encode_stamped
    from crdt.types.rules import stamped

    for text in ("x" * size, "é" * (size // 2)):
        payload = encode_stamped(1 << 60, text)
        assert stamped(payload)
        assert not stamped(payload + b"x")
        assert not stamped(payload[:-1] if text else payload[:-2])
    if 0 < size < 32:
        long_form = encode_stamped(1 << 60, "")[:-1] + bytes([0xD9, size]) + b"x" * size
        assert not stamped(long_form)
