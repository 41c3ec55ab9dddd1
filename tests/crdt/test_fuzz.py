"""A short run of the fuzzer; and that it bites: planted faults are found, counted and kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crdt import codec
from crdt.errors import CodecError
from tests.crdt.fuzz import targets, yrs_forms, yrs_targets
from tests.crdt.fuzz.cases import NAMES, TARGETS, case_of, check
from tests.crdt.fuzz.corpus import corpus
from tests.crdt.fuzz.driver import ROOT, Plan, fuzz
from tests.crdt.fuzz.verdict import Outcome

CASES = 5_000
PLANTED = 400
HANG_S = 1.0
HERE = "tests.crdt.test_fuzz"


def test_a_short_run_finds_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.crdt.fuzz", "--cases", str(CASES), "--json"],
        cwd=ROOT, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout, done.stderr)
    result: dict[str, Any] = json.loads(done.stdout)
    assert (result["crashes"], result["hangs"], result["accepted_invalid"]) == (0, 0, 0)
    assert (result["cases"], result["seed"]) == (CASES, 1)
    assert result["seconds"] > 0
    assert set(result["targets"]) == set(NAMES)
    for name, counts in result["targets"].items():
        assert counts["cases"] == counts["accepted"] + counts["refused"], name
        assert counts["accepted"] > counts["cases"] // 30, f"{name}: hardly anything is valid"
        assert counts["refused"] > counts["cases"] // 3, f"{name}: hardly anything is wrong"


def test_a_case_is_a_function_of_seed_and_number() -> None:
    for number in range(60):
        assert case_of(5, number) == case_of(5, number)
    assert len({case_of(5, number).data for number in range(60)}) > 50
    assert {case_of(5, number).target for number in range(400)} == set(NAMES)


def test_one_case_can_be_run_again() -> None:
    number = next(each for each in range(100) if case_of(3, each).target == "value")
    done = subprocess.run(
        [sys.executable, "-m", "tests.crdt.fuzz", "--seed", "3", "--case", str(number)],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    case = case_of(3, number)
    assert done.stdout.split("\n")[1:3] == [case.data.hex(), check(case).name.lower()]


# --------------------------------------------------------------------------------- planted faults


def _special(data: bytes) -> bool:
    """A few inputs in a hundred."""
    return sum(data) % 31 == 0


def _instead(faulty: Callable[[bytes], Any]) -> None:
    """Let the targets use this in place of `decode`."""
    vars(targets)["decode"] = faulty


def plant_acceptor() -> None:
    """`decode` takes what is not canonical, sometimes."""
    strict = codec.decode

    def lenient(data: bytes) -> Any:
        try:
            return strict(data)
        except CodecError:
            if _special(data):
                return None
            raise

    _instead(lenient)


def plant_exception() -> None:
    """`decode` raises something else than it promises, sometimes."""
    strict = codec.decode

    def raising(data: bytes) -> Any:
        if _special(data):
            raise KeyError("planted")
        return strict(data)

    _instead(raising)


def plant_crash() -> None:
    """`decode` takes the process down, sometimes."""
    strict = codec.decode

    def crashing(data: bytes) -> Any:
        if _special(data):
            os.abort()
        return strict(data)

    _instead(crashing)


def plant_hang() -> None:
    """`decode` never returns, for few inputs."""
    strict = codec.decode

    def hanging(data: bytes) -> Any:
        while sum(data) % 61 == 3:
            pass
        return strict(data)

    _instead(hanging)


def plant_hunger() -> None:
    """`decode` takes two gigabytes, sometimes."""
    strict = codec.decode

    def hungry(data: bytes) -> Any:
        if _special(data):
            return bytearray(2 << 30)
        return strict(data)

    _instead(hungry)


@pytest.mark.parametrize(
    ("plant", "counted", "kind"),
    [
        (plant_acceptor, "accepted_invalid", "invalid"),
        (plant_exception, "accepted_invalid", "exception"),
        (plant_crash, "crashes", "crash"),
        (plant_hunger, "crashes", "memory"),
        (plant_hang, "hangs", "hang"),
    ],
)
def test_it_bites(plant: Any, counted: str, kind: str, tmp_path: Path) -> None:
    plan = Plan(
        PLANTED, seed=9, hang_s=HANG_S, keep=tmp_path / "kept", plant=f"{HERE}:{plant.__name__}"
    )
    told: list[str] = []
    result = fuzz(plan, told.append)
    assert result[counted] > 0
    assert sum(result[each] for each in ("crashes", "hangs", "accepted_invalid")) == result[counted]
    assert result["cases"] == PLANTED, "the run went on behind it"
    assert {each["kind"] for each in result["findings"]} == {kind}
    assert {each["target"] for each in result["findings"]} <= {"value", "path"}
    kept = [json.loads(path.read_text()) for path in (tmp_path / "kept").iterdir()]
    assert len(kept) == result[counted]
    for each in kept:
        assert bytes.fromhex(each["data"]) == case_of(9, each["case"]).data
        check(case_of(9, each["case"]))  # without the fault nothing is wrong with it
    assert f"{len(kept)} cases kept in {plan.keep}" in told


def test_a_child_that_cannot_start_ends_the_run() -> None:
    with pytest.raises(RuntimeError, match="before its first case"):
        fuzz(Plan(10, plant=f"{HERE}:nothing_of_that_name"))


# --------------------------------------------------------------------------------- its own pieces


@pytest.mark.parametrize("name", NAMES)
def test_what_honest_replicas_write_is_accepted(name: str) -> None:
    """What is refused is so because of what was done to it."""
    made = corpus()
    samples: dict[str, list[tuple[bytes, Any]]] = {
        "body": [(data, -1) for data in made.bodies],
        "snapshot": [(data, (7, 0)) for data in made.snapshots],
        "value": [(data, None) for data in made.values],
        "structure": [(data, None) for data in made.bodies],
        "path": [(path, None) for path, _ in made.payloads],
        "payload": [(payload, (path, 0, "1")) for path, payload in made.payloads],
    }
    cases = samples.get(name, [])[:300]
    if not cases:
        kind, _, what = name.partition(" ")
        cases = [
            (data, (number, at, session)) if what == "update" else (states[at + 1], (number, at))
            for number, (operations, states) in enumerate(yrs_targets.histories(kind))
            for at, (session, data) in enumerate(operations)
        ]
    assert len(cases) > 30
    for data, context in cases:
        assert TARGETS[name].check(data, context) is Outcome.ACCEPTED, (data, context)


@pytest.mark.parametrize("kind", list(yrs_targets.KINDS))
def test_an_update_is_put_together_as_it_was(kind: str) -> None:
    for operations, states in yrs_targets.histories(kind):
        for data in (*states, *(update for _, update in operations)):
            assert yrs_forms.put_together(yrs_forms.taken_apart(data)) == data
