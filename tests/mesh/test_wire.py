"""Peer messages: what goes in comes out, and whatever else comes is refused."""

from __future__ import annotations

import contextlib
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crdt.errors import CodecError
from crdt.structure import pack
from mesh.wire import (
    MAX_MESSAGE_BYTES,
    Bye,
    Certificates,
    Frames,
    Frontier,
    Graft,
    Hello,
    Journaled,
    Message,
    Ping,
    Prune,
    Range,
    Served,
    SnapshotPart,
    Summary,
    SummaryRow,
    Unknown,
    Want,
    WantCertificates,
    WantRest,
    WantSnapshot,
    decode,
    encode,
    hello,
)
from mesh.wire.codec import Vocabulary
from mesh.wire.repair import MAX_PARTS

EXAMPLES: tuple[Message, ...] = (
    Hello(1, 3, b"m" * 16, "agent-a", 7 << 42, b"certificate", (1, 2, 3)),
    Certificates((b"a", b"b")),
    WantCertificates((5, 6)),
    Frames((b"frame one", b"frame two")),
    Frames(()),
    Journaled({0: {1: 2, 3: 4}, 15: {2**53 - 1: 2**53 - 1}}),
    Summary((SummaryRow(0, 0, b"h" * 16, b"d" * 16, 0), SummaryRow(3, 90, b"", b"", 7))),
    Frontier(3, 90, 1, 12, True, b"d" * 16, {5: 6, 9: 1}),
    Want(2, (Range(5, 0, 9), Range(6, 3, 4))),
    Served(2, False),
    WantSnapshot(4),
    SnapshotPart(4, 1, 0, 2, b"x" * 1000),
    Ping(),
    Bye("closing"),
    Prune((1, 2**53 - 1)),
    Graft((5,)),
    WantRest(4, 1, MAX_PARTS),
)


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda one: type(one).__name__)
def test_round_trip(message: Message) -> None:
    assert decode(encode(message)) == message


def test_a_newer_peers_words_are_skipped() -> None:
    assert decode(pack([99, "something", 1.5 > 1])) == Unknown(99)


@pytest.mark.parametrize(
    "parts",
    [
        "not a list",
        [],
        ["0"],
        [True],
        [11, 1],
        [3, "frames"],
        [3, ["text"]],
        [4, [0]],
        [4, [0, [1]]],
        [4, [0, [1, 2, 1, 3]]],
        [4, [-1, []]],
        [6, 0, 0, 0, 0, 1, b"", []],
        [7, 0, [[5, 9, 9]]],
        [7, 0, [[5, 9]]],
        [10, 0, 1, 2, 2, b""],
        [10, 0, 1, 0, 0, b""],
        [12, "x" * 300],
        [29, 0, 1],
        [29, 0, 1, 0],
        [29, 0, 1, MAX_PARTS + 1],
        [29, -1, 1, 1],
        [29, 0, "1", 1],
    ],
)
def test_malformed_messages_are_refused(parts: object) -> None:
    with pytest.raises(CodecError):
        decode(pack(parts))


def test_an_oversized_message_is_refused() -> None:
    with pytest.raises(CodecError, match="at most"):
        decode(bytes(MAX_MESSAGE_BYTES + 1))


@given(st.binary(max_size=200))
def test_decoding_is_total(data: bytes) -> None:
    with contextlib.suppress(CodecError):
        decode(data)


@given(st.integers(0, 2**32))
def test_mutations_of_real_messages_decode_or_are_refused(seed: int) -> None:
    rng = random.Random(seed)
    data = bytearray(encode(rng.choice(EXAMPLES)))
    for _ in range(rng.randrange(1, 4)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    try:
        message = decode(bytes(data))
    except CodecError:
        return
    if not isinstance(message, Unknown):
        assert decode(encode(message)) == message


def test_a_kind_or_class_is_in_the_vocabulary_once() -> None:
    """Two words of one number would make every decoder guess."""
    ping = hello.WORDS[1]
    for twin in (replace(ping, cls=Bye), replace(ping, kind=99)):
        with pytest.raises(AssertionError):
            Vocabulary([ping, twin])
