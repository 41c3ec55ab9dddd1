"""The simulator finds what is planted, by the checker that should, and makes it small."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import pytest

from mesh.cli import run
from mesh.core import Core
from simulations.batch import Task, perform_one
from simulations.planted.plants import PLANTS, planted
from simulations.run import Outcome
from simulations.scenarios.ready import SCENARIOS
from simulations.shrinking import HOSTS_MIN, fewest, shrink

SWARM = SCENARIOS["swarm"]
SEEDS = 100


def outcomes(plant: str) -> Iterator[Outcome]:
    """First of the seed that is known to show it; of all, should the draw have changed."""
    for seed in (PLANTS[plant].seed, *range(SEEDS)):
        yield perform_one(Task(SCENARIOS[PLANTS[plant].scenario], seed, plant=plant))


@pytest.mark.parametrize("plant", PLANTS)
def test_a_planted_bug_is_found_and_the_code_without_it_is_clean(plant: str) -> None:
    found = next((one for one in outcomes(plant) if one.violations), None)
    assert found is not None, f"{plant} was not found in {SEEDS} seeds"
    assert found.violations[0].invariant in PLANTS[plant].found_by
    assert perform_one(Task(SCENARIOS[PLANTS[plant].scenario], found.seed)).violations == []


def test_a_plant_is_pulled_out_again() -> None:
    real = Core.on_disk
    with planted("ack-before-fsync"):
        assert Core.on_disk is not real
    assert Core.on_disk is real


def test_the_fewest_are_found() -> None:
    for culprits in ({3}, {1, 8}, {2, 5, 7}, set()):
        assert set(fewest(tuple(range(1, 9)), culprits.issubset)) == culprits


def test_a_failing_seed_is_made_small_and_the_command_repeats_it(
    capfd: pytest.CaptureFixture[str],
) -> None:
    arguments = ["simulate", "crash", "--plant", "session-reused", "--replicas", "3"]
    assert run([*arguments, "--seeds", "1:3", "--jobs", "1", "--shrink"]) == 1
    words = shlex.split(capfd.readouterr().err.splitlines()[-1])
    assert words[:2] == ["mesh", "simulate"]
    # The disk that was lost, and two hosts: without either there is no old session to meet.
    options = dict(zip(words[3::2], words[4::2], strict=True))
    assert options["--only-faults"].count(",") == 0
    assert options["--only-hosts"].count(",") == HOSTS_MIN - 1
    assert run([*words[1:], "--jobs", "1"]) == 1


def test_shrinking_tells_how_it_goes_on() -> None:
    task = Task(SWARM, 0, plant="ack-before-fsync")
    lines: list[str] = []
    smaller, outcome = shrink(task, perform_one(task), lines.append)
    assert lines
    assert "still Acknowledgements" in lines[-1]
    assert smaller.part.faults == ()
    assert outcome.violations[0].invariant == "Acknowledgements"
