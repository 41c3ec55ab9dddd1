"""What mypy --strict says to users of the API: nothing about right code, the exact error about
wrong code.
"""

from pathlib import Path

from mypy import api

RIGHT = """
from datetime import datetime
from typing import Annotated, Any, assert_type

from crdt import (
    AtLeast, BoundedCounter, Check, Convert, Counter, Decided, Default, Document, Feed, Flag,
    Formerly, Map, Maximum, Minimum, MultiValue, Register, RemoveWins, Sequence, Set, Text, Wire,
)
from crdt.plain import Written


class Base(Document, on_delete="gone"):
    pass


class Task(Document):
    title: Register[str]
    due: Register[datetime | None]
    done: Flag
    effort: Counter
    labels: Set[str]
    findings: Map[str, Register[dict[str, Any]]]
    votes: Map[str, Counter]
    deep: Map[str, Map[int, Set[str]]]
    logs: Map[str, Feed[str]]
    log: Feed[str]
    notes: Text
    state: Decided[str]
    old: Annotated[Register[int], Wire("older"), Default(0)]
    percent: Annotated[Register[int], Check(lambda value: 0 <= value <= 100, "0 to 100")]
    inside: Register[list[Annotated[int, Check(bool, "not 0")]]]
    size: Annotated[Register[int], Convert(str, int)]
    names: Annotated[Register[list[str]], Formerly(Set[str], "labels", list)]
    scores: Map[str, Annotated[Register[int], Check(bool, "not 0"), Convert(str, int)]]
    owner: MultiValue[str]
    best: Maximum[int]
    first: Minimum[datetime]
    budget: Annotated[BoundedCounter, AtLeast(10)]
    banned: Annotated[Set[str], RemoveWins()]
    steps: Annotated[Sequence[str], Check(bool, "not empty")]
    owners: Map[str, MultiValue[str]]
    bests: Map[str, Map[int, Maximum[float]]]

    def validate(self) -> None:
        if self.percent is not None and self.title is None:
            raise ValueError("a percentage of nothing")


def use(task: Task) -> None:
    task.title = "Audit"
    assert_type(task.title, str | None)
    del task.title
    task.due = None
    task.done = True
    assert_type(task.done, bool)
    task.effort += 3
    task.effort = 1
    assert_type(task.effort, int)
    task.labels.add("security")
    task.labels |= {"a", "b"}
    labels: list[str] = sorted(task.labels)
    task.findings["a"] = {"found": labels}
    assert_type(task.findings["a"], dict[str, Any])
    assert_type(task.findings.get("a"), dict[str, Any] | None)
    assert_type(dict(task.votes.items()), dict[str, int])
    assert_type(task.findings.conflicts("a"), list[dict[str, Any]])
    task.votes["x"] += 1
    task.votes.update({"y": 3})
    task.deep["a"][1].add("x")
    task.deep["a"][1] |= {"y"}
    task.logs["a"].append("line")
    del task.deep["a"]
    for key in task.votes:
        assert_type(key, str)
    task.log.append("line")
    assert_type(task.log[-1], str)
    assert_type(task.log[1:], list[str])
    task.notes.append("text")
    task.notes += "more"
    assert_type(str(task.notes), str)
    assert_type(task.state.decide(1, "go"), bool)
    assert_type(task.state.value, str | None)
    task.old = 3
    task.percent = 3
    assert_type(task.percent, int | None)
    task.size = 3
    assert_type(task.size, int | None)
    task.names = ["a"]
    assert_type(task.names, list[str] | None)
    task.scores["a"] = 3
    assert_type(task.scores["a"], int)
    task.owner = "me"
    assert_type(task.owner, tuple[str, ...])
    del task.owner
    task.best = 3
    assert_type(task.best, int | None)
    task.first = datetime.now()
    assert_type(task.first, datetime | None)
    task.budget.grant(3)
    task.budget.spend(1)
    assert_type(task.budget.available, int)
    task.banned.discard("x")
    task.steps.append("x")
    task.steps += ["y"]
    task.steps[0] = "z"
    task.steps.move(0, 1)
    del task.steps[1]
    assert_type(task.steps[0], str)
    assert_type(task.steps[:1], list[str])
    assert_type(task.banned.forget_removed(), int)
    task.owners["a"] = "me"
    task.owners.update({"b": "you"})
    assert_type(task.owners["a"], tuple[str, ...])
    assert_type(task.owners.get("a", ()), tuple[str, ...])
    task.bests["a"][1] = 3
    assert_type(task.bests["a"][1], float)
    assert_type(task.snapshot(), dict[str, Any])
    assert_type(task.undeclared(), dict[str, Any])
    assert_type(task.history_of("title"), list[Written])
    assert_type(task.history_of("title")[0].stamp, int | None)
    assert_type(Task.title, Register[str])
"""

WRONG = """
from typing import Annotated
from crdt import BoundedCounter, Check, Counter, Decided, Document, Feed, Flag, Map, Register, Set
from crdt import Convert, Maximum, MultiValue, Sequence, Text


class Task(Document):
    title: Register[str]
    done: Flag
    effort: Counter
    labels: Set[str]
    votes: Map[str, Counter]
    names: Map[str, Register[str]]
    log: Feed[str]
    notes: Text
    state: Decided[str]
    bad: Map[str, Text]
    owner: MultiValue[str]
    best: Maximum[int]
    listed: Maximum[list[int]]
    budget: BoundedCounter
    checked: Annotated[Register[int], Check(bool, "not 0")]
    size: Annotated[Register[int], Convert(str, int)]
    steps: Sequence[str]


class Other(Document, on_delete="never"):
    pass


def use(task: Task) -> None:
    task.title = 3
    task.title = None
    task.titel = "x"
    print(task.titel)
    task.done = "yes"
    task.effort = 1.5
    task.effort += "x"
    task.labels.add(3)
    task.labels = {"x"}
    task.votes["a"] += "x"
    task.votes[1] += 1
    task.names["a"] = 3
    task.names = {}
    task.log.append(3)
    task.log[0] = "x"
    task.notes.append(3)
    task.notes = "x"
    task.state.decide("1", "go")
    task.state.value = "go"
    task.id = "x"
    length: int = len(task.title)
    task.owner = 3
    task.owner = ("a", "b")
    task.best = "x"
    task.best += 1
    task.budget = 3
    task.budget.spend("x")
    task.budget.value = 3
    task.size = "x"
    task.checked = "x"
    task.history_of(3)
    task.validate = None
    task.steps.append(3)
    task.steps[0] = 3
    task.steps = ["x"]


class More(Document):
    owners: Map[str, MultiValue[str]]
    bests: Map[str, Maximum[int]]


def more(more: More) -> None:
    more.owners["a"] = ("a", "b")
    more.bests["a"] = "x"
"""

EXPECTED = """
17: error: Type argument "Text" of "Map" must be a subtype of "Child[Any, Any]"  [type-var]
20: error: Type argument "list[int]" of "Maximum" must be a subtype of "int | float | datetime | str | bytes"  [type-var]
27: error: Argument "on_delete" to "__init_subclass__" of "Document" has incompatible type "Literal['never']"; expected "Literal['merge', 'gone'] | None"  [arg-type]
32: error: Incompatible types in assignment (expression has type "int", variable has type "str")  [assignment]
33: error: Incompatible types in assignment (expression has type "None", variable has type "str")  [assignment]
34: error: "Task" has no attribute "titel"; maybe "title"?  [attr-defined]
35: error: "Task" has no attribute "titel"; maybe "title"?  [attr-defined]
36: error: Incompatible types in assignment (expression has type "str", variable has type "bool")  [assignment]
37: error: Incompatible types in assignment (expression has type "float", variable has type "int")  [assignment]
38: error: Unsupported operand types for + ("int" and "str")  [operator]
39: error: Argument 1 to "add" of "SetEditor" has incompatible type "int"; expected "str"  [arg-type]
40: error: Incompatible types in assignment (expression has type "set[str]", variable has type "SetEditor[str]")  [assignment]
41: error: Unsupported operand types for + ("int" and "str")  [operator]
42: error: Invalid index type "int" for "MapEditor[str, Counter]"; expected type "str"  [index]
43: error: Incompatible types in assignment (expression has type "int", target has type "str")  [assignment]
44: error: Incompatible types in assignment (expression has type "dict[Never, Never]", variable has type "MapEditor[str, Register[str]]")  [assignment]
45: error: Argument 1 to "append" of "FeedEditor" has incompatible type "int"; expected "str"  [arg-type]
46: error: Unsupported target for indexed assignment ("FeedEditor[str]")  [index]
47: error: Argument 1 to "append" of "TextEditor" has incompatible type "int"; expected "str"  [arg-type]
48: error: Incompatible types in assignment (expression has type "str", variable has type "TextEditor")  [assignment]
49: error: Argument 1 to "decide" of "DecidedEditor" has incompatible type "str"; expected "int"  [arg-type]
50: error: Property "value" defined in "DecidedEditor" is read-only  [misc]
51: error: Property "id" defined in "Document" is read-only  [misc]
52: error: Argument 1 to "len" has incompatible type "str | None"; expected "Sized"  [arg-type]
53: error: Incompatible types in assignment (expression has type "int", variable has type "str")  [assignment]
54: error: Incompatible types in assignment (expression has type "tuple[str, str]", variable has type "str")  [assignment]
55: error: Incompatible types in assignment (expression has type "str", variable has type "int")  [assignment]
56: error: Unsupported operand types for + ("None" and "int")  [operator]
57: error: Incompatible types in assignment (expression has type "int", variable has type "BoundedEditor")  [assignment]
58: error: Argument 1 to "spend" of "BoundedEditor" has incompatible type "str"; expected "int"  [arg-type]
59: error: Property "value" defined in "BoundedEditor" is read-only  [misc]
60: error: Incompatible types in assignment (expression has type "str", variable has type "int")  [assignment]
61: error: Incompatible types in assignment (expression has type "str", variable has type "int")  [assignment]
62: error: Argument 1 to "history_of" of "Document" has incompatible type "int"; expected "str"  [arg-type]
63: error: Cannot assign to a method  [method-assign]
63: error: Incompatible types in assignment (expression has type "None", variable has type "Callable[[], None]")  [assignment]
64: error: Argument 1 to "append" of "SequenceEditor" has incompatible type "int"; expected "str"  [arg-type]
65: error: No overload variant of "__setitem__" of "SequenceEditor" matches argument types "int", "int"  [call-overload]
66: error: Incompatible types in assignment (expression has type "list[str]", variable has type "SequenceEditor[str]")  [assignment]
75: error: Incompatible types in assignment (expression has type "tuple[str, str]", target has type "str")  [assignment]
76: error: Incompatible types in assignment (expression has type "str", target has type "int")  [assignment]
"""  # noqa: E501 - lines as mypy writes them


def check(folder: Path, name: str, source: str) -> list[str]:
    """mypy's errors in the source as `line: error [code]`; not those in the library."""
    file = folder / f"{name}.py"
    file.write_text(source)
    options = ["--strict", "--no-error-summary", "--hide-error-context", "--no-pretty"]
    cache = str(folder / "cache")
    out, err, _ = api.run([*options, "--config-file", "", "--cache-dir", cache, str(file)])
    assert not err
    return [
        line.partition(f"{name}.py:")[2]
        for line in out.splitlines()
        if f"{name}.py:" in line and ": error:" in line
    ]


def test_mypy_sees_what_is_right_and_what_is_wrong(tmp_path: Path) -> None:
    assert check(tmp_path, "right", RIGHT) == []
    assert check(tmp_path, "wrong", WRONG) == EXPECTED.strip().splitlines()
