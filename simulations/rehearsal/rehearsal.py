"""A rehearsal: rounds of a trial, and after each the proof that nothing acknowledged was lost."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

from crdt.errors import ServiceError
from mesh.stack import Stack
from persistence.inspect import load_folder
from simulations import checkers
from simulations.rehearsal.fleet import Frontier
from simulations.rehearsal.trials import TRIALS, Scene
from simulations.rehearsal.troupe import NotSettled, Troupe, open_troupe

_READERS: Final = 2
_TYPE: Final = "Specimen"


@dataclass(frozen=True, slots=True)
class Script:
    """What is rehearsed. `rate`: edits a second of each writer; `seconds`: how long a fault
    lasts, None for what is usual; `plant`: a fault of the writers' own, for the checkers.
    """

    name: str
    rounds: int
    agents: int
    seed: int
    rate: int = 150
    seconds: float | None = None
    plant: str = ""


@dataclass(slots=True)
class Outcome:
    """What it came to. All counts but the first two have to be zero."""

    rounds: int = 0
    acknowledged: int = 0
    lost: int = 0
    diverged: int = 0
    resurrected: int = 0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Nothing was found."""
        return not (self.lost or self.diverged or self.resurrected or self.problems)

    def plain(self, script: Script) -> dict[str, Any]:
        """As the command prints it."""
        return {
            "rehearsal": script.name, "rounds": self.rounds, "acknowledged": self.acknowledged,
            "lost": self.lost, "diverged": self.diverged, "resurrected": self.resurrected,
            "seconds": round(self.seconds, 2), "seed": script.seed,
        }  # fmt: skip


async def perform(script: Script, folder: Path, say: Callable[[str], None]) -> Outcome:
    """All rounds of it, in `folder`; stops at the first round that does not hold."""
    began = time.monotonic()
    trial, usual = TRIALS[script.name]
    names = [f"writer-{number}" for number in range(1, script.agents + 1)]
    levels = ["JOURNAL", "PEERS(1)"]
    outcome = Outcome()
    async with contextlib.AsyncExitStack() as stack:
        servers: Stack | None = None
        if script.name == "redis":
            servers = await stack.enter_async_context(
                Stack.running(folder / "stack", only=("redis",))
            )
            levels.append("BUS")
        troupe = await stack.enter_async_context(
            open_troupe(
                Troupe(
                    folder, names, seed=script.seed, rate=script.rate, levels=tuple(levels),
                    redis=servers.services["redis"].address if servers else "",
                    plant=script.plant,
                )
            )
        )  # fmt: skip
        scene = Scene(troupe, servers, usual if script.seconds is None else script.seconds)
        try:
            for number in range(1, script.rounds + 1):
                troupe.go()
                what = await trial(scene)
                healed = await _judge_round(troupe, outcome)
                outcome.rounds = number
                say(
                    f"round {number}: {what}; agreed after {healed:.2f} s; "
                    f"{troupe.pledges.edits} acknowledged, {outcome.lost} lost"
                )
                if not outcome.good:
                    break
            outcome.problems.extend(await troupe.stop())
        except NotSettled as error:
            outcome.diverged += 1
            outcome.problems.append(str(error))
        except ServiceError as error:
            outcome.problems.append(str(error))
        outcome.acknowledged = troupe.pledges.edits
    if outcome.good:
        await _judge_folders(troupe, outcome)
    outcome.seconds = time.monotonic() - began
    return outcome


async def _judge_round(troupe: Troupe, outcome: Outcome) -> float:
    """Everything acknowledged is with everybody, and nothing deleted is. Seconds to agree."""
    took, frontiers = await troupe.settle()
    for name, frontier in frontiers.items():
        for line, count in _lacking(troupe, name, frontier):
            outcome.lost += count
            outcome.problems.append(line)
    kept, gone = troupe.pledges.kept(), troupe.pledges.gone()
    for name, answer in (await troupe.ask_all("documents", kept=kept, gone=gone)).items():
        outcome.lost += len(answer["missing"])
        outcome.resurrected += len(answer["resurrected"])
        outcome.problems.extend(f"{name} lacks {one}" for one in answer["missing"])
        outcome.problems.extend(f"{name} holds deleted {one}" for one in answer["resurrected"])
    return took


def _lacking(troupe: Troupe, name: str, frontier: Frontier) -> list[tuple[str, int]]:
    """Acknowledged operations that a running writer has not got."""
    found = checkers.lost(
        [checkers.Evidence(name, {}, frontier, {}, {}, ())], troupe.pledges.acknowledged()
    )
    return [(str(loss), loss.count) for loss in found]


async def _judge_folders(troupe: Troupe, outcome: Outcome) -> None:
    """The same from what is on the disks, read and verified anew, now that nobody runs."""
    loop = asyncio.get_running_loop()
    with ProcessPoolExecutor(_READERS, get_context("spawn")) as pool:
        replicas = await asyncio.gather(
            *(loop.run_in_executor(pool, examine, troupe.place(name)) for name in troupe.names)
        )
    kept = [f"{_TYPE}/{name}" for name in troupe.pledges.kept()]
    gone = [f"{_TYPE}/{name}" for name in troupe.pledges.gone()]
    losses = checkers.lost(replicas, troupe.pledges.acknowledged())
    missing = checkers.missing(replicas, kept)
    risen = checkers.resurrected(replicas, gone)
    apart = checkers.differences(replicas)
    outcome.lost += sum(loss.count for loss in losses) + len(missing)
    outcome.resurrected += len(risen)
    outcome.diverged += len(apart)
    outcome.problems.extend([*map(str, losses), *missing, *risen, *apart])


def examine(folder: Path) -> checkers.Evidence:
    """What a folder proves."""
    loaded = load_folder(folder)
    return checkers.evidence(loaded.replica, loaded.shards, ())
