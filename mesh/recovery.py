"""Starting: the state from the journal, and a session that was never used before."""

from __future__ import annotations

from mesh.core import CLOSED_META, Core, inbox_bounds, read_closed
from mesh.environment import Environment
from mesh.health import JOURNAL
from mesh.settings import Settings
from mesh.shards import ShardHost
from mesh.subscription import Subscribe, Subscription
from persistence.base import REBUILT
from persistence.certificates import SessionKey, Trust
from persistence.identity import Identity
from persistence.journal import Recovered, recover_journal
from persistence.sealing import Opener


async def open_core(
    settings: Settings,
    environment: Environment,
    identity: Identity,
    subscribe: Subscribe = (),
) -> tuple[Core, int]:
    """The core of a new session, and the journal position it goes on from.

    Raises StorageError if the journal can't be read or holds what it must not, CallerError for a
    subscription to what does not exist.
    """
    subscription = Subscription(subscribe, identity.mesh.shards)
    opener = Opener(identity.mesh, Trust(identity.mesh))
    recovered = await recover_journal(
        environment.journal, opener, gc_freeze=settings.replica.gc_freeze
    )
    environment.probe.event("journal.read", frames=recovered.frames, voids=recovered.voids)
    key = _fresh_session(environment, identity, recovered)
    opener.trust.keep(opener.trust.learn(key.certificate).session)
    frames, size = inbox_bounds(settings, identity.mesh.shards)
    hosts = []
    for index in range(identity.mesh.shards):
        host = ShardHost(
            index, key.session, recovered.shards[index],
            frame_bytes=settings.replica.flush_bytes, inbox_frames=frames, inbox_bytes=size,
        )  # fmt: skip
        host.chain.update(recovered.chain[index])
        # Frames that a snapshot contains may be there still: they were owed to somebody.
        host.kept_for_peers = bool(host.lattice.frontier)
        hosts.append(host)
    core = Core(settings, environment, identity, key, opener, hosts, subscription, recovered.names)
    # What this replica will write comes after all that it has; too far ahead: as when it came.
    core.clock.observe(recovered.stamp)
    meta = await environment.journal.meta()
    core.closed = read_closed(meta.get(CLOSED_META, b""))
    if note := meta.get(REBUILT):
        core.health.remark(
            JOURNAL, REBUILT, note.decode(errors="replace"),
            "what is missing comes from the others; delete journal.damaged-* in the folder when "
            "you need them no more",
        )  # fmt: skip
    for header in recovered.closes:
        core.note_close(header)
    # Frames may all have been pruned: then the snapshots remember the newest position.
    return core, max([recovered.position, *recovered.snapshots.values()])


def _fresh_session(
    environment: Environment, identity: Identity, recovered: Recovered
) -> SessionKey:
    """Drawn again should it ever have been seen: one session in 2^42 of a week's."""
    floor = max(shard.floor for shard in recovered.shards.values())
    known = {one for shard in recovered.shards.values() for one in shard.frontier}
    while True:
        key = identity.new_session(environment.clock, environment.entropy, floor)
        if key.session and key.session not in known:
            return key
