"""What it costs to bring a replica up to date: about what it lacks, not all that there is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mesh.repair import FEW_OPERATIONS
from persistence.base import FrameRecord
from simulations.checkers import Evidence
from simulations.invariants.base import Checker

if TYPE_CHECKING:
    from simulations.world import Host, World

__all__ = ("ResyncBound",)

TIMES = 2
"""How often a replica may be sent what it lacks, on the whole. It asks one peer at a time for it,
and another where the link breaks or the answer is late."""
SPARE_BYTES = 8_192
"""Of a few frames that is more than chance: some come by themselves while they are asked for."""


class ResyncBound(Checker):
    """Peers send a replica that lacks something frames of `TIMES` the size of what it lacks, on the
    whole, and `SPARE_BYTES`. Whole shards are free where frames can't help: the peer no longer has
    all of them, or they are too many, or the same operations made another state. Else they count.

    Judged by what was on any disk, not by what replicas say to lack or have.
    """

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._frames: dict[int, dict[tuple[int, int], FrameRecord]] = {}
        self._lacked: dict[str, dict[tuple[int, int, int], int]] = {}
        self._given: Counter[str] = Counter()
        self._needless: set[tuple[str, str, int]] = set()
        self._corrupt: set[tuple[str, str, int]] = set()

    def journaled(self, host: Host, frames: Sequence[FrameRecord]) -> None:
        """See `Checker.journaled`."""
        del host
        for frame in frames:
            self._frames.setdefault(frame.shard, {})[frame.session, frame.first] = frame

    def event(self, host: str, kind: str, fields: Mapping[str, object]) -> None:
        """See `Checker.event`."""
        if kind == "repair.asked":
            self._asks(host, int(str(fields["shard"])))
        elif kind == "repair.snapshot" and not fields["parts"]:
            self._asks_whole(host, str(fields["peer"]), int(str(fields["shard"])))
        elif kind == "digest.mismatch":
            self._corrupt.add((self._replica(host), str(fields["peer"]), int(str(fields["shard"]))))
        elif kind == "repair.served":
            peer = str(fields["peer"])
            whole = peer, self._replica(host), int(str(fields["shard"]))
            if "parts" not in fields or whole in self._needless:
                self._given[peer] += int(str(fields["bytes"]))

    def _replica(self, host: str) -> str:
        """What peers call who runs there: a clone is called as its original is."""
        return self.world.machine(host).identity.replica

    def _asks(self, host: str, shard: int) -> list[FrameRecord]:
        """The frames of a shard that somebody who asks for some lacks."""
        run = self.world.machine(host).run
        assert run is not None, f"{host} asks, and is down"
        have = run.replica._started().core.hosts[shard].lattice
        lacked = self._lacked.setdefault(self._replica(host), {})
        lacking = [
            frame
            for frame in self._frames.get(shard, {}).values()
            if not have.seen(frame.session, frame.last)
        ]
        for frame in lacking:
            lacked[shard, frame.session, frame.first] = len(frame.data)
        return lacking

    def _asks_whole(self, host: str, peer: str, shard: int) -> None:
        lacking = self._asks(host, shard)
        key = self._replica(host), peer, shard
        corrupt = key in self._corrupt
        self._corrupt.discard(key)
        if corrupt or not self._frames_would_do(self.world.machine(peer), shard, lacking):
            self._needless.discard(key)
        else:
            self._needless.add(key)

    def _frames_would_do(self, giver: Host, shard: int, lacking: Sequence[FrameRecord]) -> bool:
        if giver.replica is None:  # it closes
            return False
        had = giver.replica.journaled()[shard]
        wanted = [one for one in lacking if had.get(one.session, 0) >= one.last]
        there = {(one.session, one.first) for one in giver.disk.frames() if one.shard == shard}
        operations = sum(one.last - one.first + 1 for one in wanted)
        return operations <= FEW_OPERATIONS and all(
            (one.session, one.first) in there for one in wanted
        )

    def end(self, found: Sequence[Evidence]) -> None:
        """See `Checker.end`."""
        del found
        for replica, given in self._given.items():
            lacked = sum(self._lacked.get(replica, {}).values())
            if given > TIMES * lacked + SPARE_BYTES:
                self.wrong(
                    f"{replica} lacked {lacked} bytes of frames, and peers sent it {given} for "
                    f"that, more than {TIMES} times as many and {SPARE_BYTES}"
                )
