"""Cases: each is a function of seed and number alone."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Mapping
from functools import partial
from random import Random
from typing import Any, Final, NamedTuple

from tests.crdt.fuzz import targets, yrs_targets
from tests.crdt.fuzz.corpus import corpus
from tests.crdt.fuzz.verdict import Outcome


class Target(NamedTuple):
    """Something that reads bytes. `weight`: its share of the cases."""

    weight: int
    make: Callable[[Random], tuple[bytes, Any]]
    check: Callable[[bytes, Any], Outcome]


class Case(NamedTuple):
    """One hostile input, and what else its check needs to know."""

    target: str
    data: bytes
    context: Any


TARGETS: Final[Mapping[str, Target]] = {
    "body": Target(4, targets.make_body, targets.check_body),
    "snapshot": Target(4, targets.make_snapshot, targets.check_snapshot),
    "value": Target(3, targets.make_value, targets.check_value),
    "structure": Target(1, targets.make_structure, targets.check_structure),
    "path": Target(2, targets.make_path, targets.check_path),
    "payload": Target(2, targets.make_payload, targets.check_payload),
    **{
        f"{kind} {what}": Target(weight, partial(make, kind), partial(check, kind))
        for kind in yrs_targets.KINDS
        for what, weight, make, check in (
            ("update", 4, yrs_targets.make_operation, yrs_targets.check_operation),
            ("state", 2, yrs_targets.make_state, yrs_targets.check_state),
        )
    },
}
NAMES: Final = tuple(TARGETS)
_BOUNDS: Final = list(itertools.accumulate(target.weight for target in TARGETS.values()))


def prepare() -> None:
    """Make the samples now, so that no case pays for them."""
    corpus()
    targets.bases()
    for kind in yrs_targets.KINDS:
        yrs_targets.histories(kind)


def case_of(seed: int, number: int) -> Case:
    """The case of that number."""
    random = Random((seed << 48) + number)
    name = NAMES[bisect.bisect(_BOUNDS, random.randrange(_BOUNDS[-1]))]
    return Case(name, *TARGETS[name].make(random))


def check(case: Case) -> Outcome:
    """Run it. Raises ViolationError, or whatever the reader raised and must not."""
    return TARGETS[case.target].check(case.data, case.context)
