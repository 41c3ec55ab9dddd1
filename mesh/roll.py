"""What a replica knows of who belongs to its mesh, and with which keys. No tasks, no links.

Rules of this file: the roster only grows newer, the ring only larger; both are on disk before they
have any effect. Whether a *frame* counts is never judged here, as all replicas must agree on that:
only with whom a link is held, and whose snapshot is joined.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Final

from mesh.refusals import Refusals
from persistence.certificates import ReplicaCertificate
from persistence.frame import Header
from persistence.identity import Identity
from persistence.roster import first_roster, read_roster

MAX_KEYLESS: Final = 1_024
MAX_KEYLESS_BYTES: Final = 8 << 20
"""Frames that wait for a key, at most; the oldest goes first and is brought again by repair."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
Waiting = tuple[bytes, str]


class Keyless:
    """Verified frames that are sealed with a mesh key which is not here yet, with their sources."""

    def __init__(self) -> None:
        self._frames: dict[tuple[int, int, int], tuple[int, bytes, str]] = {}
        self._bytes = 0

    def __repr__(self) -> str:
        return f"<Keyless {len(self._frames)} frames, {self._bytes} bytes>"

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def wanted(self) -> set[int]:
        """The ids of the keys that are waited for."""
        return {key_id for key_id, _, _ in self._frames.values()}

    def holds(self, shard: int, session: int, first: int) -> bool:
        """Whether this frame waits here."""
        return (shard, session, first) in self._frames

    def park(self, header: Header, raw: bytes, source: str) -> None:
        """Keep a frame until its key comes. The oldest leave where there are too many."""
        name = (header.shard, header.session, header.first)
        if name in self._frames:
            return
        self._frames[name] = (header.key_id, raw, source)
        self._bytes += len(raw)
        while len(self._frames) > MAX_KEYLESS or self._bytes > MAX_KEYLESS_BYTES:
            self._bytes -= len(self._frames.pop(next(iter(self._frames)))[1])

    def take(self, held: Iterable[int]) -> list[Waiting]:
        """The frames that need wait no longer, as these keys are here; in order of arrival."""
        keys = set(held)
        ready = [(name, one) for name, one in self._frames.items() if one[0] in keys]
        for name, (_, raw, _) in ready:
            del self._frames[name]
            self._bytes -= len(raw)
        return [(raw, source) for _, (_, raw, source) in ready]


class Roll:
    """See the module. `wall_ms` tells Unix milliseconds."""

    def __init__(self, identity: Identity, wall_ms: Callable[[], int]) -> None:
        self._identity = identity
        self._wall_ms = wall_ms
        self.blob = identity.roster
        mesh = identity.mesh
        self.roster = read_roster(mesh, self.blob) if self.blob else first_roster(mesh)
        mesh.ring.seal_with(self.roster.seals)
        self.own = identity.certified
        self.keyless = Keyless()
        self.refusals = Refusals()

    def __repr__(self) -> str:
        return f"<Roll version {self.roster.version}, keys {self.held}, {self.keyless!r}>"

    @property
    def held(self) -> tuple[int, ...]:
        """The ids of the mesh keys that are here."""
        return tuple(sorted(self._identity.mesh.keys))

    @property
    def missing(self) -> tuple[int, ...]:
        """The ids of the mesh keys that the roster names, or frames wait for, and are not here."""
        named = set(self.roster.keys) | self.keyless.wanted
        return tuple(sorted(named - set(self._identity.mesh.keys)))

    def keys(self, wanted: Iterable[int]) -> tuple[tuple[int, bytes], ...]:
        """Those of these keys that are here and in the roster. Secret."""
        held, named = self._identity.mesh.keys, self.roster.keys
        return tuple((one, held[one]) for one in wanted if one in held and one in named)

    def adopt(self, blob: bytes) -> bool:
        """Take a roster; False if it is not newer. Raises a FrameError, or StorageError."""
        roster = read_roster(self._identity.mesh, blob)
        if roster.version <= self.roster.version:
            return False
        self._identity.keep(blob, self._identity.mesh.keys)
        self.blob, self.roster = blob, roster
        self._identity.mesh.ring.seal_with(roster.seals)
        return True

    def take_key(self, key_id: int, key: bytes) -> bool:
        """Take a mesh key; False if it is here already or not the roster's. Raises StorageError."""
        mesh = self._identity.mesh
        if key_id in mesh.keys or not self.roster.holds(mesh.id, key_id, key):
            return False
        # On disk first: no frame in the journal may be sealed with a key that could get lost.
        self._identity.keep(self.blob, {**mesh.keys, key_id: key})
        mesh.ring.add(key_id, key)
        return True

    def revocation(self, certified: ReplicaCertificate) -> str:
        """Why this certificate counts no more, by the roster; "" if it does."""
        found = self.roster.revoked.get(certified.serial)
        if found is None:
            return ""
        reason = f": {found.reason}" if found.reason else ""
        return f"{certified.name} was revoked on {_date(found.at_ms)}{reason}"

    def refusal(self, certified: ReplicaCertificate) -> str:
        """Why no link is held with whoever shows this certificate; "" if one may be."""
        if reason := self.revocation(certified):
            return reason
        if certified.expires_ms <= self._wall_ms():
            return (
                f"the certificate of {certified.name} expired on {_date(certified.expires_ms)}; "
                "let it join again with a new invitation"
            )
        return ""

    def days_left(self) -> float:
        """How long this replica's own certificate still counts."""
        return (self.own.expires_ms - self._wall_ms()) / 86_400_000


def _date(ms: int) -> str:
    return (_EPOCH + timedelta(milliseconds=ms)).strftime("%Y-%m-%d %H:%M UTC")
