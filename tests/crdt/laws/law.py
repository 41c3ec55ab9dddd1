"""Laws by name: each is a property test, and can be asked of a program that is wrong on purpose."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy

from tests.crdt.profiles import examples

Check = Callable[[Any], None]


class Law(NamedTuple):
    """What holds for every case of a strategy."""

    cases: SearchStrategy[Any]
    check: Check

    def broken(self, tries: int) -> Exception | None:
        """What the first of `tries` cases that breaks it raises; the same cases every time."""
        once = settings(
            max_examples=tries,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        )
        try:
            once(given(self.cases)(self.check))()
        except Exception as error:  # noqa: BLE001 - whatever it raises, it is broken
            return error
        return None


LAWS: Final[dict[str, Law]] = {}


def law(cases: SearchStrategy[Any], count: int = 100) -> Callable[[Check], Callable[..., None]]:
    """Make a property test of a check, and a law of its name."""

    def declare(check: Check) -> Callable[..., None]:
        assert check.__name__ not in LAWS, check.__name__
        LAWS[check.__name__] = Law(cases, check)
        return examples(count)(given(cases)(check))

    return declare
