"""Where peers might be: what the settings name, what others told, who answers on the local network.

Every source gives hints only: the handshake of the transport decides who is there. Nothing here
gets through address translation (NAT): a replica must be reachable at the address it listens on, or
at `peers.advertise`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from mesh.dissemination import chosen
from mesh.environment import Discovery

__all__ = ("ADDRESSES_MAX", "Combined", "Learned", "Some", "StaticSeeds")

ADDRESSES_MAX = 1_000
"""Hints that any source holds, and all of them together give."""


class StaticSeeds:
    """`mesh.environment.Discovery` over a fixed list, in its order, each address once."""

    def __init__(self, seeds: Iterable[str]) -> None:
        self._seeds = list(dict.fromkeys(seeds))

    def addresses(self) -> list[str]:
        """All of them, always."""
        return list(self._seeds)

    def __repr__(self) -> str:
        return f"StaticSeeds({self._seeds})"


class Learned:
    """`mesh.environment.LearningDiscovery`: addresses that were told, until they expire.

    `now` gives seconds.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._until = 0.0
        self._addresses: list[str] = []

    def learn(self, addresses: Sequence[str], for_s: float) -> None:
        """See `LearningDiscovery.learn`."""
        self._addresses = list(dict.fromkeys(addresses))[:ADDRESSES_MAX]
        self._until = self._now() + for_s

    def addresses(self) -> list[str]:
        """Those that still count, in the order they were told in."""
        return list(self._addresses) if self._now() < self._until else []

    def __repr__(self) -> str:
        return f"Learned({self.addresses()})"


class Some:
    """`mesh.environment.Discovery` over one that may name everybody: `count` of its addresses,
    other ones for each replica.
    """

    def __init__(self, source: Discovery, own: str, count: int) -> None:
        self._source = source
        self._own = own
        self._count = count

    def addresses(self) -> list[str]:
        """Those to dial, of the ones there are now."""
        return chosen(self._own, self._source.addresses(), self._count)

    def __repr__(self) -> str:
        return f"Some({self._count} of {self._source!r})"


class Combined:
    """`mesh.environment.LearningDiscovery` over several: their addresses one after the other, each
    once. What is learnt goes to `learned`, which comes behind what the settings name.
    """

    def __init__(self, seeds: Discovery, learned: Learned, *others: Discovery) -> None:
        self._learned = learned
        self._sources = (seeds, learned, *others)

    def learn(self, addresses: Sequence[str], for_s: float) -> None:
        """See `LearningDiscovery.learn`."""
        self._learned.learn(addresses, for_s)

    def addresses(self) -> list[str]:
        """The first `ADDRESSES_MAX` of all."""
        found = (address for source in self._sources for address in source.addresses())
        return list(dict.fromkeys(found))[:ADDRESSES_MAX]

    def __repr__(self) -> str:
        return f"Combined{self._sources}"
