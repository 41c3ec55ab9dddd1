"""Text through a document: like a str that others edit too."""

import pytest

from crdt import Document, InvalidValue, OutOfBounds, ReadOnly, Register, SchemaError, Text
from crdt.types.yrs_state import MAX_INSERTED_BYTES
from tests.crdt.sites import Site, exchange


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
