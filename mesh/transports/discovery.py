"""Where peers might be: the addresses the settings name."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ("StaticSeeds",)


class StaticSeeds:
    """`mesh.environment.Discovery` over a fixed list, in its order, each address once."""

    def __init__(self, seeds: Iterable[str]) -> None:
        self._seeds = list(dict.fromkeys(seeds))

    def addresses(self) -> list[str]:
        """All of them, always."""
        return list(self._seeds)

    def __repr__(self) -> str:
        return f"StaticSeeds({self._seeds})"
