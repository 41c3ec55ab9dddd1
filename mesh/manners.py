"""Peers that ask for too much, do not read, or say nothing: slowed down, let go, and named.

What is measured is each link's; here it comes together by the peer's name, so that a new link makes
nothing undone. Who is named in `health()["peers"]`, and for how long:

- whose frames were left out of a full queue, or who has not taken a message for long: while so;
- who is read more slowly, or whose link ended by its own fault: for a while after the last time.

Rules of this file: synchronous; names are bounded, what is remembered as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from mesh.budget import Account
from mesh.core import Core
from mesh.environment import PeerRefused
from mesh.health import PEERS
from mesh.links import PeerLink
from mesh.refusals import Refusals

MAX_NOTES: Final = 1_024
"""Peers remembered; the one noted longest ago is forgotten first."""
MAX_NAMED: Final = 8
"""Peers named in one remark; of the others only how many there are."""
CURE: Final = (
    "look at the load, the network and the program of those replicas; they catch up by themselves. "
    "Revoke one that means it"
)


class _Note(NamedTuple):
    """What a peer did, until when that is said, and until when it gets no link."""

    what: str
    until: float
    barred_until: float


class Manners:
    """See the module. `links`: the one link to each peer."""

    def __init__(self, core: Core, links: Mapping[str, PeerLink]) -> None:
        self._core = core
        self._links = links
        self._accounts: dict[str, Account] = {}
        self._notes: dict[str, _Note] = {}
        self._counts = Refusals()
        self._named: list[str] = []

    def __repr__(self) -> str:
        return f"<Manners of {sorted(self._notes)}>"

    def admit(self, link: PeerLink) -> None:
        """A link is greeted. Raises PeerRefused while its peer gets none."""
        now = self._core.now()
        note = self._notes.get(link.name)
        if note is not None and now < note.barred_until:
            raise PeerRefused(
                f"{link.name} {note.what}; it may come back in {note.barred_until - now:.0f} s"
            )
        link.account = self._accounts.setdefault(link.name, link.account)

    def limited(self, link: PeerLink) -> None:
        """The peer has used up what it may make us do, and is not read from for a moment."""
        core, now, times = self._core, self._core.now(), link.times
        before = self._notes.get(link.name)
        over = link.account.calls.over_for(now)
        if over >= times.patience:
            what = f"asked for more than it may for {over:.0f} s"
            self._note(link, what, barred_s=times.barred)
            count = self._counts.add(link.name, "barred")
            core.probe.event("link.barred", peer=link.name, seconds=times.barred, count=count)
            link.end(f"it {what}")
            return
        what = "asks for more than it may and is read more slowly"
        self._note(link, what)
        if before is None or before.what != what:
            count = self._counts.add(link.name, "limited")
            core.probe.event("link.limited", peer=link.name, count=count)

    def ended(self, link: PeerLink) -> None:
        """A link that was up ended."""
        waited = link.untaken_for(self._core.now())
        if link.fault:
            self._note(link, link.fault)
        elif waited >= link.times.dead:
            self._note(link, f"took nothing for {waited:.0f} s")

    def judge(self) -> None:
        """Forget what is long ago, and say the rest in `health()`."""
        now = self._core.now()
        if self._notes:
            self._notes = {name: note for name, note in self._notes.items() if now < note.until}
        if len(self._accounts) > len(self._links):
            self._accounts = {
                name: account
                for name, account in self._accounts.items()
                if name in self._links or not account.is_full(now)
            }
        said = {name: note.what for name, note in self._notes.items()}
        for name, link in self._links.items():
            if (waited := link.untaken_for(now)) >= link.times.dead:
                said[name] = f"has not taken a message for {waited:.0f} s"
            elif link.queue.behind:
                said.setdefault(name, "reads more slowly than it is sent to; it will be repaired")
        if said or self._named:
            self._named = [f"{name} {said[name]}" for name in sorted(said)[:MAX_NAMED]]
            if len(said) > MAX_NAMED:
                self._named.append(f"and {len(said) - MAX_NAMED} more")
            self._core.health.remark(PEERS, "manners", ", ".join(self._named), CURE)

    def _note(self, link: PeerLink, what: str, barred_s: float = 0.0) -> None:
        """Remember what the peer did last."""
        now = self._core.now()
        before = self._notes.pop(link.name, None)
        barred_until = max(now + barred_s, 0.0 if before is None else before.barred_until)
        until = max(now + link.times.named, barred_until)
        self._notes[link.name] = _Note(what, until, barred_until)
        if len(self._notes) > MAX_NOTES:
            del self._notes[next(iter(self._notes))]
