"""The log screen of `turbo top`, left at each moment."""

import asyncio
import os
from pathlib import Path
from typing import Any, cast

import pytest
from textual.app import App

from turbo.cli import run_log
from turbo.cli.live.log import LogScreen, _Tail
from turbo.client.async_client import AsyncClient
from turbo.client.models import UnknownTask


class Asked:
    """A client whose answer comes when the test says so."""

    def __init__(self) -> None:
        self.asked, self.answer = asyncio.Event(), asyncio.Event()

    async def database_id(self) -> str:
        return "d"

    async def run(self, task_id: str) -> Any:
        self.asked.set()
        await self.answer.wait()
        raise UnknownTask(task_id)


async def test_answer_to_a_screen_that_was_left_is_dropped(tmp_path: Path) -> None:
    app, client = App[None](), Asked()
    async with app.run_test() as pilot:  # raises what ended a worker of the app
        screen = LogScreen(cast(AsyncClient, client), "t", tmp_path)
        await app.push_screen(screen)
        await client.asked.wait()
        await screen.remove_children()
        client.answer.set()
        await pilot.pause()
        await app.workers.wait_for_complete()


# ── the file ────────────────────────────────────────────────────────────────────────────────────────────────────────


def reader(path: Path, start: int = 0) -> run_log.LogReader:
    return run_log.LogReader(path.open("rb"), start)


def whole(one: run_log.LogReader) -> bytes:
    return b"".join(iter(one.more, b""))


def test_reader_leaves_out_holes_and_follows_the_end(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"begin\n")
    one = reader(path)
    assert one.more() == b"begin\n"
    assert one.more() == b""
    os.truncate(path, 1 << 40)
    assert b"bytes without content are left out" in whole(one)
    with path.open("ab") as file:
        file.write(b"more\n")
    assert whole(one) == b"more\n"
    os.truncate(path, 3)
    assert one.more() == b"", "it was cut"


def test_reader_ends_with_a_log_that_is_none_of_turbos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_log, "MOST_BYTES", 300_000)
    path = tmp_path / "log"
    path.write_bytes(b"x" * 1_000_000)
    one = reader(path)
    assert whole(one) == b"x" * 300_000 + b"\n[turbo] the file is larger than a log of turbo's: the rest is not shown\n"
    assert one.more() == b""


def test_runs_of_nul_take_one_note_at_a_terminal() -> None:
    assert run_log.without_runs_of_nul("a\0b" + "\0" * 4096) == "a\0b[turbo: 4096 NUL characters]"


def test_top_shows_the_end_of_a_long_log(tmp_path: Path) -> None:
    path = tmp_path / "files" / "logs" / "t" / "1-1.log"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"first\n" + b"x" * 100 + b"\n")
    os.truncate(path, 1 << 40)
    with path.open("ab") as file:
        file.write(b"\nlast\n")
    tail = _Tail(path, path.parent)
    assert tail.more().endswith("last\n")
    assert tail.more() == ""
