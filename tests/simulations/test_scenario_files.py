"""Scenarios in files: what they say is what runs, and what is wrong is named with its line."""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
from pathlib import Path

import pytest

from crdt.errors import CallerError
from mesh.cli import run
from simulations.batch import Task, perform_one
from simulations.run import Part, simulate
from simulations.scenarios.files import load, saved
from simulations.scenarios.ready import SCENARIOS
from simulations.scenarios.toml_lines import lines_of

WHOLE = """\
scenario = "partition"
meaning = "A tour of the keys."
seed = 7
replicas = 3
hosts = [1, 3]
writers = [3]
shards = 2
seconds = 6.0
heal_seconds = 30
quiet_seconds = 1
services = ["bus"]
faults = [
    {t = 1, until = 2.5, kind = "isolate", targets = ["replica-1>replica-3", "bus>replica-1"]},
    {t = 3.0, until = 4.0, kind = "bus-down", targets = ["bus"]},
    {t = 3.5, until = 4.5, kind = "kill", targets = ["replica-3"]},
]
[network]
latency_ms = 20.0
[load]
edits = 1.0
[settings]
replica.flush_interval_ms = 20
[settings.peers]
dial_max = 2
"""


def written(folder: Path, text: str) -> Path:
    file = folder / "world.toml"
    file.write_text(text)
    return file


def test_a_file_says_what_runs(tmp_path: Path) -> None:
    found = load(written(tmp_path, WHOLE))
    scenario = found.scenario
    assert (found.seed, found.part) == (7, Part(None, (1, 3), (3,)))
    assert (scenario.replicas, scenario.shards, scenario.services) == (3, 2, ("bus",))
    assert (scenario.fault_s, scenario.heal_s, scenario.quiet_s) == (6.0, 30.0, 1.0)
    assert scenario.weather.latency_ms == 20.0
    assert scenario.load is not None
    assert scenario.load.edits == 1.0
    assert scenario.settings == {"replica__flush_interval_ms": 20, "peers__dial_max": 2}
    outcome = perform_one(found.task())
    assert outcome.violations == []
    assert [fault.kind for fault in outcome.plan.values()] == ["isolate", "bus-down", "kill"]


def test_the_file_of_the_documentation_runs(tmp_path: Path) -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "simulation.md"
    (text,) = re.findall(r"^```toml\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    task = load(written(tmp_path, text)).task()
    assert perform_one(task).violations == []


def test_kinds_of_a_file_are_drawn_by_each_seed(tmp_path: Path) -> None:
    text = 'kinds = ["halves", "bus-full"]\nservices = ["bus"]\nreplicas = 2\n[load]\nedits = 0\n'
    scenario = load(written(tmp_path, text)).scenario
    assert scenario.load is None
    plans = [simulate(scenario, seed).plan for seed in (1, 2)]
    assert plans[0] != plans[1]
    assert {one.kind for plan in plans for one in plan.values()} <= {"halves", "bus-full"}


def test_what_is_saved_is_the_same_run(tmp_path: Path) -> None:
    swarm = dataclasses.replace(SCENARIOS["swarm"], fault_s=8.0)
    for seed, part in ((3, Part()), (5, Part(faults=(1, 2), hosts=(1, 2, 4), writers=(2,)))):
        task = Task(swarm, seed, part)
        outcome = perform_one(task)
        again = load(written(tmp_path, saved(task, outcome))).task()
        assert again.seed == seed
        assert perform_one(again).trace_hash == outcome.trace_hash


def test_the_command_saves_a_seed_and_runs_the_file(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "kept.toml"
    whole = written(tmp_path, WHOLE)
    hashes = []
    for arguments in ([str(whole), "--save", str(file)], [str(file)]):
        assert run(["simulate", *arguments, "--json", "--jobs", "1"]) == 0
        ended = capfd.readouterr()
        found = json.loads(ended.out)
        assert found["seeds"] == 1
        hashes.append(found["trace_hash"])
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seed = 7", "sed = 7", ":3: sed: there is no such key; did you mean seed?"),
        ("seed = 7", "zzz = 7", ":3: zzz: there is no such key; there are scenario, meaning, seed"),
        ("seed = 7", "seed = -7", ":3: seed: Input should be greater than or equal to 0, not -7"),
        ('"partition"', '"party"', ":1: scenario: 'party' is no scenario; there are calm"),
        ('"partition"', '"swarm"', ":17: network: drawn by the seed in a swarm"),
        ("seed = 7", 'plant = "weed"', ":3: plant: 'weed' is no planted bug; there are ack-before"),
        ("[1, 3]", "[1, 4]", ":5: hosts[1]: 4, and there are 3 replicas"),
        ('["bus"]\nf', '["bsu"]\nf', ":11: services[0]: 'bsu' is no service; did you mean bus?"),
        ("kill", "kil", ":15: faults[2].kind: 'kil' is no fault; did you mean kill?"),
        ("until = 4.5", "til = 4.5", ":15: faults[2].til: there is no such key; did you mean unt"),
        ("until = 4.5", "until = 3", ":15: faults[2].until: 3.0 must be above t = 3.5, up to sec"),
        ("until = 4.5, ", "", ":15: faults[2].until: Field required"),
        ('"replica-3"]', '"bus"]', ":15: faults[2].targets: 'bus' is not a host that kill can"),
        ('"bus>replica-1"', '"bus"', ":13: faults[0].targets: 'bus' is not a way, from>to, that"),
        ('["bus"]}', '["log"]}', ":14: faults[1].targets: 'log' is not a service that bus-down"),
        ('["bus"]}', "[]}", ":14: faults[1].targets: name a service that bus-down hits"),
        ("seed = 7", 'kinds = ["kill"]', ":3: kinds: kinds are drawn and faults are exact"),
        ("20.0", '"far"', ":18: network.latency_ms: Input should be a valid number"),
        ("latency_ms", "latency", ":18: network.latency: there is no such key; did you mean lat"),
        ("edits = 1.0", "edits = -1", ":20: load.edits: Input should be greater than 0, not -1"),
        (
            "dial_max",
            "dial_maxx",
            ":24: settings.peers.dial_maxx: peers.dial_maxx is no setting; did",
        ),
        ("= 20\n", '= "x"\n', ":22: settings.replica.flush_interval_ms: replica.flush_inter"),
        ("seed = 7", "seed =", " is no valid TOML: Invalid value (at line 3, column 7)"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(
    old: str, new: str, message: str, tmp_path: Path
) -> None:
    assert old in WHOLE
    file = written(tmp_path, WHOLE.replace(old, new))
    with pytest.raises(CallerError) as raised:
        load(file)
    assert str(raised.value).startswith(f"{file}{message}")


def test_two_disks_must_not_be_lost(tmp_path: Path) -> None:
    lost = '{{t = {}, until = 9, kind = "disk-lost", targets = ["replica-1"]}},\n'
    text = "faults = [\n" + lost.format(1) + lost.format(2) + "]\n"
    with pytest.raises(CallerError, match=r":3: faults\[1\]: a second disk is lost"):
        load(written(tmp_path, text))


def test_every_key_is_on_its_line() -> None:
    text = '''\
# no = "key" [no]
"a b".'c' = 'x # = ['
list = [
  1, "]", # [
  [2,
   3]]
long = """
[no]
k = \\""" 3"""
[one.two]
when = 2020-01-01 10:00:00
[[many]]
a = {b = 1, c = [2]}
[[many]]
d = 4
'''
    tomllib.loads(text)
    lines = lines_of(text)
    assert {place: line for place, line in lines.items() if place[0] != "list"} == {
        ("a b",): 2, ("a b", "c"): 2, ("long",): 7, ("one",): 10, ("one", "two"): 10,
        ("one", "two", "when"): 11, ("many",): 12, ("many", 0): 12, ("many", 0, "a"): 13,
        ("many", 0, "a", "b"): 13, ("many", 0, "a", "c"): 13, ("many", 0, "a", "c", 0): 13,
        ("many", 1): 14, ("many", 1, "d"): 15,
    }  # fmt: skip
    assert [lines["list", *rest] for rest in ((0,), (1,), (2,), (2, 0), (2, 1))] == [4, 4, 5, 5, 6]
