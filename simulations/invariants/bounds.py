"""How much a replica holds of what waits, beside the bound it declares for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from mesh.core import inbox_bounds
from mesh.dissemination import MAX_CONTROL_BYTES, MAX_CONTROL_MESSAGES, SendQueue
from mesh.inbox import Inbox
from mesh.replica import Replica
from persistence.limits import MAX_BODY_BYTES, MAX_FRAME_BYTES

__all__ = ("Holding", "holdings", "of_inbox", "of_queue")


class Holding(NamedTuple):
    """So much of something there is, and so much there may be."""

    what: str
    size: int
    bound: int


def holdings(replica: Replica) -> Iterator[Holding]:
    """What waits in a replica that is started, where anything does."""
    life = replica._started()
    core = life.core
    bounds = inbox_bounds(core.settings, len(core.hosts))
    for host in core.hosts:
        if host.inbox.frames or host.inbox._waiting or host.inbox._ready:
            yield from of_inbox(f"inbox of shard {host.index}", host.inbox, *bounds)
    for name, link in life.exchange.links.items():
        if link.queue.bytes:
            buffer = core.settings.peers.send_buffer_bytes
            yield from of_queue(f"queue to {name}", link.queue, buffer)
    # Whoever comes while there is room is taken whole: one transaction, or one frame.
    most = core.settings.replica.owed_bytes_max + MAX_BODY_BYTES
    yield Holding("bytes owed to the journal", life.committer.owed, most)


def of_inbox(what: str, inbox: Inbox, frames: int, size: int) -> Iterator[Holding]:
    """Counted anew, and what the inbox says of itself. One more may be ready: it needs no room."""
    held = [one for some in inbox._waiting.values() for one in some.values()]
    held.extend(inbox._ready)
    yield Holding(f"frames in the {what}", max(len(held), inbox.frames), frames + 1)
    weight = sum(one.weight for one in held)
    yield Holding(f"bytes in the {what}", max(weight, inbox.bytes), size + MAX_FRAME_BYTES)


def of_queue(what: str, queue: SendQueue, buffer: int) -> Iterator[Holding]:
    """Frames on request come on top, one by one while it is half empty."""
    control, control_bytes = queue._control, queue._control_bytes
    yield Holding(f"bytes of frames in the {what}", queue.bytes - control_bytes,
                  4 * buffer + MAX_FRAME_BYTES)  # fmt: skip
    yield Holding(f"messages in the {what}", control, MAX_CONTROL_MESSAGES)
    yield Holding(f"bytes of messages in the {what}", control_bytes, MAX_CONTROL_BYTES)
