"""Who has two histories of a session in front of him must say so."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mesh.forks import BREAK, TWIN
from mesh.health import IDENTITY
from mesh.ingest import Ingest, Received
from mesh.services.log import UNPROVEN
from persistence.base import FrameRecord
from persistence.frame import Header, frame_hash, parse_frame
from simulations.checkers import Evidence
from simulations.invariants.base import Checker

if TYPE_CHECKING:
    from simulations.world import Host, World

__all__ = ("LiesNamed", "overheard")

Hearing = Callable[[str, int, Header, bytes], None]
"""(host, session that runs there, a verified frame's header, the frame)"""


@contextmanager
def overheard(hearing: Sequence[Hearing]) -> Iterator[None]:
    """Meanwhile these hear of every verified frame that comes to a replica, whatever way it comes
    and whatever becomes of it.
    """
    real = Ingest.frame

    def frame(self: Ingest, raw: bytes, source: str) -> Received:
        received = real(self, raw, source)
        if received.header is not None and received.reception not in UNPROVEN:
            for hear in hearing:
                hear(self._core.probe._name, self._core.session, received.header, raw)  # type: ignore[attr-defined]
        return received

    if hearing:
        Ingest.frame = frame  # type: ignore[method-assign]
    try:
        yield
    finally:
        Ingest.frame = real  # type: ignore[method-assign]


class LiesNamed(Checker):
    """Who has two histories of a session in front of him says so: two frames of one name that came
    to one run of a replica, or a frame that does not follow the one before it on a disk. It is an
    alarm at once, and in the end health names whoever signed both.
    """

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._liars: dict[int, str] = {}
        self._last: dict[tuple[str, int, int], tuple[int, bytes]] = {}
        self._named: set[tuple[str, str, int, int, int]] = set()
        self._heard: dict[tuple[str, int], dict[tuple[int, int, int], bytes]] = {}
        self._proven: dict[tuple[str, int], dict[str, None]] = {}

    def event(self, host: str, kind: str, fields: Mapping[str, object]) -> None:
        """See `Checker.event`."""
        if kind == "equivocated":
            self._liars[int(str(fields["session"]))] = host
        elif kind == "frame.forked" and "first" in fields:
            shard, session, first = (int(str(fields[one])) for one in ("shard", "session", "first"))
            self._named.add((str(fields["reason"]), host, shard, session, first))

    def heard(self, host: str, run: int, header: Header, raw: bytes) -> None:
        """A verified frame came to this run of the host's replica. See `overheard`."""
        if not self.world.trace.open:
            return
        name = header.shard, header.session, header.first
        known = self._heard.setdefault((host, run), {}).setdefault(name, raw)
        if known is raw or known == raw or frame_hash(known) == frame_hash(raw):
            return
        if (liar := self._liars.get(header.session)) is not None:
            self._proven.setdefault((host, run), {})[liar] = None
        if (TWIN, host, *name) not in self._named:
            self.wrong(
                f"{host} was sent two frames of session {header.session} in shard {header.shard} "
                f"that begin with seq {header.first}, and did not say so"
            )

    def journaled(self, host: Host, frames: Sequence[FrameRecord]) -> None:
        """See `Checker.journaled`."""
        mesh = self.world.authority.mesh
        for frame in frames if self._liars else ():
            if frame.session not in self._liars:
                continue
            where = host.name, frame.shard, frame.session
            last, digest = self._last.get(where, (0, b""))
            previous = parse_frame(frame.data, mesh.id, mesh.shards).header.previous
            forked = last == frame.first - 1 and digest not in (b"", previous)
            if forked and (BREAK, *where, frame.first) not in self._named:
                self.wrong(
                    f"{host.name} took seq {frame.first} of session {frame.session} in shard "
                    f"{frame.shard}, which does not follow what it has, and did not say so"
                )
            self._last[where] = frame.last, frame_hash(frame.data)

    def end(self, found: Sequence[Evidence]) -> None:
        """See `Checker.end`."""
        del found
        for host in self.world.up:
            assert host.replica is not None
            said = host.replica.health()[IDENTITY].reason
            for liar in self._proven.get((host.name, host.replica.session), ()):
                if f"{liar} (session " not in said:
                    self.wrong(f"{host.name} has proof against {liar}; its health says {said!r}")
