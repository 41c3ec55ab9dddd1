"""Short rehearsals over real processes, and planted faults that the checkers have to find."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from simulations import checkers
from simulations.checkers import Acknowledged, Evidence
from simulations.rehearsal.rehearsal import Outcome, Script, perform
from simulations.rehearsal.trials import TRIALS
from simulations.rehearsal.troupe import Pledges
from simulations.rehearsal.writer import EARLY, UNDEAD

KEYS = [
    "rehearsal", "rounds", "acknowledged", "lost", "diverged", "resurrected", "seconds", "seed",
]  # fmt: skip


def rehearse(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "simulations.rehearsal.rehearse", *arguments],
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip


async def performed(folder: Path, script: Script) -> Outcome:
    lines: list[str] = []
    outcome = await perform(script, folder, lines.append)
    assert len(lines) == outcome.rounds
    return outcome


@pytest.mark.parametrize("name", sorted(set(TRIALS) - {"redis", "kill9"}))
async def test_nothing_acknowledged_is_lost(tmp_path: Path, name: str) -> None:
    outcome = await performed(tmp_path, Script(name, 2, 3, seed=5, seconds=0.8))
    assert outcome.good, outcome.problems
    assert outcome.rounds == 2
    assert outcome.acknowledged > 100


async def test_losing_the_bus_loses_nothing(tmp_path: Path, stack: object) -> None:
    del stack  # a server of its own is killed; this one only says that there is a program
    outcome = await performed(tmp_path, Script("redis", 2, 3, seed=5, seconds=0.8))
    assert outcome.good, outcome.problems
    assert outcome.acknowledged > 100


def test_the_command_prints_one_object_and_keeps_what_was_asked_for(tmp_path: Path) -> None:
    done = rehearse("kill9", "--rounds", "2", "--json", "--keep", str(tmp_path / "kept"))
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert list(outcome) == KEYS
    assert (outcome["lost"], outcome["diverged"], outcome["resurrected"]) == (0, 0, 0)
    assert outcome["rounds"] == 2
    assert done.stderr.count("died at") == 2
    assert len(list((tmp_path / "kept" / "replicas").iterdir())) == 3


def test_bad_input_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    unknown = rehearse("earthquake")
    assert unknown.returncode == 2
    assert "there are kill9, storm" in unknown.stderr
    (tmp_path / "mine").write_text("dear")
    taken = rehearse("storm", "--keep", str(tmp_path))
    assert taken.returncode == 2
    assert "name a new one" in taken.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


async def test_a_writer_that_acknowledges_too_early_is_found_out(tmp_path: Path) -> None:
    """Sooner or later one dies before its journal has what it promised."""
    outcome = await performed(tmp_path, Script("kill9", 12, 2, seed=5, plant=EARLY))
    assert outcome.lost > 0, outcome
    assert any("lacks acknowledged operations" in line for line in outcome.problems)


async def test_a_deleted_document_that_comes_back_is_found_out(tmp_path: Path) -> None:
    outcome = await performed(tmp_path, Script("slow", 2, 2, seed=5, seconds=0.3, plant=UNDEAD))
    assert outcome.rounds == 1
    assert outcome.resurrected > 0
    assert outcome.lost == 0


def test_missing_and_risen_documents_are_named() -> None:
    one = Evidence("one", {}, {}, {}, {"Specimen/a": b"1", "Specimen/b": b"2"}, ())
    two = Evidence("two", {}, {}, {}, {"Specimen/a": b"1"}, ())
    assert checkers.missing([one, two], ["Specimen/a", "Specimen/b"]) == [
        "two lacks the acknowledged document Specimen/b"
    ]
    assert checkers.resurrected([one, two], ["Specimen/b"]) == [
        "one holds Specimen/b, whose deletion was acknowledged"
    ]
    assert not checkers.resurrected([one, two], ["Specimen/c"])


def test_a_lost_disk_takes_only_what_was_promised_to_be_there_alone() -> None:
    pledges = Pledges()
    for level, seq in (("PEERS(1)", 5), ("JOURNAL", 9)):
        pledges.add(
            "a",
            {"session": 7, "level": level, "written": {"0": seq}, "edits": seq,
             "kept": [level], "gone": []},
        )  # fmt: skip
    pledges.forget("b")
    assert pledges.acknowledged() == [Acknowledged(7, 0, 9, "JOURNAL", "a")]
    pledges.forget("a")
    assert pledges.acknowledged() == [Acknowledged(7, 0, 5, "PEERS(1)", "a")]
    assert pledges.kept() == ["PEERS(1)"]
    assert pledges.edits == 5
