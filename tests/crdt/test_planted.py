"""The laws bite: each program that is wrong on purpose breaks the law named, the right one none."""

from __future__ import annotations

import pytest

import tests.crdt.planted  # noqa: F401 - imported for the variants in it
from tests.crdt.laws.law import LAWS
from tests.crdt.planting import TRIES, VARIANTS


@pytest.mark.parametrize("name", VARIANTS)
def test_the_law_tells(name: str) -> None:
    assert VARIANTS[name].caught() is not None


@pytest.mark.parametrize("law", sorted({variant.law for variant in VARIANTS.values()}))
def test_nothing_is_wrong_where_nothing_is_planted(law: str) -> None:
    found = LAWS[law].broken(TRIES // 10)  # its own test tries more
    assert found is None, found


def test_there_are_enough_of_them() -> None:
    assert len(VARIANTS) >= 50
