"""The child: runs cases under a bound of memory, and says in shared memory where it is.

Whatever becomes of this process, the parent knows which case it was at.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import mmap
import os
import resource
import sys
import time
import traceback
from pathlib import Path
from typing import Any, Final

from tests.crdt.fuzz.cases import NAMES, case_of, check, prepare
from tests.crdt.fuzz.verdict import Outcome, ViolationError

MEMORY_BYTES: Final = 1536 << 20
"""What a child may take on top of what it has at the start."""
CASE_BYTES: Final = 96 << 20
BYTES_PER_BYTE: Final = 400
"""What one case may add to the most that was ever resident: some, and so much for each byte of its
input (a body of small operations takes about a hundred)."""

# Places in the shared memory, all unsigned 64-bit numbers.
AT: Final = 0  # the number of the case being run, plus one; 0 before the first
DONE: Final = 1
SLOWEST_US: Final = 2
SLOWEST: Final = 3  # its number
COUNTS: Final = 4  # then for each target: refused, accepted, reordered
LENGTH: Final = COUNTS + len(NAMES) * len(Outcome)
SIZE: Final = 8 * LENGTH


def board(path: Path) -> memoryview:
    """The shared memory in a file, as numbers."""
    with path.open("r+b") as file:
        return memoryview(mmap.mmap(file.fileno(), SIZE)).cast("Q")


def run(seed: int, first: int, stop: int, step: int, place: Path, findings: Path) -> None:
    """Run the cases `first`, `first + step`, … below `stop`; what is wrong goes to `findings`."""
    parent = os.getppid()
    prepare()
    _bound_memory()
    shared = board(place)
    with findings.open("a", encoding="utf-8") as out:
        for number in range(first, stop, step):
            shared[AT] = number + 1
            begun = time.perf_counter()
            found = _one(seed, number, shared)
            micros = int(1e6 * (time.perf_counter() - begun))
            if micros > shared[SLOWEST_US]:
                shared[SLOWEST_US], shared[SLOWEST] = micros, number
            if found is not None:
                out.write(json.dumps({"case": number, **found}) + "\n")
                out.flush()
            shared[DONE] += 1
            if number % 256 == 0 and os.getppid() != parent:
                return  # nobody watches any more


def _one(seed: int, number: int, shared: memoryview) -> dict[str, Any] | None:
    case = case_of(seed, number)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        outcome = check(case)
    except MemoryError as error:
        return _finding("memory", case.target, error)
    except ViolationError as error:
        return _finding("invalid", case.target, error)
    except Exception as error:  # noqa: BLE001
        return _finding("exception", case.target, error)
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        return _finding("exception", case.target, error)
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    if grown > CASE_BYTES + BYTES_PER_BYTE * len(case.data):
        what = f"{len(case.data)} bytes of input took {grown >> 20} MiB"
        return _finding("memory", case.target, MemoryError(what))
    shared[COUNTS + NAMES.index(case.target) * len(Outcome) + outcome] += 1
    return None


def _finding(kind: str, target: str, error: BaseException) -> dict[str, Any]:
    what = str(error) if isinstance(error, ViolationError) else f"{type(error).__name__}: {error}"
    trace = "".join(traceback.format_exception(error)[-6:])
    return {"kind": kind, "target": target, "what": what[:300], "trace": trace[-3000:]}


def _bound_memory() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError, ValueError):  # Linux only
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        most = pages * resource.getpagesize() + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def main(arguments: list[str]) -> None:
    """`seed first stop step place findings [module:function]`; the function plants a fault."""
    seed, first, stop, step = map(int, arguments[:4])
    place, findings, *plant = arguments[4:]
    for each in plant:
        module, _, name = each.partition(":")
        getattr(importlib.import_module(module), name)()
    run(seed, first, stop, step, Path(place), Path(findings))


if __name__ == "__main__":
    main(sys.argv[1:])
