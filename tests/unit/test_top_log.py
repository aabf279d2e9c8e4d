"""The log screen of `turbo top`, left at each moment."""

import asyncio
from pathlib import Path
from typing import Any, cast

from textual.app import App

from turbo.cli.live.log import LogScreen
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
