"""How to be wrong on purpose for a while: variants by name, each with the law that tells."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Final, NamedTuple
from unittest.mock import patch

from tests.crdt.laws.law import LAWS

TRIES: Final = 600
"""On how many cases a law is tried; the same ones each time."""

Plant = Callable[[], AbstractContextManager[Any]]


class Variant(NamedTuple):
    """How to plant a mistake for a while, and the law that it breaks."""

    plant: Plant
    law: str

    def caught(self) -> AssertionError | None:
        """What the law has to say of it; None: it did not notice."""
        with self.plant():
            return LAWS[self.law].broken(TRIES)


VARIANTS: Final[dict[str, Variant]] = {}


def breaks(law: str) -> Callable[[Plant], Plant]:
    """Enter a variant under its function's name."""

    def enter(plant: Plant) -> Plant:
        VARIANTS[plant.__name__.replace("_", " ")] = Variant(plant, law)
        return plant

    return enter


def instead(where: Any, name: str, wrong: Callable[..., Any]) -> AbstractContextManager[Any]:
    """A function in another's place; `wrong` takes the right one first."""
    right = getattr(where, name)

    def planted(*arguments: Any, **named: Any) -> Any:
        return wrong(right, *arguments, **named)

    return patch.object(where, name, planted)


def without(where: Any, name: str, result: Any = None) -> AbstractContextManager[Any]:
    """A function that does nothing."""
    return instead(where, name, lambda *_, **__: result)
