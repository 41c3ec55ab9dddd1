"""Counter: a number everybody may add to at the same time without losing anyone's part."""

from typing import Any, ClassVar, overload

from crdt.access import Access
from crdt.codec import decode_stored, encode
from crdt.paths import TypeCode
from crdt.types.expect import refuse
from crdt.types.field import Child, Declaration, Handle


class Counter(Child[int]):
    """A counter: reads as int, `+=` and `-=` add, assignment adds the difference to what is read.

    State is one running total per session; each change is a new total that replaces the session's
    last one, so concurrent changes add up. Removed (with a Map's child, or the document) at the
    same time as a session changed it: that session's whole total comes back, not only the last
    change.
    """

    code: ClassVar[TypeCode] = TypeCode.COUNTER

    @classmethod
    def declare(cls, declaration: Declaration) -> "Counter":
        declaration.arguments_are(0, "Counter")
        declaration.options_are()
        return Counter(declaration.label)

    @overload
    def __get__(self, instance: None, owner: type) -> "Counter": ...
    @overload
    def __get__(self, instance: Handle, owner: type) -> int: ...
    def __get__(self, instance: Handle | None, owner: type) -> "Counter | int":
        if instance is None:
            return self
        return self.view(instance._access, instance._id, self.path)

    def __set__(self, instance: Handle, value: int) -> None:
        self.assign(instance._access, instance._id, self.path, value)

    def view(self, access: Access, document: str, path: bytes) -> int:
        return sum(decode_stored(payload) for _, _, payload in access.entries(document, path))

    def plain(self, access: Access, document: str, path: bytes) -> int:
        return self.view(access, document, path)

    def assign(self, access: Access, document: str, path: bytes, value: Any) -> None:
        if type(value) is not int:
            refuse(self.label, "int", value)
        total = own = 0
        for session, _, payload in access.entries(document, path):
            part: int = decode_stored(payload)
            total += part
            if session == access.session:
                own += part
        removal = access.removal(document, path, own=True)
        if value == total:
            return
        payload = encode(own + value - total)
        access.write(document, path, payload, () if removal is None else (removal,))
