"""Seeds that once found something, kept as worlds and plans that no change of the draws alters."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

import simulations
from simulations.batch import perform_one
from simulations.planted.plants import PLANTS
from simulations.scenarios.files import load

FILES = sorted(Path(simulations.__file__).with_name("regressions").glob("*.toml"))


@pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])
def test_what_was_found_once_holds_and_its_plant_is_found_again(file: Path) -> None:
    task = load(file).task()
    assert perform_one(dataclasses.replace(task, plant="")).violations == []
    if task.plant:
        found = perform_one(task).violations
        assert found, f"{file} no longer finds {task.plant}; save a seed that does"
        assert found[0].invariant in PLANTS[task.plant].found_by


def test_they_are_of_bugs_that_there_are() -> None:
    assert {load(file).plant for file in FILES} - {""} <= set(PLANTS)
