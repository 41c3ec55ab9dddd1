"""The folder a run leaves behind: whole or not at all, and never somebody else's."""

from __future__ import annotations

from pathlib import Path

import pytest

from simulations.rehearsal.keep import KeepError, KeepFolder, is_demo


def test_a_finished_run_is_there_and_nothing_beside_it(tmp_path: Path) -> None:
    folder = KeepFolder.open(tmp_path / "demo")
    (folder.work / "report.md").write_text("done")
    assert not (tmp_path / "demo").exists()
    folder.complete()
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]
    assert is_demo(tmp_path / "demo")
    assert (tmp_path / "demo" / "report.md").read_text() == "done"


def test_an_interrupted_run_leaves_the_older_one_as_it_was(tmp_path: Path) -> None:
    first = KeepFolder.open(tmp_path / "demo")
    (first.work / "report.md").write_text("first")
    first.complete()
    second = KeepFolder.open(tmp_path / "demo")
    (second.work / "report.md").write_text("second")
    second.discard()
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]
    assert (tmp_path / "demo" / "report.md").read_text() == "first"


def test_a_finished_run_replaces_an_older_one(tmp_path: Path) -> None:
    for text in ("first", "second"):
        folder = KeepFolder.open(tmp_path / "demo")
        (folder.work / "report.md").write_text(text)
        folder.complete()
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]
    assert (tmp_path / "demo" / "report.md").read_text() == "second"


def test_what_is_not_a_demos_is_refused_and_untouched(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    with pytest.raises(KeepError, match="not a demo's; name another folder"):
        KeepFolder.open(mine)
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(KeepError, match="not a demo's"):
        KeepFolder.open(file)
    with pytest.raises(KeepError, match="there is no folder"):
        KeepFolder.open(tmp_path / "no" / "where")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "mine"]
    assert (mine / "thesis.txt").read_text() == "years of work"


def test_two_demos_dont_share_a_folder(tmp_path: Path) -> None:
    folder = KeepFolder.open(tmp_path / "demo")
    with pytest.raises(KeepError, match="another demo is using it"):
        KeepFolder.open(tmp_path / "demo")
    folder.discard()
    KeepFolder.open(tmp_path / "demo").discard()


def test_what_a_killed_run_left_is_cleared_away(tmp_path: Path) -> None:
    killed = KeepFolder.open(tmp_path / "demo")
    (killed.work / "half").write_text("half")
    killed._lock.release()  # as the kernel does when a process dies
    folder = KeepFolder.open(tmp_path / "demo")
    assert not (folder.work / "half").exists()
    folder.discard()
    assert list(tmp_path.iterdir()) == []


def test_a_stranger_in_the_place_of_the_work_folder_is_not_deleted(tmp_path: Path) -> None:
    stranger = tmp_path / ".demo.partial"
    stranger.mkdir()
    (stranger / "data").write_text("x")
    with pytest.raises(KeepError, match="in the way"):
        KeepFolder.open(tmp_path / "demo")
    assert (stranger / "data").exists()


def test_a_link_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    KeepFolder.open(tmp_path / "demo").complete()
    (tmp_path / "link").symlink_to("demo")
    (tmp_path / "dangling").symlink_to("nowhere")
    for name in ("link", "dangling"):
        with pytest.raises(KeepError, match="this is a link; name the folder itself"):
            KeepFolder.open(tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dangling", "demo", "link"]


@pytest.mark.parametrize("length", [250, 300])
def test_a_name_the_file_system_refuses_is_one_clear_error(tmp_path: Path, length: int) -> None:
    with pytest.raises(KeepError, match=r"File name too long.*; name another folder"):
        KeepFolder.open(tmp_path / ("a" * length))
    assert list(tmp_path.iterdir()) == []


def test_a_place_where_nothing_can_be_written_is_not_called_in_use() -> None:
    with pytest.raises(KeepError) as caught:
        KeepFolder.open(Path("/proc/mesh-demo"))  # refuses root too
    assert "another demo" not in str(caught.value)
    assert "/proc/.mesh-demo.lock; name another folder" in str(caught.value)


def test_a_failed_start_leaves_no_lock_behind(tmp_path: Path) -> None:
    name = "a" * 247  # its lock's name just fits, its work folder's does not
    with pytest.raises(KeepError):
        KeepFolder.open(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["demo", ".demo.old"])
def test_what_appeared_while_the_run_lasted_is_not_deleted(tmp_path: Path, name: str) -> None:
    folder = KeepFolder.open(tmp_path / "demo")
    (tmp_path / name).mkdir()
    (tmp_path / name / "thesis.txt").write_text("years of work")
    with pytest.raises(KeepError, match=r"not a demo's.*this one is in .*\.demo\.partial"):
        folder.complete()
    assert (tmp_path / name / "thesis.txt").exists()
    assert is_demo(folder.work)
    assert not (tmp_path / ".demo.lock").exists()
