"""A short run of the fuzzer against a live replica; and that it bites."""

from __future__ import annotations

import json
import subprocess
import sys

from mesh.wire import VOCABULARY
from persistence.sealing import Opener
from tests.mesh.fuzz.cases import WORDS
from tests.mesh.fuzz.driver import ROOT, Plan, fuzz, passed

CASES = 3_000
PLANTED = 600


def plant_opener_without_signatures() -> None:
    """Whoever knows the form may write in anybody's name."""
    vars_of: dict[str, object] = {"_verify": lambda self, frame, info: None}
    for name, weakness in vars_of.items():
        setattr(Opener, name, weakness)


def test_a_short_run_finds_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.mesh.fuzz", "--cases", str(CASES), "--json"],
        cwd=ROOT, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout, done.stderr)
    result = json.loads(done.stdout)
    assert (result["accepted"], result["crashes"], result["hangs"]) == (0, 0, 0)
    assert result["honest_updates"] > 10, "honest traffic went on"


def test_every_word_there_is_takes_part() -> None:
    assert len(WORDS) == len(VOCABULARY._by_kind)


def test_a_replica_that_skips_signatures_is_caught() -> None:
    result = fuzz(Plan(PLANTED, plant="tests.mesh.test_fuzz:plant_opener_without_signatures"))
    assert not passed(result)
    assert result["accepted"] > 0, result
