"""What mypy --strict says to users of the API: nothing about right code, the exact error about
wrong code.
"""

from pathlib import Path

from mypy import api

RIGHT = """
from datetime import datetime
from typing import Annotated, Any, assert_type

from crdt import (
    Counter, Decided, Default, Document, Feed, Flag, Map, Register, Set, Text, Wire,
)


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
    assert_type(task.snapshot(), dict[str, Any])
    assert_type(Task.title, Register[str])
"""

WRONG = """
from crdt import Counter, Decided, Document, Feed, Flag, Map, Register, Set, Text


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
"""

EXPECTED = """
15: error: Type argument "Text" of "Map" must be a subtype of "Child[Any]"  [type-var]
19: error: Incompatible types in assignment (expression has type "int", variable has type "str")  [assignment]
20: error: Incompatible types in assignment (expression has type "None", variable has type "str")  [assignment]
21: error: "Task" has no attribute "titel"; maybe "title"?  [attr-defined]
22: error: "Task" has no attribute "titel"; maybe "title"?  [attr-defined]
23: error: Incompatible types in assignment (expression has type "str", variable has type "bool")  [assignment]
24: error: Incompatible types in assignment (expression has type "float", variable has type "int")  [assignment]
25: error: Unsupported operand types for + ("int" and "str")  [operator]
26: error: Argument 1 to "add" of "SetEditor" has incompatible type "int"; expected "str"  [arg-type]
27: error: Incompatible types in assignment (expression has type "set[str]", variable has type "SetEditor[str]")  [assignment]
28: error: Unsupported operand types for + ("int" and "str")  [operator]
29: error: Invalid index type "int" for "MapEditor[str, Counter]"; expected type "str"  [index]
30: error: Incompatible types in assignment (expression has type "int", target has type "str")  [assignment]
31: error: Incompatible types in assignment (expression has type "dict[Never, Never]", variable has type "MapEditor[str, Register[str]]")  [assignment]
32: error: Argument 1 to "append" of "FeedEditor" has incompatible type "int"; expected "str"  [arg-type]
33: error: Unsupported target for indexed assignment ("FeedEditor[str]")  [index]
34: error: Argument 1 to "append" of "TextEditor" has incompatible type "int"; expected "str"  [arg-type]
35: error: Incompatible types in assignment (expression has type "str", variable has type "TextEditor")  [assignment]
36: error: Argument 1 to "decide" of "DecidedEditor" has incompatible type "str"; expected "int"  [arg-type]
37: error: Property "value" defined in "DecidedEditor" is read-only  [misc]
38: error: Property "id" defined in "Document" is read-only  [misc]
39: error: Argument 1 to "len" has incompatible type "str | None"; expected "Sized"  [arg-type]
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
