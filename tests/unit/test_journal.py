"""The journal of running programs: what a reader may find there after its writer was killed at any moment."""

from pathlib import Path

import pytest

from turbo.process.journal import Entry, Journal, new_cookie


def entry(cookie: str = "", **more: object) -> Entry:
    fields = {
        "cookie": cookie or new_cookie(),
        "pid": 4711,
        "start": 99,
        "boot": "a boot",
        "program": "/bin/x",
        "task_id": "ü 1",
    }
    return Entry(**(fields | more))  # type: ignore[arg-type]


def test_entry_stays_until_it_is_removed(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "not" / "there yet")
    first, second = entry(), entry(pid=4712)
    assert journal.entries() == []
    journal.add(first)
    journal.add(second)
    assert sorted(Journal(journal.directory).entries(), key=lambda e: e.pid) == [first, second]
    journal.remove(first.cookie)
    journal.remove(first.cookie)
    assert journal.entries() == [second]


def test_journal_is_private(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    journal.add(entry())
    (file,) = journal.directory.iterdir()
    assert (journal.directory.stat().st_mode & 0o777, file.stat().st_mode & 0o777) == (0o700, 0o600)


def test_writer_killed_midway_leaves_no_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its program has not been told to go, and ends at the end of its stdin."""

    def killed(_draft: Path, _path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("turbo.host.atomic_file.Path.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        Journal(tmp_path).add(entry())
    assert len(list(tmp_path.iterdir())) == 1
    assert Journal(tmp_path).entries() == []


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"pid": 1}', '{"cookie": "x", "pid": "y", "start": 1, "boot": ""}']
)
def test_unreadable_entry_still_gives_its_cookie_and_no_pid(content: str, tmp_path: Path) -> None:
    cookie = new_cookie()
    (tmp_path / f"{cookie}.json").write_text(content)
    (found,) = Journal(tmp_path).entries()
    assert (found.cookie, found.pid) == (cookie, 0)


def test_failed_write_leaves_no_draft(tmp_path: Path) -> None:
    cookie = new_cookie()
    (tmp_path / f"{cookie}.json").mkdir()
    with pytest.raises(OSError, match=r"directory"):
        Journal(tmp_path).add(entry(cookie))
    assert [path.name for path in tmp_path.iterdir()] == [f"{cookie}.json"]


def test_cookies_do_not_repeat() -> None:
    assert len({new_cookie() for _ in range(1000)}) == 1000
