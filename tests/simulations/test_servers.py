"""Small rules of a run on a stack: addresses, and what sources and frontiers say."""

from __future__ import annotations

import pytest

from mesh.health import PARTS as HEALTH_PARTS
from mesh.stack import SERVICES
from simulations.rehearsal.fleet import covers, in_words
from simulations.rehearsal.servers import PARTS, location


@pytest.mark.parametrize(
    ("address", "where"),
    [
        ("redis://127.0.0.1:6379/0", "127.0.0.1:6379"),
        ("127.0.0.1:9092", "127.0.0.1:9092"),
        ("postgresql://postgres@127.0.0.1:5432/postgres", "127.0.0.1:5432"),
        ("postgresql://user:secret@db:5432/mesh?a=b", "db:5432"),
    ],
)
def test_where_a_service_is_reached(address: str, where: str) -> None:
    assert location(address) == where


def test_every_service_has_a_part_of_the_health_that_tells_of_it() -> None:
    assert tuple(PARTS) == SERVICES
    assert set(PARTS.values()) <= set(HEALTH_PARTS)
    assert len(set(PARTS.values())) == len(SERVICES)


def test_sources_are_named_the_largest_first_and_only_those_that_gave_something() -> None:
    counts = {"peers": 3, "log": 40, "bus": 0, "checkpoints": 900}
    assert in_words(counts) == "checkpoints + log + peers"
    assert in_words({"peers": 7}) == "peers"
    assert in_words({"log": 2, "bus": 2}) == "bus + log"
    assert in_words({}) == ""


def test_a_frontier_covers_another_or_lacks_something_of_it() -> None:
    have = {0: {1: 5, 2: 3}, 1: {1: 2}}
    assert covers(have, {0: {1: 5}, 1: {}, 2: {}})
    assert not covers(have, {0: {1: 6}})
    assert not covers(have, {0: {9: 1}})
    assert not covers(have, {2: {1: 1}})
    assert covers({}, {})
