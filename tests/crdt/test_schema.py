"""Declarations: what a document class may say, and that mistakes are refused when it is made."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, NewType, TypeVar

import pytest

from crdt import (
    BoundedCounter,
    Check,
    Convert,
    Counter,
    Decided,
    Default,
    DisableWins,
    Document,
    Feed,
    Flag,
    Formerly,
    Keep,
    Map,
    Register,
    SchemaError,
    Set,
    Text,
    Wire,
)
from crdt.document import schema_of
from crdt.paths import TypeCode, field_path
from crdt.schema import RESERVED
from simulations.sites import Site

UserId = NewType("UserId", str)
T = TypeVar("T")


class Base(Document):
    title: Register[str]
    KIND: ClassVar[str] = "kind"


class Mixin:
    author: Register[str]


class Derived(Base, Mixin):
    effort: Counter


class Aliased(Document):
    state: Annotated[Register[str], Wire("status"), Default("new"), "somebody else's metadata"]
    user: Register[UserId]
    sequence: Register[Sequence[int]]
    mapping: Register[Mapping[str, int]]
    wrapped: Register[Annotated[int, "metadata"]]


def test_fields_are_collected_in_order_with_their_paths() -> None:
    assert list(schema_of(Derived).fields) == ["title", "author", "effort"]
    assert schema_of(Derived).type_name == "Derived"
    assert schema_of(Base).field("title").path == field_path("title", TypeCode.REGISTER)
    assert Base.KIND == "kind"
    site = Site(1)
    with site.edit(Derived) as derived:
        derived.title = "t"
        derived.author = "a"  # type: ignore[assignment, unused-ignore]
        derived.effort += 1
    assert site.view(Derived).snapshot() == {"title": "t", "author": "a", "effort": 1}


def test_a_renamed_field_keeps_its_wire_name() -> None:
    assert schema_of(Aliased).field("state").path == field_path("status", TypeCode.REGISTER)
    site = Site(1)
    with site.edit(Aliased) as aliased:
        assert aliased.state == "new"
        aliased.state = "open"
        aliased.user = UserId("u")
        aliased.sequence = [1]
        aliased.mapping = {"a": 1}
        aliased.wrapped = 3
    assert site.view(Aliased).snapshot() == {
        "state": "open",
        "user": "u",
        "sequence": [1],
        "mapping": {"a": 1},
        "wrapped": 3,
    }


def test_a_class_inside_a_function_resolves_its_neighbours() -> None:
    Local = NewType("Local", int)

    class Inner(Document):
        value: "Register[Local]"

    assert list(schema_of(Inner).fields) == ["value"]


def declare(annotation: Any, attribute: str = "field", **arguments: Any) -> type[Document]:
    """A document class made at run time, as a mistaken declaration would."""
    namespace = {"__annotations__": {attribute: annotation}, "__module__": __name__}
    make: Callable[..., type[Document]] = type(Document)
    return make("Made", (Document,), namespace, **arguments)


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        (int, r"Made\.field: <class 'int'> is no field type; write Register\[…\]"),
        (list[int], "is no field type"),
        ("Missing[int]", "cannot be resolved"),
        (Register, r"Made\.field: declare it as Register\[str\]"),
        (Set, r"declare it as Set\[str\]"),
        (Feed, r"declare it as Feed\[str\]"),
        (Map, r"declare it as Map\[str, Register\[str\]\]"),
        (Decided, r"declare it as Decided\[str\]"),
        (Register[set[int]], "cannot be stored exactly"),
        (Register[tuple[int, int]], "cannot be stored exactly"),
        (Register[dict[int, str]], "cannot be stored exactly"),
        (Register[complex], "cannot be stored exactly"),
        ("Register[T]", "cannot be stored exactly"),
        (Map[float, Counter], "keys are str, int or bytes"),
        (Map[bool, Counter], "keys are str, int or bytes"),
        ("Map[str, int]", r"Made\.field\[…\]: <class 'int'> is no field type"),
        (
            "Map[str, Text]",
            "a Text cannot stand under a Map, declare it as a field of the document",
        ),
        ("Map[str, Decided[str]]", "a Decided cannot stand under a Map"),
        ("Map[str, Map[str, Text]]", r"Made\.field\[…\]: a Text cannot stand under a Map"),
        (Annotated[Counter, Default(1)], "Default is not for this type"),
        (Annotated[Counter, DisableWins()], "DisableWins is not for this type"),
        (Annotated[Register[str], Keep(3)], "Keep is not for this type"),
        (Annotated[Register[str], Default(1)], "its default 1 is no str"),
        (Annotated[Feed[str], Keep(0)], r"Keep\(0\) would keep nothing"),
        (Annotated[Flag, Wire("a"), Wire("b")], "Wire is given twice"),
        (Annotated[Flag, Wire("_a")], "wire name '_a' is reserved"),
        (Annotated[Flag, Wire("")], "1 to 128 bytes"),
        (Annotated[Flag, Wire("x" * 200)], "1 to 128 bytes"),
        (Map[str, Annotated[Counter, Wire("x")]], "Wire is for a document's fields"),
        (Annotated[Feed[str], Keep], r"Keep takes arguments: Keep\(…\)"),
        (Annotated[Register[int], Check], r"write Check\(lambda value"),
        (Annotated[Register[int], Check(3, "x")], r"write Check\(lambda value"),  # type: ignore[arg-type]
        (Annotated[Counter, Check(bool, "x")], "a Check is for types that hold values of one type"),
        (Annotated[Map[str, Counter], Check(bool, "x")], r"Map\[str, Annotated\[…, Check\(…\)\]\]"),
        (
            Annotated[Register[int], Check(bool, "true"), Default(0)],
            r"default 0 is no int \(true\)",
        ),
        (Annotated[Set[int], Convert(str, int)], "Convert is not for this type"),
        (Annotated[Register[int], Convert(set[int], sum)], "cannot be stored exactly"),
        (Annotated[Counter, Formerly(Register[int], "n", int)], "Formerly is not for this type"),
        (
            Annotated[Register[int], Formerly(Register[str], "n", int)],
            r"rename it with Wire\('n'\)",
        ),
        (Annotated[Register[int], Formerly(int, "n", int)], "is no field type"),
        (Annotated[Register[int], Formerly(Counter, "", int)], "1 to 128 bytes"),
        (Annotated[Register[int], Formerly(Counter, "_n", int)], "no field was ever stored under"),
        (
            Map[str, Annotated[Register[int], Formerly(Counter, "n", int)]],
            "Formerly is for a document's fields",
        ),
    ],
)
def test_mistakes_are_refused_when_the_class_is_made(annotation: object, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        declare(annotation)


def test_what_cannot_stand_under_a_map_stands_at_the_root() -> None:
    for annotation, code in ((Text, TypeCode.TEXT), (Decided[str], TypeCode.DECIDED)):
        assert schema_of(declare(annotation)).paths == {field_path("field", code)}


def test_maps_nest_only_as_deep_as_a_path_may() -> None:
    annotation: Any = Counter
    for _ in range(7):
        annotation = Map[str, annotation]
    declare(annotation)
    with pytest.raises(SchemaError, match="deeper than"):
        declare(Map[str, annotation])


def test_what_a_document_has_is_reserved() -> None:
    assert {name for name in dir(Document) if not name.startswith("_")} == RESERVED


@pytest.mark.parametrize("attribute", [*sorted(RESERVED), "_x", "__x"])
def test_reserved_names_are_refused(attribute: str) -> None:
    with pytest.raises(SchemaError, match="this name is reserved"):
        declare(Counter, attribute)


def test_what_deletion_means_is_declared_or_follows_from_the_fields() -> None:
    class Plain(Document):
        title: Register[str]

    class Gone(Document, on_delete="gone"):
        title: Register[str]

    class Heir(Gone):
        effort: Counter

    class Deciding(Plain):
        state: Decided[str]

    found = {each.__name__: schema_of(each).on_delete for each in (Plain, Gone, Heir, Deciding)}
    assert found == {"Plain": "merge", "Gone": "gone", "Heir": "gone", "Deciding": "gone"}
    assert schema_of(declare(BoundedCounter)).on_delete == "gone"
    assert schema_of(declare(Counter, on_delete="merge")).on_delete == "merge"
    assert schema_of(declare(Decided[str], on_delete="gone")).on_delete == "gone"
    with pytest.raises(SchemaError, match='on_delete is "merge" or "gone", not \'never\''):
        declare(Counter, on_delete="never")
    with pytest.raises(SchemaError, match=r"field is a Decided, which .* leave on_delete out"):
        declare(Decided[str], on_delete="merge")


def test_a_value_beside_the_annotation_is_refused() -> None:
    with pytest.raises(SchemaError, match=r"Bad\.title has a value; fields are only annotated"):

        class Bad(Document):
            title: Register[str] = "x"  # type: ignore[assignment]


def test_two_fields_cannot_share_a_wire_name() -> None:
    with pytest.raises(SchemaError, match="b and a have one wire name"):

        class Bad(Document):
            a: Counter
            b: Annotated[Counter, Wire("a")]


def test_type_names_and_class_arguments() -> None:
    assert schema_of(declare(Counter, name="other")).type_name == "other"
    for name in ("", "a/b", "1a", "_Private"):
        with pytest.raises(SchemaError, match="give one with name="):
            declare(Counter, name=name)
    with pytest.raises(TypeError):
        declare(Counter, unknown=1)
