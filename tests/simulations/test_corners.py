"""Every corner is met soon, and only what somebody chose happens where he chose."""

from __future__ import annotations

import dataclasses
from collections import Counter

import pytest

from simulations.faults.kinds import ROT
from simulations.run import drawn_scenario
from simulations.scenarios.corners import CORNERS, ROUND
from simulations.scenarios.ready import SCENARIOS

SWARM = SCENARIOS["swarm"]


def kinds_of_a_round(number: int) -> Counter[frozenset[str]]:
    seeds = range(number * ROUND, (number + 1) * ROUND)
    return Counter(frozenset(drawn_scenario(SWARM, seed).kinds) for seed in seeds)


@pytest.mark.parametrize("number", [0, 1, 50])
def test_each_round_of_seeds_meets_every_corner(number: int) -> None:
    met = kinds_of_a_round(number)
    for corner in CORNERS:
        assert met.pop(frozenset(corner.kinds)) == corner.share, corner.meaning
    assert list(met) == [frozenset(SWARM.kinds)]


def test_corners_come_in_another_order_in_each_round() -> None:
    first, second = (
        [drawn_scenario(SWARM, number * ROUND + at).kinds for at in range(ROUND)]
        for number in range(2)
    )
    assert first != second


def test_values_rot_where_nothing_else_was_chosen_alone() -> None:
    chosen = dataclasses.replace(SWARM, kinds=("halves", "kill"))
    for seed in range(ROUND):
        assert ROT not in drawn_scenario(chosen, seed).kinds
    assert any(ROT in drawn_scenario(SWARM, seed).kinds for seed in range(ROUND))
