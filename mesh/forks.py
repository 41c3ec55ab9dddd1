"""Noticing that a session has two histories: it signed two different frames under one name.

A name is a shard, a session and a first seq, and an honest session uses each once. Who has two
frames of one name in front of him has proof that its program lies, or that its memory and key were
copied. It is an alarm, for people to act on: nothing that the session writes is refused for it, or
replicas that hear of it at different times would differ (docs/adr/0014).

Two signs. *A twin*: a frame comes under a name that is known by another hash. *A break*: a frame
does not follow the one before it that is here. Accused is only whose two signed frames were here:
what a snapshot says of hashes is its giver's word.

What is known: hashes of the last `MAX_KNOWN_FRAMES` frames that were met, or that a start read in
the journal. A twin of a frame before that is not noticed; nor is one that came in a snapshot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from mesh.health import IDENTITY, Health
from mesh.refusals import Refusals
from mesh.roll import Roll
from mesh.shards import ShardHost
from persistence.base import Journal, Probe
from persistence.certificates import SessionInfo, Trust
from persistence.frame import Header, frame_hash
from persistence.journal import Names
from persistence.sealing import VerifiedFrame

MAX_REPLICAS = 16
"""Of so many two frames are kept and a session is named in `health()`; of others it is counted."""
MAX_KEPT_BYTES = 16 << 20
"""What these frames may take. Whose frames find no room is named all the same."""
REMARK = "forks"
TWIN = "another frame of this name is here"
BREAK = "does not follow the frame before it"


@dataclass(slots=True)
class Fork:
    """A session with two histories, and whose it is. `header` is that of `frame`, which gave it
    away; `held` is the frame that was here before: its twin, or the one that it does not follow.
    Each is its author's own bytes and verifies alone; empty: there was no room for it, or it is
    gone.

    `proven`: the session signed both. `awaits`: `held` is still to be looked up.
    """

    author: SessionInfo
    reason: str
    header: Header = field(repr=False)
    frame: bytes = field(repr=False)
    held: bytes = field(default=b"", repr=False)
    proven: bool = False
    awaits: bool = True

    @property
    def seq(self) -> int:
        """A seq of the frame that was here before."""
        return self.header.first - (self.reason == BREAK)

    def differs(self, held: bytes) -> bool:
        """Whether this frame and the one that gave it away can't be of one history."""
        mine = self.header.previous if self.reason == BREAK else frame_hash(self.frame)
        return frame_hash(held) != mine


class Forks:
    """See the module. `names`: {name: hash} of frames that are known; it grows here."""

    def __init__(
        self, names: Names, trust: Trust, roll: Roll, health: Health, probe: Probe
    ) -> None:
        self._names = names
        self._trust = trust
        self._roll = roll
        self._health = health
        self._probe = probe
        self._counts = Refusals()
        self.found: dict[str, Fork] = {}
        """{replica: what was found of it first}"""

    def __repr__(self) -> str:
        return f"<Forks {self.found}>"

    def wrote(self, name: tuple[int, int, int], digest: bytes) -> None:
        """An own frame of this (shard, session, first) was sealed."""
        self._names.put(name, digest)

    def meet(self, frame: VerifiedFrame, raw: bytes, source: str) -> None:
        """A verified frame came, for the first time or again. Costs a look-up."""
        header, digest = frame.header, frame.frame.hash
        name = header.shard, header.session, header.first
        held = self._names.peek(name)
        if held is None:
            self._names.put(name, digest)
        elif held != digest:
            self._alarm(TWIN, header, raw, source)

    def broken(self, header: Header, raw: bytes, source: str) -> None:
        """A verified frame does not follow the frame before it that is here."""
        self._alarm(BREAK, header, raw, source)

    async def prove(self, journal: Journal, hosts: Sequence[ShardHost]) -> None:
        """Look up what was here before, once it is on disk; and name whoever is to be named.

        Raises StorageError: try again.
        """
        for fork in list(self.found.values()):
            shard, session, seq = fork.header.shard, fork.header.session, fork.seq
            if not fork.awaits or hosts[shard].journaled.get(session, 0) < seq:
                continue
            records = await journal.frames(shard, session, seq - 1, seq, 1)
            fork.awaits = False
            held = records[0].data if records else b""
            if held and fork.differs(held):
                fork.proven = True
                fork.held = held if self._fits(held) else b""
        if self.found:
            self._judge()

    def _alarm(self, reason: str, header: Header, raw: bytes, source: str) -> None:
        author = self._trust.get(header.session)
        if author is None:
            return  # forgotten in this very moment; it comes again with its certificate
        self._probe.event(
            "frame.forked", peer=source, replica=author.replica, shard=header.shard,
            session=header.session, first=header.first, reason=reason,
            count=self._counts.add(str(header.session), ""),
        )  # fmt: skip
        fork = Fork(author, reason, header, raw, proven=reason == TWIN)
        known = self.found.get(author.replica)
        if known is None:
            if len(self.found) >= MAX_REPLICAS:
                return
        elif not self._roll.revocation(known.author.certified) and (
            known.proven or known.awaits or not fork.proven
        ):
            return
        self.found.pop(author.replica, None)
        if not self._fits(raw):
            fork.frame, fork.awaits = b"", False
        self.found[author.replica] = fork
        self._judge()

    def _fits(self, frame: bytes) -> bool:
        """Whether there is room for one more frame."""
        kept = sum(len(fork.frame) + len(fork.held) for fork in self.found.values())
        return kept + len(frame) <= MAX_KEPT_BYTES

    def _judge(self) -> None:
        """Name in `health()` who is proven to have two histories, until it is revoked."""
        named = ", ".join(
            f"{replica} (session {fork.header.session})"
            for replica, fork in sorted(self.found.items())
            if fork.proven and not self._roll.revocation(fork.author.certified)
        )
        self._health.remark(
            IDENTITY, REMARK, f"two frames under one name were signed by {named}" if named else "",
            "its program lies, or its memory and key were copied: revoke that replica (`mesh "
            "revoke`) and have it join anew in an empty folder; all others agree meanwhile",
        )  # fmt: skip
