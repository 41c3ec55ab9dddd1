"""Counter: a number everybody may add to at the same time without losing anyone's part.

Rules. One running total per session; a change is a new total in the place of the session's last
one, and the counter is the sum. Concurrent changes all count. Removed (with a Map's child, or the
document) while a session changes it: that session's whole total comes back, not only the last
change. After the PN-counter of Shapiro, Preguiça, Baquero, Zawirski: "A Comprehensive Study of
Convergent and Commutative Replicated Data Types" (2011), in the causal form of Almeida, Shoker,
Baquero: "Delta State Replicated Data Types" (2018).
"""

from typing import Any, ClassVar, overload

from crdt.access import Access
from crdt.codec import decode_stored, encode
from crdt.paths import TypeCode
from crdt.types.expect import refuse
from crdt.types.field import Child, Declaration, Handle, require_writable


class Counter(Child[int, int]):
    """A counter: reads as int, 0 until written; `+=` and `-=` add, assignment adds the difference
    to what is read. A change of nothing writes nothing.
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
        shared = False
        live = access.entries(document, path)
        for session, _, payload in live:
            part: int = decode_stored(payload)
            total += part
            if session == access.session:
                own += part
            else:
                shared = True
        if value == total:
            require_writable(access)
        elif not shared:
            access.replace(document, path, encode(value), live)
        else:
            removal = access.removal(document, path, own=True)
            payload = encode(own + value - total)
            access.write(document, path, payload, () if removal is None else (removal,))
