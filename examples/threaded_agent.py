"""An agent with threads instead of asyncio: workers take findings from a queue and vote for them.

    python examples/threaded_agent.py agent-c 3

It works together with `asyncio_agent.py`: same documents, same ending.
"""

from __future__ import annotations

import queue
import sys
import threading

from crdt import Counter, Document, Register
from mesh import SyncReplica

WORKERS = 4


class Finding(Document):
    """What agents found, and how many agree."""

    text: Register[str]
    votes: Counter


def work(replica: SyncReplica, findings: queue.Queue[str | None]) -> None:
    """One worker: vote for what the queue says, until it says None."""
    while (name := findings.get()) is not None:
        with replica.edit(Finding, name, type="finding.voted") as finding:
            finding.votes += 1


def agent(folder: str, agents: int) -> None:
    """Work until everybody has voted for everything."""
    with SyncReplica.open(folder) as replica:
        name = replica.replica.name
        print(f"listening {replica.status()['address']}", flush=True)
        changes = replica.watch(Finding)
        with replica.edit(Finding, name) as finding:
            finding.text = f"found by {name}"
        waiting: queue.Queue[str | None] = queue.Queue(maxsize=100)
        workers = [threading.Thread(target=work, args=(replica, waiting)) for _ in range(WORKERS)]
        for worker in workers:
            worker.start()
        voted: set[str] = set()
        try:
            while not finished(replica, agents):
                for document in sorted(replica.documents(Finding).keys() - voted):
                    voted.add(document)
                    waiting.put(document.partition("/")[2])
                changes.next(timeout=1)
        finally:
            for _ in workers:
                waiting.put(None)
            for worker in workers:
                worker.join()
        for _, fields in sorted(replica.documents(Finding).items()):
            print(fields["text"], fields["votes"], flush=True)


def finished(replica: SyncReplica, agents: int) -> bool:
    """Whether every agent has voted for every finding."""
    findings = replica.documents(Finding).values()
    return len(findings) == agents and all(one["votes"] == agents for one in findings)


if __name__ == "__main__":
    agent(sys.argv[1], int(sys.argv[2]))
