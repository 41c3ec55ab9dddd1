"""What each type costs: on the wire, in a snapshot, in memory, and in time.

Types that hold one value are measured with that value, again and again in one document, or once in
each of many; types that hold many things by one thing more. Values are strings of ten characters,
or small numbers. Nothing is journaled, signed or sent.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Annotated, Any, Final

import psutil

from benchmarks.harness import Figure, Run
from crdt import (
    BoundedCounter,
    Counter,
    Decided,
    Document,
    Feed,
    Flag,
    Keep,
    Map,
    Maximum,
    MultiValue,
    Register,
    RemoveWins,
    Sequence,
    Set,
    Text,
)
from crdt.operation import encode_body
from crdt.snapshot import encode_snapshot
from simulations.sites import Site

OPERATIONS: Final = 100
"""In the body that is measured."""
HELD: Final = 1_000
"""Things in a field that is read and edited, or documents that have the field."""
KEPT: Final = 20_000
"""The same where memory is measured: many, because a process grows by whole pages."""
TIMED: Final = 500
"""Edits and reads that are timed."""
QUANTITIES: Final = {
    "in a frame": "bytes",
    "in a snapshot": "bytes",
    "in memory": "bytes",
    "edit": "µs",
    "read": "µs",
}


class Sample(Document):
    """A field of every type, and one that makes the document exist."""

    there: Flag
    register: Register[str]
    multivalue: MultiValue[str]
    flag: Flag
    counter: Counter
    bounded: BoundedCounter
    maximum: Maximum[int]
    elements: Set[str]
    refused: Annotated[Set[str], RemoveWins(1_000_000)]
    children: Map[str, Register[str]]
    feed: Feed[str]
    kept: Annotated[Feed[str], Keep(100)]
    sequence: Sequence[str]
    text: Text
    decided: Decided[str]


@dataclass(frozen=True, slots=True)
class Subject:
    """One type: how it is edited for the n-th time, how it is read, and whether one field holds
    many things (`many`) or each needs a document of its own.
    """

    edit: Callable[[Sample, int], object]
    read: Callable[[Sample], object]
    many: bool = False


def word(number: int) -> str:
    """Ten characters, another ten for another number."""
    return f"{number:010}"


def _assign(name: str, value: Callable[[int], Any] = word) -> Subject:
    return Subject(
        lambda sample, number: setattr(sample, name, value(number)),
        lambda sample: getattr(sample, name),
    )


SUBJECTS: Final[Mapping[str, Subject]] = {
    "Register": _assign("register"),
    "MultiValue": _assign("multivalue"),
    "Flag": _assign("flag", lambda number: number % 2 == 0),
    "Counter": _assign("counter", lambda number: number + 1),
    "BoundedCounter": Subject(
        lambda sample, number: sample.bounded.grant(1), lambda sample: sample.bounded.value
    ),
    "Maximum": _assign("maximum", lambda number: number),
    "Set": Subject(
        lambda sample, number: sample.elements.add(word(number)),
        lambda sample: word(0) in sample.elements,
        many=True,
    ),
    "Set, remove-wins": Subject(
        lambda sample, number: sample.refused.discard(word(number)),
        lambda sample: word(0) in sample.refused,
        many=True,
    ),
    "Map of Registers": Subject(
        lambda sample, number: sample.children.update({word(number): word(number)}),
        lambda sample: sample.children[word(0)],
        many=True,
    ),
    "Feed": Subject(
        lambda sample, number: sample.feed.append(word(number)),
        lambda sample: sample.feed[-1],
        many=True,
    ),
    "Feed, Keep(100)": Subject(
        lambda sample, number: sample.kept.append(word(number)),
        lambda sample: sample.kept[-1],
        many=True,
    ),
    "Sequence": Subject(
        lambda sample, number: sample.sequence.append(word(number)),
        lambda sample: sample.sequence[0],
        many=True,
    ),
    "Text": Subject(
        lambda sample, number: sample.text.append(word(number)),
        lambda sample: str(sample.text),
        many=True,
    ),
    "Decided": Subject(
        lambda sample, number: sample.decided.decide(number + 1, word(number)),
        lambda sample: sample.decided.value,
    ),
}
