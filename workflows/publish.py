"""A coordinator's decision on its way into the mesh: an ordinary transaction with the decision's
epoch.

    decided = await coordinator.fire("module-audit", "json.decoder", "claim", actor=me, request=id)
    publish(replica, Task, "json.decoder", "decision", decided)

Any replica may publish any decision, in any order and any number of times: the highest epoch stays.
If the publisher dies before its write is out, the same request fired again gives the same decision.
"""

from __future__ import annotations

from typing import Any

from crdt import Document
from crdt.errors import SchemaError
from crdt.types.decided import DecidedEditor
from mesh.environment import Transition
from mesh.replica import Replica
from workflows.claims import token_of
from workflows.machine import TOKEN

__all__ = ("DECIDED", "decision_value", "publish")

DECIDED = "machine.decided"
"""The type of the transactions that carry decisions."""


def publish(
    replica: Replica,
    cls: type[Document],
    id: str,
    field: str,
    transition: Transition,
) -> bool:
    """Write a decision into the Decided field of a document; False if it holds this epoch or a
    later one.

    Returns once it is in memory; `replica.flush` says when it is safe. Raises SchemaError if the
    field is no Decided, and what `replica.edit` raises.
    """
    with replica.edit(cls, id, type=DECIDED) as document:
        editor = getattr(document, field)
        if not isinstance(editor, DecidedEditor):
            raise SchemaError(
                f"{cls.__name__}.{field} can't take a decision; declare it Decided[dict[str, Any]]"
            )
        return editor.decide(transition.epoch, decision_value(transition))


def decision_value(transition: Transition) -> dict[str, Any]:
    """What a document keeps of a decision, besides its epoch."""
    data = {key: value for key, value in transition.data.items() if key != TOKEN}
    return {
        "machine": transition.machine,
        "state": transition.target,
        "owner": transition.owner,
        TOKEN: token_of(transition),
        "event": transition.event,
        "source": transition.source,
        "data": data,
    }
