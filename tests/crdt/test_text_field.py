"""Text through a document: like a str that others edit too."""

from typing import Any

import pytest

from crdt import (
    Cursor,
    Document,
    EditMisuse,
    InvalidValue,
    OutOfBounds,
    ReadOnly,
    Register,
    SchemaError,
    Text,
)
from crdt.types.formats import MAX_JSON_BYTES, MAX_KEY_BYTES
from crdt.types.text import TextState
from crdt.types.yrs_state import MAX_INSERTED_BYTES
from simulations.sites import Site, exchange


class Page(Document):
    title: Register[str]
    body: Text
    notes: Text


def test_behaves_like_a_str_that_can_be_edited() -> None:
    site = Site(1)
    assert site.view(Page).body == ""
    assert not site.view(Page).body
    with site.edit(Page) as page:
        page.body.append("hello")
        page.body.insert(0, "→")
        page.body += " wörld 𝄞!"
        assert str(page.body) == "→hello wörld 𝄞!"
        page.body.replace(1, 5, "HELLO")
        page.body.delete(0)
        page.body.delete(len(page.body) - 1, 1)
        assert page.body == "HELLO wörld 𝄞"
    body = site.view(Page).body
    assert str(body) == "HELLO wörld 𝄞"
    assert len(body) == 13
    assert body[0] == "H"
    assert body[-1] == "𝄞"
    assert body[6:11] == "wörld"
    assert "wör" in body
    assert repr(body) == "Text('HELLO wörld 𝄞')"
    assert site.operations() == 1
    with site.edit(Page) as page:
        page.body.clear()
    assert site.view(Page).body == ""
    assert not site.shard.exists("Page/1")


def test_concurrent_edits_both_stay() -> None:
    first, second = Site(1), Site(2)
    with first.edit(Page) as page:
        page.body.append("the end")
    exchange(first, second)
    with first.edit(Page) as page:
        page.body.insert(4, "very ")
        page.notes.append("first")
        page.title = "t"
    with second.edit(Page) as page:
        page.body.append(" of it")
    exchange(first, second)
    assert str(first.view(Page).body) == str(second.view(Page).body) == "the very end of it"
    assert second.view(Page).notes == "first"


def test_edits_travel_as_operations_too() -> None:
    first, second = Site(1), Site(2)
    for word in ("a", "b", "c"):
        with first.edit(Page) as page:
            page.body.append(word)
            page.notes.insert(0, word)
    first.send(second)
    assert second.view(Page).snapshot() == {"title": None, "body": "abc", "notes": "cba"}
    assert second.shard.digest() == first.shard.digest()


def test_an_edit_that_raises_leaves_the_text_alone() -> None:
    site = Site(1)
    with site.edit(Page) as page:
        page.body.append("kept")

    def fail(page: Page) -> None:
        page.body.append(" lost")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), site.edit(Page) as page:
        fail(page)
    assert site.view(Page).body == "kept"
    assert site.operations() == 1


def test_too_much_in_one_edit_changes_neither_text_nor_fields() -> None:
    site, other = Site(1), Site(2)
    with site.edit(Page) as page:
        page.body.append("body")
        page.notes.append("notes")
    for big, small in (("body", "notes"), ("notes", "body")):
        overlay = site.overlay()
        page = Page.bind(overlay, "Page/1")
        page.title = "lost"
        getattr(page, small).append("lost")
        getattr(page, big).append("x" * (MAX_INSERTED_BYTES + 1))
        with pytest.raises(OutOfBounds, match="split it"):
            site.commit(overlay)
        assert site.view(Page).snapshot() == {"title": None, "body": "body", "notes": "notes"}
    with site.edit(Page) as page:
        page.body.append("!")
        page.notes.append("!")
    site.send(other)
    assert other.view(Page).notes == "notes!"
    assert other.shard.digest() == site.shard.digest()


def test_refusals() -> None:
    site = Site(1)
    with site.edit(Page) as page:
        page.body.append("abc")
    with site.edit(Page) as page:
        for index, length in ((-1, 1), (0, -1), (0, 4), (4, 0), (3, 1)):
            with pytest.raises(OutOfBounds, match=r"Page\.body"):
                page.body.delete(index, length)
        with pytest.raises(OutOfBounds):
            page.body.insert(4, "x")
        with pytest.raises(InvalidValue, match=r"Page\.body takes str, not int: 3"):
            page.body.append(3)  # type: ignore[arg-type]
        with pytest.raises(InvalidValue, match="ints as positions"):
            page.body.delete(True)
        with pytest.raises(InvalidValue, match="surrogates"):
            page.body.append("\ud800")
        with pytest.raises(SchemaError, match=r"Page\.body cannot be assigned; use \.append"):
            page.body = "x"  # type: ignore[assignment]
        page.body.append("")
        page.body.delete(1, 0)
    assert site.operations() == 1
    with pytest.raises(ReadOnly):
        site.view(Page).body.append("x")


def test_formats_show_in_spans_only() -> None:
    first, second = Site(1), Site(2)
    with first.edit(Page) as page:
        page.body.append("so bold a word")
        plain = first.shard.document_digest("Page/1")
        page.body.format(3, 7, bold=True)
        assert page.body.spans() == [("so ", {}), ("bold", {"bold": True}), (" a word", {})]
        page.body.delete(0, 1)
        page.body.spans()[1][1]["bold"] = 7
        assert page.body.spans() == [("o ", {}), ("bold", {"bold": True}), (" a word", {})]
        assert page.body == "o bold a word"
        assert page.notes.spans() == []
    exchange(first, second)
    assert plain != second.shard.document_digest("Page/1")
    with first.edit(Page) as page:
        page.body.format(0, 13, bold=None, size=3)
    with second.edit(Page) as page:
        page.body.format(2, 6, color="réd")
        page.body.insert(2, "very ")
    exchange(first, second)
    for site in (first, second):
        view = site.view(Page)
        assert view.snapshot()["body"] == "o very bold a word"
        assert view.body.spans() == [
            ("o very ", {"size": 3}),
            ("bold", {"color": "réd", "size": 3}),
            (" a word", {"size": 3}),
        ]


def test_formats_count_in_the_digest() -> None:
    sites = [Site(1), Site(1), Site(1)]
    for site in sites:
        with site.edit(Page) as page:
            page.body.append("word")
    for site, value in zip(sites, (True, 1, None), strict=True):
        with site.edit(Page) as page:
            page.body.format(0, 4, bold=value)
    assert len({site.shard.digest() for site in sites}) == 3
    with sites[0].edit(Page) as page:
        page.body.format(0, 4, bold=None)
    assert sites[0].shard.digest() == sites[2].shard.digest()


def test_formats_that_cannot_be_stored_are_refused() -> None:
    site = Site(1)
    with site.edit(Page) as page:
        page.body.append("abc")
    before = site.shard.digest()
    with site.edit(Page) as page:
        for start, stop in ((-1, 1), (0, 4), (2, 1), (4, 4)):
            with pytest.raises(OutOfBounds, match=r"Page\.body"):
                page.body.format(start, stop, bold=True)
        refused: list[tuple[dict[str, Any], str]] = [
            ({}, "name the attributes"),
            ({"size": 1.5}, "bool, int, str or None .* not float for size"),
            ({"size": 2**53}, r"beyond 2\*\*53 - 1.* use str"),
            ({"size": [1]}, "not list for size"),
            ({"size": b"x"}, "not bytes for size"),
            ({"": 1}, "attribute names take 1 to"),
            ({"k" * (MAX_KEY_BYTES + 1): 1}, "attribute names take 1 to"),
            ({"k": "x" * (MAX_JSON_BYTES - 1)}, "keep it in a Map"),
            ({"k": "\ud800"}, "lone surrogate"),
            ({"\ud800": 1}, "lone surrogate"),
        ]
        for attributes, reason in refused:
            with pytest.raises(InvalidValue, match=reason):
                page.body.format(0, 3, **attributes)
        page.body.format(1, 1, bold=True)
    assert (site.operations(), site.shard.digest()) == (1, before)
    with pytest.raises(ReadOnly):
        site.view(Page).body.format(0, 3, bold=True)
    longest: dict[str, Any] = {"k" * MAX_KEY_BYTES: "x" * (MAX_JSON_BYTES - 2), "n": 1 - 2**53}
    with site.edit(Page) as page:
        page.body.format(0, 3, **longest)
    other = Site(2)
    site.send(other)
    assert other.view(Page).body.spans() == [("abc", longest)]


def test_a_replacement_is_made_whole_or_not() -> None:
    site = Site(1)
    with site.edit(Page) as page:
        page.body.append("abc")
        with pytest.raises(InvalidValue, match="lone surrogate"):
            page.body.replace(0, 2, "\udc00")
        assert page.body == "abc"
        page.body.replace(1, 1, "é")
    assert site.view(Page).body == "aéc"


def test_a_cursor_lasts_and_maps_through_an_open_edit() -> None:
    first, second = Site(1), Site(2)
    with first.edit(Page) as page:
        page.body.append("ab😀cd")
        with pytest.raises(EditMisuse, match="before writing, or from a view afterwards"):
            page.body.cursor(1)
    exchange(first, second)
    body = first.view(Page).body
    after, behind = body.cursor(3), body.cursor(3, before=True)
    end, start = body.cursor(5), body.cursor(0, before=True)
    with second.edit(Page) as page:
        page.body.insert(3, "xy")
        assert (page.body.position(after), page.body.position(behind)) == (5, 3)
        page.body.delete(1, 3)
        page.body.format(0, 2, bold=True)
        assert (page.body.position(after), page.body.position(behind)) == (2, 1)
        page.body.insert(0, "😀")
    exchange(first, second)
    assert body == "😀aycd"
    assert [body.position(each) for each in (after, behind, end, start)] == [3, 2, 5, 0]
    for bad in (-1, 6):
        with pytest.raises(OutOfBounds, match=r"Page\.body"):
            body.cursor(bad)
    with pytest.raises(InvalidValue, match="another field"):
        first.view(Page).notes.position(after)
    assert first.view(Page).notes.position(first.view(Page).notes.cursor(0)) == 0
    with pytest.raises(InvalidValue, match=r"Page\.body takes a Cursor, not bytes"):
        body.position(bytes(after))  # type: ignore[arg-type]
    assert Cursor.decode(bytes(after)) == after


def test_a_join_copies_and_parses_only_what_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Site(1), Site(2)
    for name in ("1", "2", "3"):
        with first.edit(Page, name) as page:
            page.body.append(name)
    exchange(first, second)
    with first.edit(Page, "2") as page:
        page.body.append("!")
    merged: list[str] = []
    merge = TextState.merge

    def counted(self: TextState, data: bytes) -> bool:
        merged.append(self.value())
        return merge(self, data)

    monkeypatch.setattr(TextState, "merge", counted)
    assert second.shard.join(first.shard.snapshot()) == {"Page/2"}
    assert merged == ["2"]
    assert second.shard.join(first.shard.snapshot()) == set()
    assert len(merged) == 1


def test_a_snapshot_encodes_only_what_changed() -> None:
    site = Site(1)
    for name in ("1", "2"):
        with site.edit(Page, name) as page:
            page.body.append("x")
    path = Page.body.path
    before = site.shard.snapshot().texts
    with site.edit(Page, "1") as page:
        page.body.append("y")
    after = site.shard.snapshot().texts
    assert after["Page/2"][path] is before["Page/2"][path]
    assert after["Page/1"][path] != before["Page/1"][path]
