"""Map: keys with children of one declared type; children created at the same time merge.

Rules. A child's entries lie under the path of its key, which says their type; a key is present
while anything does, a presence marker for an empty child included. Removing a key removes all that
its remover had seen there, at any depth. Concurrent writes under one key merge as the child's type
says; what is written under a key while it is removed stays, and the key with it. The
observed-remove map of Almeida, Shoker, Baquero: "Delta State Replicated Data Types" (2018), nested
as in Kleppmann, Beresford: "A Conflict-Free Replicated JSON Datatype" (2017).
"""

from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from typing import Any, ClassVar, Generic, TypeVar, overload

from crdt.access import Access
from crdt.codec import decode_stored
from crdt.errors import SchemaError
from crdt.paths import TypeCode, child_path
from crdt.structure import piece_end
from crdt.types.expect import printed, refuse
from crdt.types.field import Child, Declaration, Editor, Handle
from crdt.types.register import Register
from crdt.types.rules import PRESENCE
from crdt.types.set import Set

K = TypeVar("K")
V = TypeVar("V")
W = TypeVar("W")
C = TypeVar("C", bound=Child[Any, Any], covariant=True)

_KEY_TYPES = (str, int, bytes)
_CONTAINERS = frozenset({TypeCode.SET, TypeCode.MAP, TypeCode.FEED})


class MapEditor(Editor, Generic[K, C]):
    """The children of one Map field, live; used like a dict.

    `editor[key]` gives what the child's type reads as: the value of a Register, Maximum or Minimum
    (KeyError if there is none), the number of a Counter (0), a Flag (False), the values of a
    MultiValue (none), or the editor of a Set, Feed or Map, which creates the child with the first
    thing written to it. A key is present while anything
    lives under it. `del` removes all that this replica has seen there; what others write at the
    same time stays. Iteration is in the order of the keys' canonical encoding, over the keys
    present when it began.
    """

    __slots__ = ("_field",)

    def __init__(self, field: "Map[K, C]", access: Access, document: str, path: bytes) -> None:
        super().__init__(access, document, path)
        self._field = field

    def __repr__(self) -> str:
        return printed(self._field.plain(self._access, self._document, self._path))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, MapEditor | Mapping):
            return dict(self.items()) == dict(other.items())
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __getitem__(self: "MapEditor[K, Child[V, Any]]", key: K) -> V:
        child, path = self._child(key)
        if not child.implicit and not self._access.entries(self._document, path):
            raise KeyError(key)
        value: V = child.view(self._access, self._document, path)
        return value

    def __setitem__(self: "MapEditor[K, Child[Any, W]]", key: K, value: W) -> None:
        child, path = self._child(key)
        child.assign(self._access, self._document, path, value)

    def __delitem__(self, key: K) -> None:
        if not self._remove(key):
            raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        return type(key) is self._field.key_type and self._present(key)

    def __iter__(self) -> Iterator[K]:
        return iter(self._keys())

    def __len__(self) -> int:
        return len(self._keys())

    def keys(self) -> KeysView[K]:
        """The keys present now, as a copy."""
        return dict.fromkeys(self._keys()).keys()

    def values(self: "MapEditor[K, Child[V, Any]]") -> ValuesView[V]:
        """What each present key reads as, in the order of keys."""
        return self._present_items().values()

    def items(self: "MapEditor[K, Child[V, Any]]") -> ItemsView[K, V]:
        """Present keys with what they read as."""
        return self._present_items().items()

    @overload
    def get(self: "MapEditor[K, Child[V, Any]]", key: K) -> V | None: ...
    @overload
    def get(self: "MapEditor[K, Child[V, Any]]", key: K, default: V) -> V: ...
    def get(self: "MapEditor[K, Child[V, Any]]", key: K, default: V | None = None) -> V | None:
        """What `key` reads as if it is present, else `default`."""
        return self[key] if self._present(key) else default

    def update(
        self: "MapEditor[K, Child[Any, W]]", values: Mapping[K, W] | Iterable[tuple[K, W]]
    ) -> None:
        """Assign every pair, as `editor[key] = value` does."""
        for key, value in list(values.items() if isinstance(values, Mapping) else values):
            self[key] = value

    def create(self, key: K) -> None:
        """Make the key present though its Set, Feed or Map is empty."""
        child, path = self._child(key)
        if child.code not in _CONTAINERS:
            raise SchemaError(
                f"{self._field.label}: only sets, feeds and maps can be created empty"
            )
        removal = self._access.removal(self._document, path)
        if removal is None:
            self._access.write(self._document, path, PRESENCE)

    def discard(self, key: K) -> None:
        """Remove the key if it is present."""
        self._remove(key)

    def clear(self) -> None:
        """Remove every key present here; one operation. In a Map the child goes with them."""
        removal = self._access.removal(self._document, self._path, prefix=True)
        if removal is not None:
            self._access.write(self._document, self._path, None, (removal,))

    def conflicts(self: "MapEditor[K, Register[V]]", key: K) -> list[V]:
        """Values of a Register child that lost against a concurrent write, the latest first."""
        child, path = self._child(key)
        if not isinstance(child, Register):
            raise SchemaError(f"{self._field.label}: only maps of Registers have conflicts")
        return child.conflicts(self._access, self._document, path)

    def _child(self, key: Any) -> tuple[Any, bytes]:
        field = self._field
        if type(key) is not field.key_type:
            refuse(field.label, f"keys of type {field.key_type.__name__}", key)
        child = field.child
        return child, child_path(self._path, key, child.code)

    def _present(self, key: Any) -> bool:
        _, path = self._child(key)
        return any(True for _ in self._access.under(self._document, path))

    def _remove(self, key: Any) -> bool:
        _, path = self._child(key)
        removal = self._access.removal(self._document, path, prefix=True)
        if removal is None:
            return False
        self._access.write(self._document, path, None, (removal,))
        return True

    def _keys(self) -> list[K]:
        return [key for key, _ in self._field.children(self._access, self._document, self._path)]

    def _present_items(self: "MapEditor[K, Child[V, Any]]") -> dict[K, V]:
        access, document, child = self._access, self._document, self._field.child
        found = self._field.children(access, document, self._path)
        return {key: child.view(access, document, path) for key, path in found}


class Map(Child[MapEditor[K, C], MapEditor[K, C]]):
    """An observed-remove map; `document.findings` gives its MapEditor.

    Keys are str, int or bytes; children Register, MultiValue, Maximum, Minimum, Counter, Flag, Set,
    Feed or Map. What must survive its removal (the history of a Text, the rows of a BoundedCounter,
    the markers of a remove-wins Set) cannot stand here.
    """

    code: ClassVar[TypeCode] = TypeCode.MAP
    cure = "assign its keys one by one, or use .update(…) and .clear()"

    def __init__(self, label: str, key_type: type, child: Child[Any, Any]) -> None:
        super().__init__(label)
        self.key_type = key_type
        self.child = child

    @classmethod
    def declare(cls, declaration: Declaration) -> "Map[Any, Any]":
        declaration.arguments_are(2, "Map[str, Register[str]], Map[str, Counter], …")
        declaration.options_are()
        key_type, inner = declaration.arguments
        if key_type not in _KEY_TYPES:
            raise SchemaError(f"{declaration.label}: keys are str, int or bytes, not {key_type!r}")
        child = declaration.build(inner, f"{declaration.label}[…]")
        if not isinstance(child, Child):
            raise SchemaError(
                f"{declaration.label}: a {type(child).__name__} cannot stand under a Map, declare "
                "it as a field of the document; Map takes Register, MultiValue, Maximum, Minimum, "
                "Counter, Flag, Set, Feed, Map"
            )
        if isinstance(child, Set) and child.markers is not None:
            raise SchemaError(
                f"{declaration.label}: a remove-wins Set cannot stand under a Map, which would "
                "remove its markers; declare it as a field of the document, or leave RemoveWins out"
            )
        return Map(declaration.label, key_type, child)

    @overload
    def __get__(self, instance: None, owner: type) -> "Map[K, C]": ...
    @overload
    def __get__(self, instance: Handle, owner: type) -> MapEditor[K, C]: ...
    def __get__(self, instance: Handle | None, owner: type) -> "Map[K, C] | MapEditor[K, C]":
        if instance is None:
            return self
        return MapEditor(self, instance._access, instance._id, self.path)

    def __set__(self, instance: Handle, value: MapEditor[K, C]) -> None:
        self.assign(instance._access, instance._id, self.path, value)

    def children(self, access: Access, document: str, path: bytes) -> list[tuple[Any, bytes]]:
        """Keys of the declared types with their children's paths, in the order of the keys'
        encoding.
        """
        start, code = len(path), int(self.child.code)
        found: set[bytes] = set()
        for each, _ in access.under(document, path):
            if len(each) > start:
                end = piece_end(each, start)
                if each[end] == code:
                    found.add(each[: end + 1])
        keyed = [(decode_stored(each[start:-1]), each) for each in sorted(found)]
        return [(key, each) for key, each in keyed if type(key) is self.key_type]

    def view(self, access: Access, document: str, path: bytes) -> MapEditor[K, C]:
        return MapEditor(self, access, document, path)

    def plain(self, access: Access, document: str, path: bytes) -> dict[Any, Any]:
        child = self.child
        return {
            key: child.plain(access, document, each)
            for key, each in self.children(access, document, path)
        }
