"""Scenarios in files: a world and a fault plan as data, to be edited, kept and run again.

    scenario = "partition"              # what it starts from; all else changes that
    seed = 7
    replicas = 3
    seconds = 20.0
    faults = [
        {t = 3.0, until = 8.5, kind = "isolate", targets = ["replica-1>replica-2"]},
    ]
    [network]
    latency_ms = 20.0
    [settings]
    replica.flush_interval_ms = 20

A seed draws what it draws by today's code only. A found one is therefore kept as such a file, which
says all of it: `saved` writes it.
"""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

from annotated_types import Ge, Le
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, TypeAdapter
from pydantic import ValidationError as Unfit

from crdt.errors import CallerError
from mesh.sections import SettingsError, nearest
from mesh.settings import Settings
from simulations.agents.writers import Load
from simulations.batch import Task
from simulations.faults.kinds import KINDS
from simulations.faults.plan import Fault, chosen_kinds
from simulations.planted.plants import PLANTS
from simulations.ports.network import Conditions
from simulations.ports.services import SERVICES
from simulations.run import WHOLE, Outcome, Part, drawn_scenario
from simulations.scenario import faults_of, imported
from simulations.scenarios.ready import Scenario, scenario_named
from simulations.scenarios.toml_lines import Place, lines_of
from simulations.world import host_name

__all__ = ("ScenarioFile", "load", "saved")

T = TypeVar("T")
DRAWN = ("network", "load", "shards", "services")
"""What a swarm's seed draws: nothing that a file could say as well."""


@dataclass(frozen=True, slots=True)
class ScenarioFile:
    """What a file says. `seed`: None where it names none; `plant`: the bug that it finds."""

    scenario: Scenario
    seed: int | None = None
    part: Part = WHOLE
    plant: str = ""

    def task(self) -> Task:
        """Its own seed, or 0, with its bug planted."""
        return Task(self.scenario, self.seed or 0, self.part, plant=self.plant)


@dataclass(frozen=True, slots=True)
class _Keys:
    """The keys of a file, and what their values may be."""

    scenario: str = "calm"
    meaning: str | None = None
    seed: NonNegativeInt | None = None
    plant: str = ""
    replicas: Annotated[int, Ge(2), Le(100)] | None = None
    hosts: tuple[PositiveInt, ...] | None = None
    writers: tuple[NonNegativeInt, ...] | None = None
    shards: Annotated[int, Ge(1), Le(1024)] | None = None
    seconds: PositiveFloat | None = None
    heal_seconds: PositiveFloat | None = None
    quiet_seconds: NonNegativeFloat | None = None
    services: tuple[str, ...] | None = None
    kinds: tuple[str, ...] | None = None
    faults: list[dict[str, Any]] | None = None
    network: dict[str, Any] | None = None
    load: dict[str, Any] | None = None
    settings: dict[str, dict[str, Any]] | None = None


@dataclass(frozen=True, slots=True)
class _FaultKeys:
    """The keys of a fault."""

    t: NonNegativeFloat
    until: NonNegativeFloat
    kind: str
    targets: tuple[str, ...]


def load(file: Path) -> ScenarioFile:
    """Read a file. Raises CallerError, which names file, line and key, and what there is."""
    try:
        text = file.read_text(encoding="utf-8")
        return _Reader(file, text).read(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise CallerError(f"{file} is no valid TOML: {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise CallerError(f"{file} can't be read: {error}") from None


class _Reader:
    """Reads one file, and knows where everything stands in it."""

    def __init__(self, file: Path, text: str) -> None:
        self._file = file
        self._lines = lines_of(text)

    def wrong(self, place: Place, message: str) -> NoReturn:
        """Raise what is wrong at this place."""
        known = place
        while known and known not in self._lines:
            known = known[:-1]
        where = f"{self._file}:{self._lines[known]}" if known else str(self._file)
        name = "".join(f"[{one}]" if isinstance(one, int) else f".{one}" for one in place)
        raise CallerError(f"{where}: {name.lstrip('.')}: {message}")

    def built(self, made: type[T], table: Mapping[str, Any], place: Place = ()) -> T:
        """The table as a dataclass, whose fields are the keys there are."""
        names = [one.name for one in dataclasses.fields(made)]  # type: ignore[arg-type]
        for key in table:
            if key not in names:
                self.wrong((*place, key), f"there is no such key{nearest(key, names)}")
        try:
            return TypeAdapter(made).validate_python(table)
        except Unfit as error:
            detail = error.errors(include_url=False)[0]
            said = "" if detail["type"] == "missing" else f" {detail['input']!r}"
            self.wrong((*place, *detail["loc"]), f"{detail['msg']}{said and f', not{said}'}")

    def read(self, table: Mapping[str, Any]) -> ScenarioFile:
        """What the whole file says."""
        keys = self.built(_Keys, table)
        base = self._base(keys, table)
        if keys.plant and keys.plant not in PLANTS:
            self.wrong(("plant",), _none(keys.plant, "planted bug", PLANTS))
        for number, service in enumerate(keys.services or ()):
            if service not in SERVICES:
                self.wrong(("services", number), _none(service, "service", SERVICES))
        said: dict[str, Any] = {
            "meaning": keys.meaning,
            "replicas": keys.replicas,
            "shards": keys.shards,
            "fault_s": keys.seconds,
            "heal_s": keys.heal_seconds,
            "quiet_s": keys.quiet_seconds,
            "services": keys.services,
        }
        scenario = dataclasses.replace(
            base,
            name=str(self._file),
            settings={**base.settings, **self._settings(keys)},
            **{name: value for name, value in said.items() if value is not None},
        )
        if keys.network is not None:
            weather = dataclasses.asdict(scenario.weather) | keys.network
            scenario = dataclasses.replace(
                scenario, weather=self.built(Conditions, weather, ("network",))
            )
        if keys.load is not None:
            scenario = dataclasses.replace(scenario, load=self._load(keys.load))
        for key, numbers in (("hosts", keys.hosts), ("writers", keys.writers)):
            for number, one in enumerate(numbers or ()):
                if one > scenario.replicas:
                    self.wrong((key, number), f"{one}, and there are {scenario.replicas} replicas")
        part = Part(None, keys.hosts, keys.writers)
        return ScenarioFile(self._faults(scenario, keys), keys.seed, part, keys.plant)

    def _base(self, keys: _Keys, table: Mapping[str, Any]) -> Scenario:
        try:
            named = keys.scenario
            base = imported(named) if ":" in named else scenario_named(named)
        except CallerError as error:
            self.wrong(("scenario",), str(error))
        for key in DRAWN if base.swarm else ():
            if key in table:
                self.wrong((key,), "drawn by the seed in a swarm; start from another scenario")
        return base

    def _load(self, table: Mapping[str, Any]) -> Load | None:
        # Without an edit there is no writer.
        return self.built(Load, table, ("load",)) if table.get("edits") != 0 else None

    def _settings(self, keys: _Keys) -> dict[str, Any]:
        flat: dict[str, Any] = {}
        for section, values in (keys.settings or {}).items():
            for name, value in values.items():
                flat[f"{section}__{name}"] = value
                try:
                    Settings().override(**{f"{section}__{name}": value})
                except SettingsError as error:
                    said = str(error).replace(" in arguments", "").replace(" (from arguments)", "")
                    self.wrong(("settings", section, name), said)
        return flat

    def _faults(self, scenario: Scenario, keys: _Keys) -> Scenario:
        if keys.kinds is not None:
            if keys.faults is not None:
                self.wrong(("kinds",), "kinds are drawn and faults are exact; give one of the two")
            for number, kind in enumerate(keys.kinds):
                if kind not in KINDS:
                    self.wrong(("kinds", number), _none(kind, "fault", KINDS))
            text = ",".join(keys.kinds) or "none"
            try:
                kinds = (
                    chosen_kinds(text, ()) if scenario.swarm else faults_of(text, scenario.services)
                )
            except CallerError as error:
                self.wrong(("kinds",), str(error))
            return dataclasses.replace(scenario, kinds=kinds)
        if keys.faults is None:
            return scenario
        plan = tuple(self._fault(scenario, *one) for one in enumerate(keys.faults))
        scarce = [number for number, fault in enumerate(plan) if KINDS[fault.kind].scarce]
        if len(scarce) > 1:
            self.wrong(("faults", scarce[1]), "a second disk is lost: a write may be nowhere then")
        return dataclasses.replace(scenario, kinds=(), plan=plan)

    def _fault(self, scenario: Scenario, number: int, table: Mapping[str, Any]) -> Fault:
        place: Place = ("faults", number)
        keys = self.built(_FaultKeys, table, place)
        if keys.kind not in KINDS:
            self.wrong((*place, "kind"), _none(keys.kind, "fault", KINDS))
        if not keys.t < keys.until <= scenario.fault_s:
            self.wrong(
                (*place, "until"),
                f"{keys.until} must be above t = {keys.t}, up to seconds = {scenario.fault_s}",
            )
        fault = Fault(keys.t, keys.kind, keys.targets, keys.until)
        hosts = [host_name(one) for one in range(1, scenario.replicas + 1)]
        if problem := _misplaced(fault, hosts, scenario.services):
            self.wrong((*place, "targets"), problem)
        return fault


def _none(name: str, what: str, known: Iterable[str]) -> str:
    return f"{name!r} is no {what}{nearest(name, list(known))}"


def _misplaced(fault: Fault, hosts: Sequence[str], services: Sequence[str]) -> str:
    """What is wrong with the targets of a fault in such a world; "": nothing."""
    kind, ends = KINDS[fault.kind], [*hosts, *services]
    if kind.service:
        allowed, form = {kind.service} & set(services), "a service"
    elif kind.hits_ways:
        allowed, form = {f"{a}>{b}" for a, b in permutations(ends, 2)}, "a way, from>to,"
    else:
        allowed, form = set(hosts), "a host"
    if not fault.targets:
        return f"name {form} that {fault.kind} hits"
    wrong = [one for one in fault.targets if one not in allowed]
    if not wrong:
        return ""
    return f"{wrong[0]!r} is not {form} that {fault.kind} can hit; there are {', '.join(ends)}"


# ---------------------------------------------------------------------- writing


def saved(task: Task, outcome: Outcome) -> str:
    """The text of a file that runs this seed again, whatever seeds will draw by then."""
    scenario = drawn_scenario(task.scenario, task.seed)
    hosts, writers = task.part.hosts, task.part.writers
    head = {
        "scenario": scenario.code or "calm", "seed": task.seed, "plant": task.plant or None,
        "replicas": scenario.replicas, "hosts": hosts, "writers": writers,
        "shards": scenario.shards, "seconds": scenario.fault_s, "heal_seconds": scenario.heal_s,
        "quiet_seconds": scenario.quiet_s, "services": scenario.services,
    }  # fmt: skip
    lines = [f"{key} = {_plain(value)}" for key, value in head.items() if value is not None]
    faults = [fault.plain() for fault in outcome.plan.values()]
    lines += ["faults = [", *(f"    {_plain(fault)}," for fault in faults), "]"]
    lines += ["", "[network]", *_pairs(dataclasses.asdict(scenario.weather))]
    load = dataclasses.asdict(scenario.load) if scenario.load else {"edits": 0}
    lines += ["", "[load]", *_pairs(load)]
    settings = {key.replace("__", "."): value for key, value in scenario.settings.items()}
    lines += ["", "[settings]", *_pairs(settings)]
    return "\n".join(lines) + "\n"


def _pairs(table: Mapping[str, Any]) -> list[str]:
    return [f"{key} = {_plain(value)}" for key, value in table.items()]


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(_pairs(value)) + "}"
    # Numbers, strings, and lists of them are written in TOML as in JSON.
    return json.dumps(value)
