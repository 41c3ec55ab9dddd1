"""Noticing that a replica runs twice: its folder was copied, and both copies are open.

Each copy has a session of its own, so no dot is ever given twice and nothing is lost; but the two
answer to one name, so that links, acknowledgements and durability levels count one for the other.
It is an alarm, for people to end. Pure.

Two proofs. *Beside us*: a peer shows a session of our own name that is not ours, while the lock on
our folder says that no process of ours is left but this one. *Elsewhere*: sessions of one name
relieve each other again and again. A restart never goes back to the session before it; a greeting
that lay unread while its sender died comes once, and two returns need somebody alive.
"""

from __future__ import annotations

from collections import OrderedDict

from mesh.health import IDENTITY, Health
from persistence.base import Probe

MAX_NAMES = 4_096
MAX_SESSIONS = 64
RETURNS = 2
"""How often a session must have come back after another of its name."""
REMARK = "clone"


class Clones:
    """What is known of names with several sessions. `own`: this replica's name."""

    def __init__(self, own: str, health: Health, probe: Probe) -> None:
        self._own = own
        self._health = health
        self._probe = probe
        self._latest: OrderedDict[str, tuple[int, OrderedDict[int, int]]] = OrderedDict()
        self.found: dict[str, int] = {}
        """{name: how often it was noticed}, of replicas that run more than once."""

    def __repr__(self) -> str:
        return f"<Clones {self.found}>"

    def beside(self, session: int, address: str) -> None:
        """A certified session of our own name, and not ours, greets us from there."""
        self._alarm(self._own, session, f"at {address}")

    def linked(self, name: str, session: int) -> None:
        """A session of another replica is linked now, and whatever was before it is not."""
        latest, returns = self._latest.pop(name, (session, OrderedDict()))
        self._latest[name] = session, returns
        if len(self._latest) > MAX_NAMES:
            self._latest.popitem(last=False)
        if session == latest:
            return
        returns.setdefault(latest, 0)
        if session in returns:
            returns[session] += 1
            if returns[session] >= RETURNS:
                self._alarm(name, session, f"and as session {latest}, by turns")
        if len(returns) > MAX_SESSIONS:
            returns.popitem(last=False)

    def _alarm(self, name: str, session: int, where: str) -> None:
        count = self.found[name] = self.found.get(name, 0) + 1
        self._probe.event("identity.cloned", replica=name, session=session, count=count)
        names = ", ".join(sorted(self.found))
        detail = f": {name} runs as session {session} {where}" if len(self.found) == 1 else ""
        self._health.remark(
            IDENTITY, REMARK, f"running more than once: {names}{detail}",
            "its folder was copied and both copies are open: stop one of them, and give it a name "
            "of its own with `mesh join` in an empty folder",
        )  # fmt: skip
