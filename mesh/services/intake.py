"""What becomes of frames that were read from a service."""

from __future__ import annotations

from mesh.core import Core
from mesh.ingest import Received, Reception
from mesh.services.tail import Fate, Frame


def awaited(core: Core, received: Received, shard: int) -> Frame | None:
    """The frame that was read from this shard's stream, if it has to be waited for.

    None: it is on disk, or was refused, or lies in the wrong stream, where no writer puts it.
    """
    header = received.header
    if header is None or received.reception is Reception.REFUSED or header.shard != shard:
        return None
    proven = received.reception is not Reception.UNCERTIFIED
    frame = Frame(shard, header.session, header.first, header.last, proven)
    return None if judge(core, frame) is Fate.SETTLED else frame


def judge(core: Core, frame: Frame) -> Fate:
    """What has become of a frame that was received once and not refused.

    What could not be verified is read again once it can be, even if the frame it seemed to be is
    here by then: who reads has to know what the stream really holds.
    """
    shard, session, first, last, proven = frame
    certified = proven or core.trust.get(session) is not None
    if core.settled(shard, session, last) and proven == certified:
        return Fate.SETTLED
    if not proven:
        return Fate.LOST if certified else Fate.HELD
    host = core.hosts[shard]
    if host.lattice.seen(session, last):
        return Fate.APPLIED
    if core.roll.keyless.holds(shard, session, first):
        return Fate.HELD
    return Fate.HELD if host.inbox.holds(session, first) else Fate.LOST
