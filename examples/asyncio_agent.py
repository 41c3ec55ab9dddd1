"""An asyncio agent: it adds a finding, and votes once for every finding there is.

    python examples/asyncio_agent.py agent-a 2
    STATEMESH_PEERS__SEEDS=127.0.0.1:PORT python examples/asyncio_agent.py agent-b 2

Its first line says where it listens. It ends when there are as many findings as it was told, and
each has as many votes; whatever order the agents start in.
"""

from __future__ import annotations

import asyncio
import sys

from crdt import Counter, Document, Register
from mesh import Replica


class Finding(Document):
    """What agents found, and how many agree."""

    text: Register[str]
    votes: Counter


async def agent(folder: str, agents: int) -> None:
    """Work until everybody has voted for everything."""
    async with Replica.open(folder) as replica:
        print(f"listening {replica.address}", flush=True)
        changes = replica.watch(Finding)  # before the first look, so that nothing is missed
        with replica.edit(Finding, replica.name) as finding:
            finding.text = f"found by {replica.name}"
        voted: set[str] = set()
        while not finished(replica, agents):
            # Not inside the iteration: an edit changes what is iterated over.
            for name in [finding.id.partition("/")[2] for finding in replica.documents(Finding)]:
                if name not in voted:
                    voted.add(name)
                    with replica.edit(Finding, name, type="finding.voted") as finding:
                        finding.votes += 1
            if not finished(replica, agents):
                await anext(changes)
        # close() gives linked peers the time to take what they lack; then the votes are theirs.
        for finding in sorted(replica.documents(Finding), key=lambda each: each.id):
            print(finding.text, finding.votes, flush=True)


def finished(replica: Replica, agents: int) -> bool:
    """Whether every agent has voted for every finding."""
    findings = list(replica.documents(Finding))
    return len(findings) == agents and all(finding.votes == agents for finding in findings)


if __name__ == "__main__":
    asyncio.run(agent(sys.argv[1], int(sys.argv[2])))
