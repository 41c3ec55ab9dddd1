"""Flag: yes or no, with a declared answer for concurrent writes of both.

Rules. A marker, ENABLED or DISABLED, per write; a write takes the place of all markers its writer
had seen. Concurrent writes: if they differ, the declared side is read, by default ENABLED. A
concurrent write survives a deletion. The enable-wins and disable-wins flags of Baquero, Almeida,
Cunha, Ferreira: "Composition in State-based Replicated Data Types" (2017).
"""

from typing import Any, ClassVar, overload

from crdt.access import Access
from crdt.paths import TypeCode
from crdt.types.expect import refuse
from crdt.types.field import Child, Declaration, Handle
from crdt.types.rules import DISABLED, ENABLED


class Flag(Child[bool, bool]):
    """A boolean: reads False until written. Enable wins over a concurrent disable.

    `Annotated[Flag, DisableWins()]` turns that round. Every write is a new assertion, also of the
    value the flag already has: that is what makes it win against a concurrent opposite.
    """

    code: ClassVar[TypeCode] = TypeCode.FLAG

    def __init__(self, label: str, winner: bool) -> None:
        super().__init__(label)
        self._winner = ENABLED if winner else DISABLED

    @classmethod
    def declare(cls, declaration: Declaration) -> "Flag":
        declaration.arguments_are(0, "Flag")
        declaration.options_are("disable_wins")
        return Flag(declaration.label, winner=declaration.options.disable_wins is None)

    @overload
    def __get__(self, instance: None, owner: type) -> "Flag": ...
    @overload
    def __get__(self, instance: Handle, owner: type) -> bool: ...
    def __get__(self, instance: Handle | None, owner: type) -> "Flag | bool":
        if instance is None:
            return self
        return self.view(instance._access, instance._id, self.path)

    def __set__(self, instance: Handle, value: bool) -> None:
        self.assign(instance._access, instance._id, self.path, value)

    def view(self, access: Access, document: str, path: bytes) -> bool:
        markers = [payload for _, _, payload in access.entries(document, path)]
        if self._winner in markers:
            return self._winner == ENABLED
        return ENABLED in markers

    def plain(self, access: Access, document: str, path: bytes) -> bool:
        return self.view(access, document, path)

    def assign(self, access: Access, document: str, path: bytes, value: Any) -> None:
        if type(value) is not bool:
            refuse(self.label, "bool", value)
        access.replace(document, path, ENABLED if value else DISABLED)
