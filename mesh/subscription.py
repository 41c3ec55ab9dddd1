"""What of the mesh a replica holds: `Replica.open(path, subscribe=[Task, "Note", 3])`.

Rules of this file: pure.

Types and shards narrow independently. *Shards* (numbers) are what is really replicated: of other
shards nothing is asked for, taken in, kept or told. *Types* (classes or names) are a promise about
use: a shard holds documents of all types, so they save no traffic; reading, editing or watching
another type is refused. Nothing given: everything is held.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from crdt.document import Document, schema_of
from crdt.errors import CallerError
from crdt.ids import shard_of

Subscribe: TypeAlias = Iterable["type[Document] | str | int"]


class NotSubscribed(CallerError):
    """A document that this replica was told not to hold. Nothing was read or written; the cure is
    to open it with that type or shard in `subscribe`, or with none.
    """


class Subscription:
    """What one replica holds. `types` are names, None: all; `shards` are numbers, None: all."""

    def __init__(self, subscribe: Subscribe, shards: int) -> None:
        """Raises CallerError for what is no type, no name and no shard of the mesh."""
        types: set[str] = set()
        held: set[int] = set()
        for one in subscribe:
            if isinstance(one, bool) or not isinstance(one, int | str | type):
                raise CallerError(f"subscribe names {one!r}: give document types or shard numbers")
            if isinstance(one, int):
                if not 0 <= one < shards:
                    raise CallerError(
                        f"subscribe names shard {one}; this mesh has 0 to {shards - 1}"
                    )
                held.add(one)
            elif isinstance(one, str):
                if not one or "/" in one:
                    raise CallerError(f"subscribe names {one!r}, which is no document type's name")
                types.add(one)
            else:
                types.add(schema_of(one).type_name)
        self.total = shards
        self.types = frozenset(types) if types else None
        self.shards = frozenset(held) if held else None

    def __repr__(self) -> str:
        types = "all types" if self.types is None else f"types {sorted(self.types)}"
        shards = "all shards" if self.shards is None else f"shards {sorted(self.shards)}"
        return f"<Subscription to {types} in {shards}>"

    @property
    def whole(self) -> bool:
        """Whether nothing is left out."""
        return self.types is None and self.shards is None

    def holds(self, shard: int) -> bool:
        """Whether the shard is replicated here."""
        return self.shards is None or shard in self.shards

    def wants(self, document: str) -> bool:
        """Whether the document's type is subscribed to."""
        return self.types is None or document.partition("/")[0] in self.types

    def check_type(self, type_name: str) -> None:
        """Raises NotSubscribed."""
        if self.types is not None and type_name not in self.types:
            raise NotSubscribed(
                f"documents of type {type_name} are not held here, only "
                f"{', '.join(sorted(self.types))}; open the replica with {type_name} in subscribe"
            )

    def check(self, document: str) -> None:
        """Raises NotSubscribed unless the document is held here."""
        self.check_type(document.partition("/")[0])
        shard = shard_of(document, self.total)
        if not self.holds(shard):
            raise NotSubscribed(
                f"{document} lives in shard {shard}, which is not held here; open the replica with "
                f"{shard} in subscribe, or without any shard"
            )
