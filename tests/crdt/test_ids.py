"""Sessions, document ids, shards."""

from __future__ import annotations

import pytest

from crdt.errors import InvalidId
from crdt.ids import (
    MAX_SESSION,
    check_document_id,
    new_session,
    parse_document_id,
    shard_of,
    week_at,
    week_of,
)

JANUARY_2024 = 1_704_067_200_000
WEEK = 7 * 24 * 3600 * 1000


def test_a_session_says_in_which_week_it_was_born() -> None:
    session = new_session(JANUARY_2024 + 100 * WEEK, random_bits=(1 << 64) - 1)
    assert week_of(session) == 100
    assert session.bit_length() <= 53
    assert session & ((1 << 42) - 1) == (1 << 42) - 1


def test_a_clock_behind_the_floor_does_not_make_a_closed_session() -> None:
    assert week_of(new_session(0, 7, floor=120)) == 120
    assert week_of(new_session(JANUARY_2024 + 130 * WEEK, 7, floor=120)) == 130


@pytest.mark.parametrize(
    ("unix_ms", "week"),
    [
        (0, 0),
        (JANUARY_2024 - 1, 0),
        (JANUARY_2024 + WEEK - 1, 0),
        (JANUARY_2024 + WEEK, 1),
        (1 << 60, 2047),
    ],
)
def test_weeks_are_counted_from_2024_and_stay_in_range(unix_ms: int, week: int) -> None:
    assert week_at(unix_ms) == week
    assert new_session(unix_ms, 1) <= MAX_SESSION


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("Task/42", ("Task", "42")),
        ("Task/a/b/c", ("Task", "a/b/c")),
        ("a.B-c_9/ü {job-7}", ("a.B-c_9", "ü {job-7}")),
    ],
)
def test_document_ids_are_a_type_and_a_name(text: str, parts: tuple[str, str]) -> None:
    assert parse_document_id(text) == parts
    assert check_document_id(text) is text


@pytest.mark.parametrize(
    "text",
    ["", "Task", "Task/", "/42", "9Task/1", "Ta sk/1", "Task/a\nb", "Task/\ud800", "T" * 65 + "/1",
     "Task/" + "x" * 600, 42, None, ["Task/1"], b"Task/1"],
)  # fmt: skip
def test_anything_else_is_refused_with_the_value_named(text: str) -> None:
    with pytest.raises(InvalidId) as caught:
        parse_document_id(text)
    assert len(str(caught.value)) < 500


def test_a_shard_is_a_fixed_function_of_the_id() -> None:
    # Committed figures: a mesh whose replicas disagreed about these would lose writes.
    assert [shard_of(f"Task/{n}", 16) for n in range(8)] == GOLDEN_SHARDS
    assert shard_of("Task/1", 1) == 0


def test_documents_with_a_common_tag_share_a_shard() -> None:
    assert shard_of("Task/{job-7}/1", 16) == shard_of("Note/{job-7}", 16) == shard_of("job-7", 16)
    assert len({shard_of("Task/{}" + str(n), 1000) for n in range(20)}) > 10, "an empty tag is none"
    assert len({shard_of("Task/{x" + str(n), 1000) for n in range(20)}) > 10, "nor an open one"


GOLDEN_SHARDS = [5, 9, 6, 5, 2, 12, 2, 5]
