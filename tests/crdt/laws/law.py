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
    tries: int

    def hold(self) -> None:
        """Try it on as many cases as the profile says."""
        examples(self.tries)(given(self.cases)(self.check))()

    def broken(self, tries: int) -> AssertionError | None:
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
        except AssertionError as error:
            return error
        return None


LAWS: Final[dict[str, Law]] = {}


def new_law(name: str, cases: SearchStrategy[Any], check: Check, count: int = 100) -> Law:
    """Make a law of a check and enter it under its name."""
    assert name not in LAWS, name
    LAWS[name] = Law(cases, check, count)
    return LAWS[name]


def law(cases: SearchStrategy[Any], count: int = 150) -> Callable[[Check], Callable[..., None]]:
    """Make a law of a test's body, under the test's name."""

    def declare(check: Check) -> Callable[..., None]:
        new_law(check.__name__.removeprefix("test_").replace("_", " "), cases, check, count)
        return examples(count)(given(cases)(check))

    return declare
