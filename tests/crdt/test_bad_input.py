"""Everything a caller can get wrong with a document: a precise error that names the cure, and
nothing has changed.
"""

import io
import math
from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple

import pytest

from crdt import (
    CallerError,
    Counter,
    Decided,
    Document,
    Feed,
    Flag,
    InvalidId,
    InvalidValue,
    Map,
    OutOfBounds,
    ReadOnly,
    Register,
    SchemaError,
    Set,
    Text,
    UnknownField,
)
from crdt.document import create_document, delete_document, document_id
from simulations.sites import Site


class Thing(Document):
    title: Register[str]
    any: Register[Any]
    number: Register[float]
    done: Flag
    effort: Counter
    labels: Set[Any]
    names: Map[str, Register[Any]]
    numbers: Map[int, Counter]
    log: Feed[Any]
    notes: Text
    state: Decided[Any]


def nested(depth: int) -> Any:
    value: Any = "inside"
    for _ in range(depth):
        value = [value]
    return value


def itself() -> Any:
    value: list[Any] = []
    value.append(value)
    return value


BAD_VALUES: list[tuple[str, Any, str]] = [
    ("an open file", io.StringIO("x"), "StringIO is not storable, use None, bool, int, float, str"),
    ("a file inside", {"a": [io.BytesIO()]}, r"at \.a\[0\]: BytesIO is not storable"),
    ("a set", {1, 2}, "set is not storable, use a list"),
    ("a class", Thing, "is not storable"),
    ("a naive datetime", datetime(2027, 1, 1), "naive datetime .* give it a time zone"),
    ("too deep", nested(100), "nested deeper than 32 levels .* flatten it"),
    ("within itself", itself(), "nested deeper than 32 levels"),
    ("too large a str", "x" * (1 << 20), "at most 1048576 are storable: split it"),
    ("too large a list", ["x" * 1000] * 2000, "at most 1048576 are storable: split it"),
    ("too large an int", 1 << (1 << 24), "at most 1048576 are storable: split it"),
    ("a lone surrogate", "a\ud800b", "lone surrogate at index 1, use text that UTF-8 can hold"),
    ("a surrogate in a key", {"\udfff": 1}, "lone surrogate at index 0"),
    ("a key that is no str", {"a": {1: 2}}, r"at \.a: key 1 is not a str, use str keys"),
]

PLACES: dict[str, Callable[[Thing, Any], object]] = {
    "register": lambda thing, value: setattr(thing, "any", value),
    "set": lambda thing, value: thing.labels.add(value),
    "map": lambda thing, value: thing.names.update({"a": value}),
    "feed": lambda thing, value: thing.log.append(value),
    "decided": lambda thing, value: thing.state.decide(9, value),
}


def filled(site: Site) -> bytes:
    with site.edit(Thing) as thing:
        thing.title = "title"
        thing.labels.add("a")
        thing.numbers[1] += 1
        thing.notes.append("text")
        thing.state.decide(5, "five")
    return site.shard.digest()


def refused(call: Callable[[Thing], object], error: type[Exception], message: str) -> None:
    """The call raises in an edit, after which the edit, and the shard, are as they were."""
    site = Site(1)
    before = filled(site)
    overlay = site.overlay()
    thing = Thing.bind(overlay, "Thing/1")
    inside = thing.snapshot()
    with pytest.raises(error, match=message) as caught:
        call(thing)
    assert isinstance(caught.value, CallerError)
    assert len(str(caught.value)) < 500
    assert (overlay.operations, overlay.texts) == ((), {})
    assert thing.snapshot() == inside
    assert site.commit(overlay) is None
    assert site.shard.digest() == before


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("value", "message"), [each[1:] for each in BAD_VALUES], ids=[each[0] for each in BAD_VALUES]
)
def test_values_that_cannot_be_stored(place: str, value: Any, message: str) -> None:
    refused(lambda thing: PLACES[place](thing, value), InvalidValue, message)


class Bad(NamedTuple):
    call: Callable[[Any], object]
    error: type[Exception]
    message: str


def assign(name: str, value: object) -> Callable[[Any], object]:
    return lambda thing: setattr(thing, name, value)


BAD_USES: dict[str, Bad] = {
    "a value of another type": Bad(
        assign("title", 3), InvalidValue, r"Thing\.title takes str, not int: 3"
    ),
    "a bool for a number": Bad(
        assign("number", True), InvalidValue, r"Thing\.number takes float, not bool: True"
    ),
    "a number for a flag": Bad(assign("done", 1), InvalidValue, r"Thing\.done takes bool"),
    "a fraction for a counter": Bad(
        assign("effort", 0.5), InvalidValue, r"Thing\.effort takes int, not float: 0\.5"
    ),
    "a set in place of a set": Bad(
        assign("labels", {"a"}), SchemaError, r"Thing\.labels cannot be assigned; use \.add"
    ),
    "a dict in place of a map": Bad(
        assign("names", {}), SchemaError, r"Thing\.names cannot be assigned; assign its keys"
    ),
    "a list in place of a feed": Bad(
        assign("log", []), SchemaError, r"Thing\.log cannot be assigned; use \.append"
    ),
    "a str in place of a text": Bad(
        assign("notes", "x"), SchemaError, r"Thing\.notes cannot be assigned; use \.append"
    ),
    "another field's editor": Bad(
        lambda thing: setattr(thing, "names", thing.numbers), SchemaError, "cannot be assigned"
    ),
    "a key of the wrong kind": Bad(
        lambda thing: thing.names[1],
        InvalidValue,
        r"Thing\.names takes keys of type str, not int: 1",
    ),
    "True for the key 1": Bad(
        lambda thing: thing.numbers.update({True: 1}),
        InvalidValue,
        r"Thing\.numbers takes keys of type int, not bool: True",
    ),
    "too long a key": Bad(
        lambda thing: thing.names.update({"k" * 2000: 1}),
        InvalidValue,
        "at most 1024 are storable: keep the large part in a value",
    ),
    "too long an element": Bad(
        lambda thing: thing.labels.add("e" * 2000), InvalidValue, "at most 1024 are storable"
    ),
    "a lone surrogate in a key": Bad(
        lambda thing: thing.names.update({"\ud800": 1}), InvalidValue, "lone surrogate"
    ),
    "a lone surrogate in a text": Bad(
        lambda thing: thing.notes.append("\ud800"),
        InvalidValue,
        "lone surrogate at 0, which no text takes",
    ),
    "bytes in a text": Bad(
        lambda thing: thing.notes.append(b"x"), InvalidValue, r"Thing\.notes takes str, not bytes"
    ),
    "a position outside a text": Bad(
        lambda thing: thing.notes.insert(99, "x"), OutOfBounds, "exceed a text of 4"
    ),
    "a text's negative position": Bad(
        lambda thing: thing.notes.delete(-1), OutOfBounds, "exceed a text of 4"
    ),
    "an epoch of 0": Bad(
        lambda thing: thing.state.decide(0, "x"), OutOfBounds, r"epochs are from 1 to .*, not 0"
    ),
    "an epoch that is no int": Bad(
        lambda thing: thing.state.decide("6", "x"), InvalidValue, "takes an int as epoch, not str"
    ),
    "a field that is not declared": Bad(
        assign("titel", "x"), UnknownField, r"Thing has no field 'titel'; did you mean 'title'\?"
    ),
    "reading what is not declared": Bad(
        lambda thing: thing.efort, UnknownField, r"no field 'efort'; did you mean 'effort'\?"
    ),
    "conflicts of what is not declared": Bad(
        lambda thing: thing.conflicts("lables"), UnknownField, r"did you mean 'labels'\?"
    ),
    "history of what is not declared": Bad(
        lambda thing: thing.history_of("x"), UnknownField, r"it declares title, any, number"
    ),
    "a method's name": Bad(assign("snapshot", 1), UnknownField, "no field 'snapshot'"),
}


@pytest.mark.parametrize("case", BAD_USES.values(), ids=BAD_USES)
def test_uses_that_the_declaration_does_not_allow(case: Bad) -> None:
    refused(case.call, case.error, case.message)


def test_nan_is_a_value() -> None:
    site = Site(1)
    with site.edit(Thing) as thing:
        thing.number = math.nan
        thing.labels.add(float("nan"))
        thing.labels.add(-math.nan)
    number = site.view(Thing).number
    assert number is not None
    assert math.isnan(number)
    assert len(site.view(Thing).labels) == 1


WRITES: dict[str, Callable[[Thing], object]] = {
    "assigning": assign("title", "x"),
    "deleting a field": lambda thing: delattr(thing, "title"),
    "a flag": assign("done", True),
    "counting": lambda thing: setattr(thing, "effort", thing.effort + 1),
    "adding": lambda thing: thing.labels.add("x"),
    "discarding": lambda thing: thing.labels.discard("a"),
    "clearing a set": lambda thing: thing.labels.clear(),
    "a map": lambda thing: thing.names.update({"a": 1}),
    "a key": lambda thing: thing.numbers.discard(1),
    "a feed": lambda thing: thing.log.append("x"),
    "a text": lambda thing: thing.notes.append("x"),
    "deciding": lambda thing: thing.state.decide(9, "x"),
    "deciding again": lambda thing: thing.state.decide(1, "x"),
    "creating": lambda thing: create_document(thing._access, Thing, "Thing/2"),
    "deleting": lambda thing: delete_document(thing._access, Thing, "Thing/1"),
    "deleting what is not there": lambda thing: delete_document(thing._access, Thing, "Thing/2"),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_view_and_an_edit_that_has_ended_take_no_writes(
    write: Callable[[Thing], object],
) -> None:
    site = Site(1)
    before = filled(site)
    with pytest.raises(ReadOnly, match=r"read-only view; write inside `with replica\.edit"):
        write(site.view(Thing))
    with site.edit(Thing) as ended:
        pass
    with pytest.raises(ReadOnly, match="the edit has ended; open a new one"):
        write(ended)
    assert site.shard.digest() == before


def test_an_edit_that_has_ended_is_not_read_either() -> None:
    site = Site(1)
    filled(site)
    with site.edit(Thing) as ended:
        labels, notes = ended.labels, ended.notes
    reads: list[Callable[[], object]] = [
        lambda: ended.title,
        ended.snapshot,
        ended.undeclared,
        lambda: ended.history_of("title"),
        lambda: len(labels),
        lambda: str(notes),
    ]
    for read in reads:
        with pytest.raises(ReadOnly, match="the edit has ended"):
            read()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "Thing/"),
        ("a\nb", "document id"),
        ("\x00", "document id"),
        ("a\x7f", "document id"),
        ("x" * 600, "a document id may have 512: shorten the name"),
        ("\ud800", "lone surrogate: use text that UTF-8 can hold"),
    ],
)
def test_names_that_no_document_can_have(name: str, message: str) -> None:
    site = Site(1)
    before = filled(site)
    with pytest.raises(InvalidId, match=message):
        document_id(Thing, name)
    overlay = site.overlay()
    for call in (create_document, delete_document):
        with pytest.raises(InvalidId, match=message):
            call(overlay, Thing, f"Thing/{name}")
    assert overlay.operations == ()
    assert site.shard.digest() == before
