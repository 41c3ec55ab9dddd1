"""Map: children of every type, observed removal by prefix, concurrent creation merges."""

from typing import Any

import pytest

from crdt import (
    Counter,
    Document,
    Feed,
    Flag,
    InvalidValue,
    Map,
    ReadOnly,
    Register,
    SchemaError,
    Set,
)
from simulations.sites import Site, exchange


class Board(Document):
    findings: Map[str, Register[dict[str, Any]]]
    votes: Map[str, Counter]
    done: Map[int, Flag]
    tags: Map[bytes, Set[str]]
    logs: Map[str, Feed[str]]
    deep: Map[str, Map[int, Set[str]]]
    plain: Map[str, Register[int]]


def test_registers_behave_like_a_dict() -> None:
    site = Site(1)
    with site.edit(Board) as board:
        findings = board.findings
        with pytest.raises(KeyError):
            findings["a"]
        with pytest.raises(KeyError):
            del findings["a"]
        assert findings.get("a") is None
        assert findings.get("a", {"x": 0}) == {"x": 0}
        findings["b"] = {"n": 2}
        findings["a"] = {"n": 1}
        findings["a"] = {"n": 3}
        assert findings["a"] == {"n": 3}
        findings.update({"c": {"n": 4}, "d": {}})
        findings.update([("e", {})])
        del findings["c"]
        findings.discard("c")
        findings.discard("e")
    findings = site.view(Board).findings
    assert list(findings) == ["a", "b", "d"]
    assert list(findings.keys()) == ["a", "b", "d"]
    assert dict(findings.items()) == {"a": {"n": 3}, "b": {"n": 2}, "d": {}}
    assert list(findings.values()) == [{"n": 3}, {"n": 2}, {}]
    assert findings == {"a": {"n": 3}, "b": {"n": 2}, "d": {}}
    assert "a" in findings
    assert "c" not in findings
    assert 1 not in findings
    assert len(findings) == 3
    assert repr(findings) == "{'a': {'n': 3}, 'b': {'n': 2}, 'd': {}}"
    with site.edit(Board) as board:
        board.findings.clear()
        assert not dict(board.findings.items())
    assert site.shard.entry_count == 0


def test_children_of_every_type() -> None:
    site, other = Site(1), Site(2)
    with site.edit(Board) as board:
        board.votes["x"] += 1
        board.votes["x"] += 2
        assert board.votes["never"] == 0
        board.done[7] = True
        assert board.done[8] is False
        board.tags[b"k"].add("t")
        board.tags[b"k"] |= {"u"}
        board.logs["l"].append("one")
        board.logs["l"] += ["two"]
        board.deep["a"][1].add("z")
        board.deep["a"][2] |= {"y", "x"}
        board.deep["b"][1].add("w")
    site.send(other)
    assert other.view(Board).snapshot() == {
        "findings": {},
        "votes": {"x": 3},
        "done": {7: True},
        "tags": {b"k": ["t", "u"]},
        "logs": {"l": ["one", "two"]},
        "deep": {"a": {1: ["z"], 2: ["x", "y"]}, "b": {1: ["w"]}},
        "plain": {},
    }
    with other.edit(Board) as board:
        del board.deep["a"][1]
        del board.deep["b"]
        del board.logs["l"]
    exchange(site, other)
    assert site.view(Board).deep == {"a": {2: {"x", "y"}}}
    assert len(site.view(Board).logs) == 0


def test_concurrently_created_children_merge() -> None:
    first, second = Site(1), Site(2)
    with first.edit(Board) as board:
        board.deep["a"][1].add("one")
        board.votes["x"] += 1
    with second.edit(Board) as board:
        board.deep["a"][1].add("two")
        board.votes["x"] += 1
    exchange(first, second)
    assert list(first.view(Board).deep["a"][1]) == ["one", "two"]
    assert second.view(Board).votes["x"] == 2


def test_removal_takes_what_was_seen_and_no_more() -> None:
    writer, remover = Site(1), Site(2)
    with writer.edit(Board) as board:
        board.deep["a"][1].add("seen")
        board.plain["k"] = 1
        board.plain["gone"] = 1
    exchange(writer, remover)
    with writer.edit(Board) as board:
        board.deep["a"][1].add("new")
        board.plain["k"] = 2
    with remover.edit(Board) as board:
        del board.deep["a"]
        board.plain.clear()
    exchange(writer, remover)
    assert remover.view(Board).deep == {"a": {1: {"new"}}}
    assert remover.view(Board).plain == {"k": 2}


def test_keys_that_begin_alike_are_not_mixed_up() -> None:
    site = Site(1)
    with site.edit(Board) as board:
        for key in ("a", "ab", "a\x01", "", "b"):
            board.votes[key] += 1
        del board.votes["a"]
    assert set(site.view(Board).votes) == {"ab", "a\x01", "", "b"}


def test_an_empty_container_can_be_created() -> None:
    site = Site(1)
    with site.edit(Board) as board:
        board.tags.create(b"k")
        board.tags.create(b"k")
        board.logs.create("l")
        board.deep.create("d")
        board.deep["e"].create(1)
        assert len(board.logs["l"]) == 0
        with pytest.raises(SchemaError, match="created empty"):
            board.votes.create("v")
    assert site.operations() == 4
    view = site.view(Board)
    assert view.snapshot()["tags"] == {b"k": []}
    assert view.snapshot()["logs"] == {"l": []}
    assert view.snapshot()["deep"] == {"d": {}, "e": {1: []}}
    with site.edit(Board) as board:
        board.logs["l"].append("x")
        board.tags[b"k"].clear()
        del board.deep["d"]
    assert list(site.view(Board).logs["l"]) == ["x"]
    assert site.view(Board).tags == {}


def test_conflicts_of_a_key() -> None:
    first, second = Site(1), Site(2)
    with first.edit(Board) as board:
        board.plain["k"] = 1
    with second.edit(Board) as board:
        board.plain["k"] = 2
    exchange(first, second)
    view = first.view(Board)
    assert sorted([view.plain["k"], *view.plain.conflicts("k")]) == [1, 2]
    with pytest.raises(SchemaError, match="only maps of Registers"):
        view.votes.conflicts("k")  # type: ignore[misc]


def test_refusals() -> None:
    site = Site(1)
    with site.edit(Board) as board:
        with pytest.raises(
            InvalidValue, match=r"Board\.findings takes keys of type str, not int: 1"
        ):
            board.findings[1] = {}  # type: ignore[index]
        with pytest.raises(InvalidValue, match=r"keys of type int, not bool"):
            board.done[True] = True
        with pytest.raises(InvalidValue, match=r"Board\.plain\[…\] takes int, not str: 'x'"):
            board.plain["a"] = "x"  # type: ignore[assignment]
        with pytest.raises(SchemaError, match=r"Board\.plain cannot be assigned; assign its keys"):
            board.plain = {"a": 1}  # type: ignore[assignment]
        with pytest.raises(SchemaError, match=r"Board\.tags\[…\] cannot be assigned; use \.add"):
            board.tags[b"a"] = {"x"}  # type: ignore[assignment]
    assert site.operations() == 0
    view = site.view(Board)
    with pytest.raises(ReadOnly):
        view.plain["a"] = 1
    with pytest.raises(ReadOnly):
        view.votes["a"] += 1
    with pytest.raises(ReadOnly):
        view.plain.clear()
    with pytest.raises(ReadOnly):
        view.plain.discard("a")
