"""Feed: everybody's items, one order, answers after what they answer."""

from typing import Annotated, Any

import pytest

from crdt import Document, Feed, InvalidValue, Keep, ReadOnly, SchemaError
from simulations.sites import START_MS, Site, exchange


class Channel(Document):
    log: Feed[str]
    events: Feed[dict[str, Any]]
    last: Annotated[Feed[int], Keep(3)]


def test_behaves_like_a_sequence_that_grows() -> None:
    site = Site(1)
    with site.edit(Channel) as channel:
        channel.log.append("a")
        channel.log.extend(["b", "c"])
        channel.log += ["d"]
        assert list(channel.log) == ["a", "b", "c", "d"]
    log = site.view(Channel).log
    assert len(log) == 4
    assert log[0] == "a"
    assert log[-1] == "d"
    assert log[1:3] == ["b", "c"]
    assert log == ["a", "b", "c", "d"]
    assert log != ["a"]
    assert "c" in log
    assert list(reversed(log)) == ["d", "c", "b", "a"]
    assert repr(log) == "['a', 'b', 'c', 'd']"
    with pytest.raises(IndexError):
        log[4]


def test_items_keep_their_writers_order_and_merge_by_stamp() -> None:
    first, second = Site(1), Site(2, START_MS + 1)
    with second.edit(Channel) as channel:
        channel.log.extend(["s1", "s2"])
    with first.edit(Channel) as channel:
        channel.log.extend(["f1", "f2"])
    exchange(first, second)
    assert list(first.view(Channel).log) == ["f1", "f2", "s1", "s2"]
    assert list(second.view(Channel).log) == ["f1", "f2", "s1", "s2"]


def test_an_answer_stands_after_what_it_answers_whatever_the_clocks_say() -> None:
    ahead, behind = Site(1, START_MS + 50_000_000), Site(2)
    with ahead.edit(Channel) as channel:
        channel.log.append("question")
    ahead.send(behind)
    with behind.edit(Channel) as channel:
        channel.log.append("answer")
        channel.log.append("more")
    exchange(ahead, behind)
    assert list(ahead.view(Channel).log) == ["question", "answer", "more"]


def test_appending_does_not_read_the_whole_feed() -> None:
    """Only each session's last item is looked at for the stamp, in the shard and in the edit."""
    site, other = Site(1), Site(2, START_MS + 50_000_000)
    with site.edit(Channel) as channel:
        channel.log.extend(str(number) for number in range(50))
    site.send(other)
    with other.edit(Channel) as channel:
        channel.log.append("future")
    exchange(site, other)
    overlay = site.overlay()
    channel = Channel.bind(overlay, "Channel/1")
    place = ("Channel/1", Channel.log.path)
    assert sorted(entry[:2] for entry in overlay.last_entries(*place)) == sorted(
        [(site.session, 50), (other.session, 1)]
    )
    channel.log.append("after")
    assert (site.session, 51) in [entry[:2] for entry in overlay.last_entries(*place)]
    site.commit(overlay)
    assert site.view(Channel).log[-2:] == ["future", "after"]


def test_keep_holds_the_newest() -> None:
    first, second = Site(1), Site(2)
    with first.edit(Channel) as channel:
        channel.last.extend(range(10))
        assert list(channel.last) == [7, 8, 9]
    assert first.shard.entry_count == 3
    first.send(second)
    second.wall_ms += 1000
    with second.edit(Channel) as channel:
        channel.last.extend([10, 11])
    with first.edit(Channel) as channel:
        channel.last.append(12)
    exchange(first, second)
    assert list(first.view(Channel).last) == [9, 12, 10, 11]
    with first.edit(Channel) as channel:
        channel.last.append(13)
    exchange(first, second)
    assert list(second.view(Channel).last) == [10, 11, 13]


def test_items_are_copies() -> None:
    site = Site(1)
    with site.edit(Channel) as channel:
        channel.events.append({"n": [1]})
    site.view(Channel).events[0]["n"].append(2)
    assert site.view(Channel).events[0] == {"n": [1]}


def test_refusals() -> None:
    site = Site(1)
    with site.edit(Channel) as channel:
        with pytest.raises(InvalidValue, match=r"Channel\.log takes items of type str, not int: 1"):
            channel.log.append(1)  # type: ignore[arg-type]
        with pytest.raises(SchemaError, match=r"Channel\.log cannot be assigned; use \.append"):
            channel.log = ["x"]  # type: ignore[assignment]
    assert site.operations() == 0
    with pytest.raises(ReadOnly):
        site.view(Channel).log.append("x")
    with pytest.raises(TypeError):
        hash(site.view(Channel).log)
