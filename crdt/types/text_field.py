"""Text: collaborative text; concurrent edits merge character by character."""

from typing import ClassVar, overload

from crdt.access import Access
from crdt.errors import OutOfBounds
from crdt.paths import TypeCode
from crdt.types.expect import refuse
from crdt.types.field import Declaration, Editor, Field, Handle
from crdt.types.text import Delete, Insert


class TextEditor(Editor):
    """The content of one Text field, live. Positions count characters (code points), as in a str.

    Edits are positions in what this replica sees; where others edit at the same time, each edit
    stays with the characters it was made next to. Positions outside the text raise OutOfBounds.
    """

    __slots__ = ("_field",)

    def __init__(self, field: "Text", access: Access, document: str, path: bytes) -> None:
        super().__init__(access, document, path)
        self._field = field

    def __str__(self) -> str:
        return self._access.text(self._document, self._path)

    def __repr__(self) -> str:
        return f"Text({str(self)!r})"

    def __len__(self) -> int:
        return len(str(self))

    def __bool__(self) -> bool:
        return bool(str(self))

    def __getitem__(self, index: int | slice) -> str:
        return str(self)[index]

    def __contains__(self, part: str) -> bool:
        return part in str(self)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, TextEditor | str):
            return str(self) == str(other)
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __iadd__(self, text: str) -> "TextEditor":
        self.append(text)
        return self

    def append(self, text: str) -> None:
        """Insert at the end."""
        self.insert(len(self), text)

    def insert(self, index: int, text: str) -> None:
        """Insert before the character at `index`; `len(…)` is the end."""
        if type(text) is not str:
            refuse(self._field.label, "str", text)
        self._check(index, 0)
        self._access.edit_text(self._document, self._path, Insert(index, text))

    def delete(self, index: int, length: int = 1) -> None:
        """Delete `length` characters from `index` on."""
        self._check(index, length)
        self._access.edit_text(self._document, self._path, Delete(index, length))

    def replace(self, index: int, length: int, text: str) -> None:
        """Put `text` in place of the `length` characters from `index` on."""
        if type(text) is not str:
            refuse(self._field.label, "str", text)
        self.delete(index, length)
        self.insert(index, text)

    def clear(self) -> None:
        """Delete all the characters visible here; what others insert at the same time stays."""
        self.delete(0, len(self))

    def _check(self, index: int, length: int) -> None:
        if type(index) is not int or type(length) is not int:
            refuse(
                self._field.label, "ints as positions", index if type(index) is not int else length
            )
        size = len(self)
        if index < 0 or length < 0 or index + length > size:
            raise OutOfBounds(
                f"{self._field.label}: {length} characters from {index} on exceed a text of {size}"
            )


class Text(Field[TextEditor]):
    """A collaborative text; `document.notes` gives its TextEditor. Only at a document's root.

    Its history costs memory for ever, about as much as was ever typed: short values that are
    overwritten belong into a Register.
    """

    code: ClassVar[TypeCode] = TypeCode.TEXT
    cure = "use .append(…), .insert(…), .delete(…) or .replace(…)"

    @classmethod
    def declare(cls, declaration: Declaration) -> "Text":
        declaration.arguments_are(0, "Text")
        declaration.options_are()
        return Text(declaration.label)

    @overload
    def __get__(self, instance: None, owner: type) -> "Text": ...
    @overload
    def __get__(self, instance: Handle, owner: type) -> TextEditor: ...
    def __get__(self, instance: Handle | None, owner: type) -> "Text | TextEditor":
        if instance is None:
            return self
        return TextEditor(self, instance._access, instance._id, self.path)

    def __set__(self, instance: Handle, value: TextEditor) -> None:
        self.assign(instance._access, instance._id, self.path, value)

    def view(self, access: Access, document: str, path: bytes) -> TextEditor:
        return TextEditor(self, access, document, path)

    def plain(self, access: Access, document: str, path: bytes) -> str:
        return access.text(document, path)
